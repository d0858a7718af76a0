"""Name and version of this package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Tool:
    """Which tool made something."""

    name: str
    version: str


def this_tool() -> Tool:
    """Return the name and version of this package."""
    return Tool("onnx-udfc", metadata.version("onnx-udfc"))
