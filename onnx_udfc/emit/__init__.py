"""Codes and grids into a file for a target; the only room that knows QDQ."""
