"""What a network is run on: the user's data, or made-up inputs brought to its scale."""

__all__ = [
    "choice", "classes", "feeds", "how_many", "image_files", "kinds", "network_inputs", "photographs", "real",
    "rollout", "sizes",
]  # fmt: skip
