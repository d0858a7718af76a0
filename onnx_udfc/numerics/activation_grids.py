"""Activations in 8 bits: one scale and zero point for a tensor, from samples of it.

A value x is written as the code clip(round(x / s) + z, qmin, qmax) and read back as (code − z)·s. The range
[lo, hi] always holds 0, so that padding and ReLU are exact. `whole_range` takes all of it; `search_range` clips by
least squares: over candidate ranges inside [min, max] it keeps the one with the least E[(f(x) − f(x'))²], f what
the only reader makes of the values: a hard swish does not care how well values below −3 are told apart.
The expectation is taken over a histogram of the samples, so the cost does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.products import slices

Floats = NDArray[np.float64]
Read = Callable[[Floats], Floats]
Kind = Literal["uint8", "int8"]

GRID: dict[Kind, tuple[int, int]] = {"uint8": (0, 255), "int8": (-127, 127)}
BINS = 2048
STEPS = 24
LOWEST_CLIP = 0.25  # least fraction of the full range that is tried
LOWEST_READ = 1 / STEPS  # where most of the range may be the same to the reader
MOST_SAMPLES = 1 << 18
FLAT = 1e-30  # a range below this is not worth clipping
_TOGETHER = 1 << 16  # values that are made float64 at once: few enough to stay in the cache


@dataclass(frozen=True)
class ActivationParams:
    """Affine grid of one tensor.

    Attributes:
        scale: > 0, exactly representable in float32.
        zero_point: the code of 0.0; 0 for int8, and for uint8 where no value is negative.
        dtype: type of the codes.
    """

    scale: float
    zero_point: int
    dtype: Kind = "uint8"

    def simulate(self, values: NDArray[np.floating]) -> Floats:
        """Return the values (any shape) as they are read back after quantization, float64."""
        return (self._codes(np.asarray(values, np.float64)) - self.zero_point) * self.scale

    def coded(self, values: NDArray[np.floating]) -> OnGrid:
        """The values (any shape) as codes, found some at a time: no copy of them in float64 is ever whole."""
        codes: NDArray[np.integer] = np.empty(values.shape, np.int8 if self.dtype == "int8" else np.uint8)
        flat, out = values.reshape(-1), codes.reshape(-1)
        for part in slices(flat.size, _TOGETHER):
            out[part] = self._codes(flat[part].astype(np.float64))
        return OnGrid(codes, self, values.dtype)

    def _codes(self, values: Floats) -> Floats:
        qmin, qmax = (-128, 127) if self.dtype == "int8" else GRID[self.dtype]
        codes: Floats = np.clip(np.rint(values / self.scale) + self.zero_point, qmin, qmax)
        return codes


@dataclass(frozen=True, eq=False)
class OnGrid:
    """Values that were quantized: in codes they take a quarter of what they take in float32.

    Attributes:
        codes: uint8 or int8, any shape.
        grid: of the codes.
        dtype: of the values that they stand for.
    """

    codes: NDArray[np.integer]
    grid: ActivationParams
    dtype: np.dtype[np.floating]

    @property
    def ndim(self) -> int:
        """Axes of the values."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """How many they are."""
        return self.codes.size

    def __len__(self) -> int:
        """Along the first axis."""
        return len(self.codes)

    def __getitem__(self, rows: slice | int | EllipsisType | NDArray[np.int64]) -> NDArray[np.floating]:
        """Values of some rows, as they are read back."""
        exact = np.float64 if self.dtype.itemsize > np.float32(0).itemsize else np.float32  # both are: 8 bits times 24
        values = np.subtract(self.codes[rows], self.grid.zero_point, dtype=exact)
        values *= exact(self.grid.scale)
        return np.asarray(values, self.dtype)


def as_they_are(values: Floats) -> Floats:
    """What most readers make of values: errors count as they are."""
    return values


def search_range(
    samples: NDArray[np.floating],
    dtype: Kind = "uint8",
    cap: float | None = None,
    headroom: float = 1.0,
    read: Read = as_they_are,
    *,
    beyond: bool = False,
) -> ActivationParams:
    """Grid with the least squared error on the samples.

    Args:
        samples: values of the tensor, any shape; values that are not finite are left out.
        dtype: "uint8", affine; or "int8", symmetric with zero point 0.
        cap: upper bound that the network itself clips to (6 for ReLU6): the range never exceeds it, or the runtime
            cannot absorb the Clip.
        headroom: factor on the best range, ≥ 1.
        read: what the only reader makes of the values, element by element.
        beyond: whether the range may exceed what the samples reach.

    Returns:
        The grid; for a tensor that is always 0 (or has no samples) scale 1, or what the cap allows.
    """
    values, low, high = _extent(samples, cap)
    if low == high:
        return _grid(0.0, 1.0, dtype, cap) if cap is not None else ActivationParams(1.0, 0, dtype)
    if high - low > FLAT:
        best = _best_range(*_histogram(values), low, high, dtype, read)
        wide = headroom * best[0], headroom * best[1]
        low, high = wide if beyond else (max(low, wide[0]), min(high, wide[1]))
        high = high if cap is None else min(high, cap)
    return _grid(low, high, dtype, cap)


def whole_range(
    samples: NDArray[np.floating], dtype: Kind = "uint8", cap: float | None = None, margin: float = 1.0
) -> ActivationParams:
    """Grid of `margin` times the whole range of the samples, not above `cap`; arguments as of `search_range`."""
    _, low, high = _extent(samples, cap)
    if low == high:
        return _grid(0.0, 1.0, dtype, cap) if cap is not None else ActivationParams(1.0, 0, dtype)
    return _grid(margin * low, margin * high if cap is None else min(margin * high, cap), dtype, cap)


def _extent(samples: NDArray[np.floating], cap: float | None) -> tuple[NDArray[np.floating], float, float]:
    """The finite samples, flat and in their own type, and their range with 0 in it."""
    values = np.asarray(samples).reshape(-1)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite(low + high):
        values = values[np.isfinite(values)]
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
    return values, low, high if cap is None else min(high, cap)


def _histogram(values: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Centres and counts of the occupied bins of the samples, thinned evenly where there are very many."""
    thinned = np.asarray(values[:: -(-values.size // MOST_SAMPLES)], np.float64)
    bounds = (min(float(thinned.min()), 0.0), max(float(thinned.max()), 0.0))  # with 0, never too narrow for the bins
    counts, edges = np.histogram(thinned, BINS, bounds)
    centres, used = (edges[:-1] + edges[1:]) / 2, counts > 0
    return centres[used], counts[used].astype(np.float64)


def _best_range(
    points: Floats, counts: Floats, low: float, high: float, dtype: Kind, read: Read
) -> tuple[float, float]:
    """Clip both ends in turn, each over factors of the full range, until they have seen each other once."""
    exact = read(points)

    def error(low: float, high: float) -> float:
        return float(counts @ np.square(read(_grid(low, high, dtype, None).simulate(points)) - exact))

    factors = np.linspace(1.0, LOWEST_CLIP if read is as_they_are else LOWEST_READ, STEPS)
    if dtype == "int8":
        bound = max(-low, high)
        best = factors[np.argmin([error(-f * bound, f * bound) for f in factors])]
        return -best * bound, best * bound
    lowest, highest = low, high
    for _ in range(2 if low < 0 < high else 1):
        if highest > 0:
            high = min(factors * highest, key=lambda end: error(low, end))
        if lowest < 0:
            low = min(factors * lowest, key=lambda end: error(end, high))
    return float(low), float(high)


def _grid(low: float, high: float, dtype: Kind, cap: float | None) -> ActivationParams:
    """The grid of a range low ≤ 0 ≤ high, low < high; its top does not exceed cap in float32 arithmetic."""
    qmin, qmax = GRID[dtype]
    span = max(-low, high) / qmax if dtype == "int8" else (high - low) / (qmax - qmin)
    scale = np.maximum(np.float32(span), np.finfo(np.float32).tiny)
    while cap is not None and scale * np.float32(qmax - qmin) > np.float32(cap):
        scale = np.nextafter(scale, np.float32(0.0))
    zero_point = 0 if dtype == "int8" else int(np.clip(np.rint(-low / float(scale)), qmin, qmax))
    return ActivationParams(float(scale), zero_point, dtype)
