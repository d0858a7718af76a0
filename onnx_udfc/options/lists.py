"""Lists of values that a sweep combines: `0.1,0.3`, `0.1:0.7:0.1`, `8,6,4`, `none,8`, or lists of Python."""

from __future__ import annotations

import math
from typing import Any, Literal

from onnx_udfc.options.reading import read_value
from onnx_udfc.options.row import specs
from onnx_udfc.options.table import Options
from onnx_udfc.options.voice import LINE, OptionError

MOST_VALUES = 1000  # each is a file, and minutes of work


def read_ratios(value: Any) -> tuple[float, ...]:
    """Read `0.1,0.3` or `0.1:0.7:0.1` (first:last:step, the last included), or a list.

    Raises:
        OptionError: It is neither, or too long.
    """
    if isinstance(value, str) and ":" in value:
        return _each("prune", _steps(value))
    return _each("prune", _items(value))


def read_bits(value: Any) -> tuple[int | Literal["auto"], ...]:
    """Read `8,6,4`, `32` or `auto`, or a list.

    Raises:
        OptionError: A part is neither a width nor `auto`.
    """
    return _each("bits", _items(value))


def read_activations(value: Any) -> tuple[int | None, ...]:
    """Read `none,8`, or a list.

    Raises:
        OptionError: A part is neither `none` nor 8.
    """
    return _each("activations", _items(value))


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list) else [value]


def _each(name: str, items: list[Any]) -> tuple[Any, ...]:
    """Every item as the option itself reads it; one that stands twice is one."""
    if not 1 <= len(items) <= MOST_VALUES:
        raise OptionError(name, None, f"must be 1 to {MOST_VALUES} values with commas between")
    return tuple(dict.fromkeys(read_value(specs(Options)[name], item, LINE) for item in items))


def _steps(text: str) -> list[Any]:
    """The numbers of `first:last:step`."""
    try:
        first, last, step = (float(part) for part in text.split(":"))
        count = (last - first) / step + 1e-6
    except (ValueError, ZeroDivisionError):
        count, first, last, step = math.nan, 0.0, 0.0, 0.0
    if not (0 < step < math.inf and 0 <= count < math.inf):
        raise OptionError("prune", text, "must be first:last:step, e.g. 0.1:0.7:0.1")
    if count >= MOST_VALUES:
        raise OptionError("prune", text, f"these are more than {MOST_VALUES} values; take a larger step")
    return [round(first + i * step, 10) for i in range(int(count) + 1)]
