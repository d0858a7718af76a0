"""The original and the compressed network side by side: what each layer must give, and refitting it."""

__all__ = [
    "absorb", "closed_forms", "equalize", "harm", "ranges", "recurrent", "reference", "refit", "repaired",
    "room", "sensitivity", "splitting", "unscaled",
]  # fmt: skip
