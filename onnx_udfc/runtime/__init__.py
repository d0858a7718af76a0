"""Runs graphs and single layers in onnxruntime, forward and backward, and measures them; decides nothing."""

__all__ = [
    "blame", "blas", "cluster", "crew", "device_memory", "gradients", "kernels", "latency", "layer_times",
    "machine", "profiles", "providers", "runs", "sessions", "walk", "windows", "written_layers",
]  # fmt: skip
