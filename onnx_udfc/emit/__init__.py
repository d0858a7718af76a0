"""Codes and grids into a file for a target; the only room that knows QDQ."""

__all__ = ["float16", "half_nodes", "notes", "placement", "short_names", "sites", "stamp", "targets", "writer"]
