"""How two networks' outputs move with the input, in float64 sums that do not grow with the number of inputs.

An output is seen as (inputs, positions, columns); a column is a class, a channel or a coordinate. With ȳ the original's
mean over the inputs at each element, so that anchors, biases and backgrounds fall out,

    S_c = Σ (y − ȳ)²        how much column c of the original moves
    N_c = Σ (y − z)²        the error, its constant part included
    sqnr_c = 10·log10(S_c / N_c) dB,     r_c = Σ (y − ȳ)(z − z̄) / √(S_c · Σ (z − z̄)²)

so that each column counts in units of its own spread. A column moves if its spread is more than rounding beside its own
size; where none moves, nothing was measured. Where samples differ in shape, ȳ is the mean over all positions of a
column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.evaluate.parts import PartFidelity

Double = NDArray[np.float64]

ELEMENTS = 1 << 24  # of one sample: above it the mean is that of the columns
ROUNDING = {2: 4e-3, 4: 1e-5, 8: 1e-5}  # bytes of a float → spread, in sizes, that rounding alone makes

MAX_DB = 200.0


@dataclass
class _Sums:
    """Sums of y and z less a shift that is near the mean, so that nothing cancels.

    Attributes:
        shift: (positions, columns), or (1, columns) where positions share a mean.
        d: Σ (y − shift) of each element of `shift`.
        e: Σ (z − shift).
        dd, ee, de: (columns,) Σ of their squares and product.
        n: values summed into each element of `shift`.
    """

    shift: Double
    d: Double
    e: Double
    dd: Double
    ee: Double
    de: Double
    n: int = 0

    @classmethod
    def around(cls, shift: Double) -> _Sums:
        """No sums yet."""
        zeros = np.zeros(shift.shape[1])
        return cls(shift, np.zeros_like(shift), np.zeros_like(shift), zeros, zeros.copy(), zeros.copy())

    def add(self, y: Double, z: Double) -> None:
        """Take in (inputs, positions, columns), or (inputs · positions, 1, columns)."""
        d, e = y - self.shift, z - self.shift
        self.d += d.sum(0)
        self.e += e.sum(0)
        self.dd += np.einsum("npc,npc->c", d, d)
        self.ee += np.einsum("npc,npc->c", e, e)
        self.de += np.einsum("npc,npc->c", d, e)
        self.n += len(y)

    def centred(self) -> tuple[Double, Double, Double]:
        """S of y, S of z and their product, (columns,)."""
        n = max(1, self.n)
        yy = self.dd - (self.d**2).sum(0) / n
        zz = self.ee - (self.e**2).sum(0) / n
        return np.maximum(yy, 0), np.maximum(zz, 0), self.de - (self.d * self.e).sum(0) / n


@dataclass
class Movement:
    """Sums over batches for one part of an output; see the module's equations.

    Attributes:
        part: What it is: values, boxes or scores.
        rounding: Spread in sizes of a column that rounding alone makes.
        irregular: Whether the number of columns was not always the same; then nothing is measured.
    """

    part: str = "values"
    rounding: float = ROUNDING[4]
    irregular: bool = False
    inputs: int = 0
    elements: int = 0
    _elementwise: _Sums | None = None
    _columnwise: _Sums | None = None
    _fixed: bool = True
    _squares: Double = field(default_factory=lambda: np.zeros(0))
    _noise: Double = field(default_factory=lambda: np.zeros(0))

    def add(self, y: Double, z: Double) -> None:
        """Take in finite values (inputs, positions, columns) of both."""
        if not y.size:
            return
        if self._columnwise is None:
            self._start(y)
        assert self._columnwise is not None
        if y.shape[2] != len(self._squares):
            self.irregular = True
            return
        self._fixed = self._fixed and self._elementwise is not None and self._elementwise.shift.shape == y.shape[1:]
        if self._fixed:
            assert self._elementwise is not None
            self._elementwise.add(y, z)
        rows = -1, 1, y.shape[2]
        self._columnwise.add(y.reshape(rows), z.reshape(rows))
        self._squares += np.einsum("npc,npc->c", y, y)
        self._noise += np.einsum("npc,npc->c", y - z, y - z)
        self.inputs += len(y)
        self.elements += len(y) * y.shape[1]

    def _start(self, y: Double) -> None:
        columns = y.shape[2]
        self._squares, self._noise = np.zeros(columns), np.zeros(columns)
        self._columnwise = _Sums.around(y.reshape(-1, columns).mean(0)[None])
        if math.prod(y.shape[1:]) <= ELEMENTS:
            self._elementwise = _Sums.around(y.mean(0))

    def result(self) -> PartFidelity:
        """The figures of what was taken in; None where nothing moved."""
        if self.inputs < 2 or self.irregular:
            return PartFidelity(self.part)
        yy, zz, yz = self._centred()
        least = self.elements * (self.rounding * np.sqrt(self._squares / self.elements)) ** 2
        moving = yy > least
        if not moving.any():
            return PartFidelity(self.part)
        ratio = self._noise[moving] / yy[moving]
        cosines = _cosines(yy[moving], zz[moving], yz[moving], self._noise[moving])
        worst = int(ratio.argmax())
        return PartFidelity(
            part=self.part,
            moving=float(moving.mean()),
            sqnr_db=decibels(1.0, float(np.median(ratio))),
            worst_db=decibels(1.0, float(ratio[worst])),
            worst_column=int(np.flatnonzero(moving)[worst]),
            cosine=float(np.median(cosines)),
            worst_cosine=float(cosines.min()),
            still=bool((zz[moving] <= least[moving]).all()),
        )

    def plain_db(self) -> float | None:
        """Signal to noise without a mean taken off: for what does not move; None where nothing was taken in."""
        return decibels(float(self._squares.sum()), float(self._noise.sum())) if self.inputs else None

    def _centred(self) -> tuple[Double, Double, Double]:
        sums = self._elementwise if self._fixed else self._columnwise
        assert sums is not None
        return sums.centred()


def _cosines(yy: Double, zz: Double, yz: Double, noise: Double) -> Double:
    """Of each column; 0 where z does not move, 1 where it is y."""
    scale = np.sqrt(yy) * np.sqrt(zz)
    found = np.divide(yz, scale, out=np.zeros_like(yz), where=scale > 0)
    return np.where(noise == 0, 1.0, np.clip(found, -1, 1))


def decibels(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise) of two sums of squares, within ±MAX_DB."""
    if noise <= 0:
        return MAX_DB
    if signal <= 0:
        return -MAX_DB
    return min(MAX_DB, max(-MAX_DB, 10 * (math.log10(signal) - math.log10(noise))))
