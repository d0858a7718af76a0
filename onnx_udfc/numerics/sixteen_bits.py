"""Samples of a layer in two bytes each, where all layers' together would fill the memory in four.

A column is rounded to 65,534 steps between its least and its largest value, 0 among them: no value moves by more than
8 millionths of that range, where half-precision floats move the larger values by 250 millionths of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = slice | NDArray[np.int64]

_STEPS = 65534  # codes from -32767 to 32767
_LARGEST = np.finfo(np.float32).max / 2
_TOGETHER = 1024  # rows that are rounded at once


@dataclass(frozen=True)
class SixteenBits:
    """Samples (n, O) as codes.

    Attributes:
        codes: (n, O) int16.
        step: (O,) > 0, of a code.
        middle: (O,) value of code 0.
    """

    codes: NDArray[np.int16]
    step: Array
    middle: Array

    def __getitem__(self, rows: Rows) -> Array:
        """Those of the samples, float32."""
        values: Array = np.multiply(self.codes[rows], self.step, dtype=np.float32)
        values += self.middle
        return values


def in_sixteen_bits(samples: Array) -> Array | SixteenBits:
    """Samples (n, O) as codes; as they are where some are not finite, or so large that their ends would not be."""
    low, high = samples.min(0, initial=0), samples.max(0, initial=0)
    if not (np.maximum(-low, high) < _LARGEST).all():
        return samples
    steps, two = np.float32(_STEPS), np.float32(2)
    step, middle = high / steps - low / steps, low / two + high / two
    step[step < np.finfo(np.float32).tiny] = 1.0
    codes = np.empty(samples.shape, np.int16)
    for start in range(0, len(samples), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        codes[some] = np.rint((samples[some] - middle) / step)
    return SixteenBits(codes, step, middle)
