"""The settings of a sweep: every combination of ratios, bits and activations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from onnx_udfc.errors import RequestError
from onnx_udfc.options import Options

Bits = int | Literal["auto"]
MOST_SETTINGS = 1000  # each is a file, and minutes of work


@dataclass(frozen=True)
class Grid:
    """Values to combine; `names()` of a point are stable, so that a stopped sweep finds what it has done."""

    prune: tuple[float, ...] = (0.0,)
    bits: tuple[Bits, ...] = (32,)
    activations: tuple[int | None, ...] = (None,)

    def __len__(self) -> int:
        return len(self.prune) * len(self.bits) * len(self.activations)

    def points(self, options: Options) -> Iterator[tuple[str, Options]]:
        """Yield (name, checked options) for every combination that makes sense; activations need quantized weights.

        Raises:
            RequestError: A value cannot be served, or there are too many.
        """
        if len(self) > MOST_SETTINGS:
            raise RequestError(f"{len(self):,} settings: a sweep takes at most {MOST_SETTINGS:,}; give fewer values")
        seen: set[str] = set()
        for prune, bits, activations in itertools.product(self.prune, self.bits, self.activations):
            if activations is not None and bits == 32:
                continue
            point = replace(options, prune=prune, bits=bits, activations=activations)
            point.check()
            name = point_name(point)
            if name not in seen:  # the same value may be given twice
                seen.add(name)
                yield name, point


def point_name(options: Options) -> str:
    """Return a file name for a point, e.g. `prune0.5_bits4_act8`."""
    tail = "" if options.activations is None else f"_act{options.activations}"
    return f"prune{options.prune:.10g}_bits{options.bits}{tail}"


def parse_floats(text: str) -> tuple[float, ...]:
    """Read `0.1,0.3` or `0.1:0.7:0.1` (first:last:step, the last included).

    Raises:
        RequestError: It is neither.
    """
    try:
        if ":" not in text:
            return tuple(float(t) for t in text.split(","))
        first, last, step = (float(t) for t in text.split(":"))
        if not (0 < step < math.inf and 0 <= last - first < math.inf):
            raise ValueError("the step must be above 0 and the last not below the first")
        if (last - first) / step >= MOST_SETTINGS:
            raise ValueError(f"these are more than {MOST_SETTINGS:,} values; take a larger step")
        count = int((last - first) / step + 1e-6) + 1
        return tuple(round(first + i * step, 10) for i in range(count))
    except ValueError as error:
        raise RequestError(f"{text}: expected 0.1,0.3 or 0.1:0.7:0.1 ({error})") from error


def parse_bits(text: str) -> tuple[Bits, ...]:
    """Read `8,6,4`, `32` or `auto`.

    Raises:
        RequestError: A part is neither a whole number nor `auto`.
    """
    try:
        return tuple("auto" if t.strip() == "auto" else int(t) for t in text.split(","))
    except ValueError as error:
        raise RequestError(f"--bits {text}: expected whole numbers such as 8,6,4, or auto") from error


def parse_activations(text: str) -> tuple[int | None, ...]:
    """Read `none,8`.

    Raises:
        RequestError: A part is neither `none` nor a whole number.
    """
    try:
        return tuple(None if t.strip() == "none" else int(t) for t in text.split(","))
    except ValueError as error:
        raise RequestError(f"--activations {text}: expected none or 8") from error
