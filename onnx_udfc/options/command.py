"""The command line that repeats what a report describes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx_udfc.options.row import InMemory, Spec, specs
from onnx_udfc.options.table import Options

if TYPE_CHECKING:
    from onnx_udfc.options.command_tables import Judging


def command_line(options: Mapping[str, Any], source: str = "IN.onnx", out: str = "OUT.onnx") -> str:
    """Return the command for options as Options.to_dict gives them; defaults are left out."""
    default = Options().to_dict()
    words = ["onnx-udfc", source, out]
    for name, spec in specs(Options).items():
        value = options.get(name, default[name])
        if spec.row.printed and value != default[name] and value is not None:
            words += as_words(spec, value)
    return shlex.join(words)


def validate_line(asked: Judging, source: str, out: str) -> str:
    """Return the command of a comparison by its options; data that were given in memory are left out."""
    default, words = type(asked)(), ["onnx-udfc", "validate", source, out]
    for name, spec in specs(type(asked)).items():
        value = getattr(asked, name)
        if spec.row.printed and value != getattr(default, name) and not isinstance(value, InMemory):
            words += as_words(spec, value)
    return shlex.join(words)


def as_words(spec: Spec, value: Any) -> list[str]:
    """Return an option with a value as words of the command line; none for a flag that is off by default."""
    name = f"--{spec.flag}"
    match spec.kind:
        case "flag":
            return [name] if value else [f"--no-{spec.flag}"] if spec.default else []
        case "pairs":
            return [w for k, v in value.items() for w in (name, f"{k}={v}")]
        case "several":
            return [w for v in value for w in (name, str(v))]
        case "numbers":
            return [name, ",".join(_number(v) for v in value)]
        case "one":
            return [name, _number(value)]


def _number(value: Any) -> str:
    """Text that reads back as the same number; 1.0 as 1."""
    if value is None:
        return "none"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def default_text(spec: Spec) -> str:
    """What is done without the option, for help and docs; nothing for a flag that is off."""
    if spec.kind == "flag":
        return "on" if spec.default else ""
    if spec.default is None or spec.default in ((), {}):
        return spec.row.unset
    return as_words(spec, spec.default)[-1]
