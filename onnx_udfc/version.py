"""Name and version of this package."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata

PACKAGES = ("numpy", "onnx", "onnx-graphsurgeon")  # that the bytes of a result depend on


@dataclass(frozen=True)
class Tool:
    """Which tool made something."""

    name: str
    version: str


@cache
def this_tool() -> Tool:
    """Return the name and version of this package."""
    return Tool("onnx-udfc", metadata.version("onnx-udfc"))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version(), "onnx-udfc": this_tool().version}
    found |= {name: metadata.version(name) for name in PACKAGES}
    found["onnxruntime"] = import_module("onnxruntime").__version__  # installed by several names
    return found
