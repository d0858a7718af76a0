"""Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_udfc.api import compress, inspect, sweep, validate
    from onnx_udfc.errors import CheckError, GateError, UdfcError
    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.options import Options
    from onnx_udfc.pipeline import Result

    __version__: str

__all__ = [
    "CheckError", "GateError", "Options", "Report", "Result", "UdfcError", "__version__", "compress", "inspect",
    "sweep", "validate",
]  # fmt: skip

_ROOMS = {
    "api": ("compress", "inspect", "sweep", "validate"),
    "errors": ("CheckError", "GateError", "UdfcError"),
    "evaluate.report": ("Report",),
    "options": ("Options",),
    "pipeline": ("Result",),
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names}

# onnxruntime reads it when it is imported; without it a device id and a database of events go into the home folder
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class _Package(ModuleType):
    """The package; `sweep` is the function, and importing the module of that name does not replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _WHERE and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    """Import what is used only when it is used: the command line must start quickly."""
    if name == "__version__":
        from onnx_udfc.version import this_tool

        return this_tool().version
    if name in _WHERE:
        return getattr(importlib.import_module(f"onnx_udfc.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'onnx_udfc' has no attribute {name!r}")
