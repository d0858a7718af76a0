"""Runs graphs and single layers in onnxruntime, forward and backward, and measures them; decides nothing."""

__all__ = [
    "blame", "blas", "cluster", "crew", "device_memory", "fallbacks", "gradients", "kernels", "latency", "layer_times",
    "machine", "on_device", "providers", "runs", "sessions", "slowest", "walk", "windows", "written_layers",
]  # fmt: skip
