"""From the request to channel counts and bits."""

__all__ = [
    "asked", "average_bits", "counts_and_bits", "damage", "file_size", "filling", "finer", "first_layers", "plan",
    "unrepaired",
]  # fmt: skip
