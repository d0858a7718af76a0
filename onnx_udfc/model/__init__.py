"""The boundary between ONNX files and a graph with layers; writes what it reads without loss; nothing runs here."""

__all__ = [
    "coded", "counts", "export", "factored", "files", "foreign", "graph", "inference", "inventory", "layer_bytes",
    "layers", "lossless", "loudness", "named", "names", "network", "patterns", "protos", "quiet", "samples", "saving",
    "sources", "tied", "unseen", "values",
]  # fmt: skip
