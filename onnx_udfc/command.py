"""The command line that repeats what a report describes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from onnx_udfc.options import Options

_SILENT = frozenset({"verbose", "debug", "threads"})  # they do not change the result


def command_line(options: Mapping[str, Any], source: str = "IN.onnx", out: str = "OUT.onnx") -> str:
    """Return the command for options as Options.to_dict gives them; defaults are left out."""
    default = Options().to_dict()
    words = ["onnx-udfc", source, out]
    for key, value in options.items():
        if key in _SILENT or key not in default or value == default[key] or value is None:
            continue
        words += _words("--" + key.replace("_", "-"), key, value)
    return shlex.join(words)


def _words(name: str, key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [name] if value else []
    if isinstance(value, Mapping):
        return [w for k, v in value.items() for w in (name, f"{k}={v}")]
    if key in ("skip", "require"):
        return [w for v in value for w in (name, str(v))]
    if isinstance(value, list | tuple):
        return [name, ",".join(f"{v:g}" for v in value)]
    return [name, f"{value:g}" if isinstance(value, float) else str(value)]
