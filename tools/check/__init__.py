"""Looks for faults: golden hashes, damaged and mutated files, any graph, signals, versions of what is depended on."""
