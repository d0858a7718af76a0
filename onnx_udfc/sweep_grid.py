"""The settings of a sweep: every combination of ratios, bits and activations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from onnx_udfc.options import CombinationError, Options

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
            CombinationError: Options do not go together, or there are too many settings.
        """
        if len(self) > MOST_SETTINGS:
            raise CombinationError(
                f"{len(self):,} settings: a sweep takes at most {MOST_SETTINGS:,}; give fewer values"
            )
        seen: set[str] = set()
        mixed = None in self.activations or any(bits != 32 for bits in self.bits)
        for prune, bits, activations in itertools.product(self.prune, self.bits, self.activations):
            if mixed and activations is not None and bits == 32:
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
