"""Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_udfc.compress import Result, compress
    from onnx_udfc.options import Options

__all__ = ["Options", "Result", "compress"]


def __getattr__(name: str) -> object:
    """Import the pipeline only when it is used: the command line must start quickly."""
    if name in ("Result", "compress"):
        from onnx_udfc import compress as pipeline

        return getattr(pipeline, name)
    if name == "Options":
        from onnx_udfc.options import Options

        return Options
    raise AttributeError(f"module 'onnx_udfc' has no attribute {name!r}")
