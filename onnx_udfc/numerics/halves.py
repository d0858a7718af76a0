"""What 16-bit floats can hold: how large values are, and what is lost by rounding them.

A float16 has 11 bits, 65504 for its largest value and 2⁻²⁴ for its smallest; below 2⁻¹⁴ bits are lost, and whole
numbers above 2048 are no longer exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 65504.0
HEADROOM = 4.0  # other inputs may cause larger values than those that were seen
WHOLE = 2048.0  # whole numbers up to here are exact
LOST = 2.0**-9  # mean relative rounding error that tells that values are too small: 2⁻¹² where they are not
SMALL_CONSTANT = 2.0**-10  # of a constant's norm


@dataclass(frozen=True)
class Span:
    """The values that a tensor had.

    Attributes:
        largest: Size of the largest; infinite where one was not finite.
        whole: Whether all were whole numbers: positions, sizes, codes.
        lost: Mean relative rounding error of those that were not 0.
    """

    largest: float = 0.0
    whole: bool = True
    lost: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether float16 holds them, with room for larger ones."""
        exact = not self.whole or self.largest <= WHOLE
        return self.largest * HEADROOM <= LARGEST and exact

    @property
    def small(self) -> bool:
        """Whether many are so small that little of them is left."""
        return self.lost > LOST

    def joined(self, other: Span) -> Span:
        """The span of both."""
        return Span(max(self.largest, other.largest), self.whole and other.whole, max(self.lost, other.lost))


def span_of(values: NDArray[Any]) -> Span:
    """The span of an array of floats (any shape)."""
    flat = np.asarray(values, np.float32).reshape(-1)
    if not flat.size:
        return Span()
    largest = float(np.abs(flat).max())
    if not np.isfinite(largest):
        return Span(np.inf, False, 0.0)
    there = flat[flat != 0]
    with np.errstate(over="ignore"):
        rounded = there.astype(np.float16).astype(np.float32)
    lost = float(np.minimum(np.abs(rounded / there - 1), 1.0).mean()) if there.size else 0.0
    return Span(largest, bool((flat == np.rint(flat)).all()), lost)


def rounded_filters(weight: NDArray[Any]) -> NDArray[np.float16]:
    """Filters (o, i, *kernel) rounded; those of one channel so that each keeps its sum.

    What a filter gives on a constant is its sum. Where large taps of both signs meet an input that hardly moves, the
    rounding of them moves the output more than the input does; so the smallest tap, which is the finest, takes what is
    left. Of filters over many channels such errors are drowned by others.
    """
    wide = np.asarray(weight, np.float64).reshape(*weight.shape[:2], -1)
    half: NDArray[np.float16] = wide.astype(np.float16)
    if wide.shape[-1] > 1 == wide.shape[1]:
        smallest = np.abs(wide).argmin(-1)[..., None]
        left = (wide - half).sum(-1, keepdims=True)
        np.put_along_axis(half, smallest, (np.take_along_axis(half, smallest, -1) + left).astype(np.float16), -1)
    return half.reshape(weight.shape)


def holds(values: NDArray[Any]) -> bool:
    """Whether float16 holds constants, up to its rounding."""
    real = np.asarray(values, np.float32).reshape(-1)
    with np.errstate(over="ignore"):
        half = real.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        return False
    return bool(np.linalg.norm(half - real) <= SMALL_CONSTANT * np.linalg.norm(real))
