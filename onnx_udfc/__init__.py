"""Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_udfc.options import Options
    from onnx_udfc.pipeline import Result, compress

__all__ = ["Options", "Result", "compress"]

# onnxruntime reads it when it is imported; without it a device id and a database of events go into the home folder
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class _Package(ModuleType):
    """The package; its `compress` is the function, and importing the module of that name does not replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "compress" and isinstance(value, ModuleType):
            value = value.compress
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    """Import the pipeline only when it is used: the command line must start quickly."""
    if name == "Options":
        return importlib.import_module("onnx_udfc.options").Options
    if name in __all__:
        return getattr(importlib.import_module("onnx_udfc.pipeline"), name)
    raise AttributeError(f"module 'onnx_udfc' has no attribute {name!r}")
