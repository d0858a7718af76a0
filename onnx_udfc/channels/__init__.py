"""Which channels are one, which may go, and taking them out."""

__all__ = ["groups", "onward", "prune", "shapes"]
