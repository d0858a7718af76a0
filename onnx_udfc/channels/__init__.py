"""Which channels are one, which may go, and taking them out."""

__all__ = ["gates", "groups", "peaks", "prune", "shapes"]
