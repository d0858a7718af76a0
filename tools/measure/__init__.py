"""Prints the figures that the pages quote: accuracy, bytes, latency, cost, the worth of inputs and verdicts."""
