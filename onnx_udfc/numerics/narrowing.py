"""A layer that becomes two, looked at only in the directions that its first one is likely to pass.

The first of two layers passes r of the I t₁ directions of what it sees. Which ones the fit says, but they lie nearly
all among the leading ones of the layer as it was: with Q (I t₁, R) an orthonormal basis of its R = 3 r leading
directions (`Curve.directions`), at each of the t₂ taps of the second layer,

    p′ = Qᵀ p        W′ = W Q

is a problem of R t₂ unknowns in place of I t₁ t₂. Refits of the whole, both factors in turn and the regressions of a
reader that becomes two are found there, and the first layer is that of p′ times Qᵀ. A Gram takes (R / I t₁)² of the
time, its inverse that to the power 3/2; two times r loses some per cent, four times gains nothing.

So is the curve of a separable layer, where 1 × 1 first says that some of the inputs' directions are all that matters:
of wide layers these are often a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products
from onnx_udfc.numerics.factors import Curve, Split, curve, measured_ranks, splits
from onnx_udfc.numerics.moments import Array

Double = NDArray[np.float64]
Index = NDArray[np.int64]
Float = TypeVar("Float", np.float32, np.float64)

DIRECTIONS = 3  # for each channel between
_WORTH = 1.5  # inputs of the first layer for each direction: less is not worth a product
_QUIET = 1e-4  # of the outputs' variance: what a curve may be measured without


@dataclass(frozen=True)
class Narrowing:
    """The directions that are looked at.

    Attributes:
        basis: (I t₁, R) Q of the module's equation.
        split: how the taps of the layer are parted.
    """

    basis: Double
    split: Split

    @property
    def inner(self) -> Split:
        """How the taps of the narrowed layer are parted: 1 × 1 first, then the second layer's."""
        return Split("input", self.split.second, 0)

    @property
    def unknowns(self) -> int:
        """R t₂."""
        return int(self.basis.shape[1]) * self.split.taps[1]

    def of(self, rows: NDArray[Float]) -> NDArray[Float]:
        """Rows (n, I k), patches or weights, as (n, R t₂), of their type."""
        t2, basis = self.split.taps[1], self.basis.astype(rows.dtype)
        parts, out = rows.reshape(len(rows), -1, t2), np.empty((len(rows), basis.shape[1], t2), rows.dtype)
        for tap in range(t2):
            out[..., tap] = products.product(np.ascontiguousarray(parts[..., tap]), basis)
        return out.reshape(len(rows), -1)

    def of_taps(self, seen: Array) -> Array:
        """What taps see (n, k I), channel index fastest, as (n, t₂ R)."""
        (t1, t2), basis = self.split.taps, self._by_tap
        parts, width = seen.reshape(len(seen), t1, t2, -1), basis.shape[1]
        out = np.empty((len(seen), t2 * width), np.float32)
        for tap in range(t2):
            here = np.ascontiguousarray(parts[:, :, tap]).reshape(len(seen), -1)
            out[:, tap * width : (tap + 1) * width] = products.product(here, basis)
        return out

    def to_taps(self, weight: Array) -> Array:
        """The weights (k I, o) for what taps see that are these (t₂ R, o) for what is made of it."""
        (t1, t2), basis, out = self.split.taps, self._by_tap, weight.shape[1]
        found = np.empty((t1, t2, len(basis) // t1, out), np.float32)
        for tap, part in enumerate(np.split(weight, t2)):
            found[:, tap] = products.product(basis, part).reshape(t1, -1, out)
        return found.reshape(-1, out)

    @property
    def _by_tap(self) -> Array:
        """(t₁ I, R) the basis, channel index fastest."""
        t1 = self.split.taps[0]
        turned = self.basis.reshape(-1, t1, self.basis.shape[1]).transpose(1, 0, 2)
        return np.ascontiguousarray(turned.reshape(self.basis.shape), np.float32)


def narrowing(found: Curve, rank: int, kept: Index) -> Narrowing | None:
    """The directions for a rank; None where all of them are to be looked at.

    Args:
        found: of the split that was chosen, of the original.
        rank: channels between.
        kept: (I,) input channels that are left of the original's.
    """
    wanted, t1 = DIRECTIONS * rank, found.split.taps[0]
    if found.directions is None or rank > found.directions.shape[1] or len(kept) * t1 < _WORTH * wanted:
        return None
    leading = found.directions[:, :wanted]  # fewer where no more matter
    leading = leading.reshape(-1, t1, leading.shape[1])[kept].reshape(-1, leading.shape[1])
    return _among(leading, found.split)


def _among(directions: NDArray[np.float16], split: Split) -> Narrowing:
    """The span of directions (I t₁, R)."""
    return Narrowing(np.asarray(np.linalg.qr(directions.astype(np.float64))[0]), split)


def curves(
    weight: Double,
    seen: Array,
    targets: Array,
    kernel: tuple[int, ...],
    *,
    few: bool,
    freed: Callable[[], None] = lambda: None,
) -> Iterator[Curve]:
    """What each way to split a layer loses, one after the other; arguments as of `factors.curve`."""
    last: Curve | None = None
    for split in splits(kernel):
        narrow = _that_matter(last) if split.kind == "separable" and last is not None else None
        if narrow is None:
            last = curve(weight, seen, targets, split, few=few, freed=freed)
        else:
            assert last is not None
            measured = measured_ranks(weight, split)
            inside = curve(narrow.of(weight), narrow.of(seen), targets, split, few=few, measured=measured, freed=freed)
            last = _widened(inside, narrow, last, len(weight) * split.taps[1])
        yield last


def _that_matter(found: Curve) -> Narrowing | None:
    """The directions without which next to nothing is lost; None where they are not few."""
    number = int((found.lost > _QUIET * found.lost[0]).sum())
    if found.directions is None or not 0 < _WORTH * number <= len(found.directions):
        return None
    return _among(found.directions[:, :number], found.split)


def _widened(inside: Curve, narrow: Narrowing, whole: Curve, outputs: int) -> Curve:
    """The curve of a layer from that in directions of its inputs, and the curve that these are of; o t₂ `outputs`."""
    assert inside.directions is not None
    inputs, number = narrow.basis.shape
    apart = inside.directions.astype(np.float64).reshape(number, -1)
    directions = (narrow.basis @ apart).reshape(-1, inside.directions.shape[1])
    left = whole.lost[number] / max(float(whole.lost[0]), 1e-300)
    ranks = np.minimum(np.arange(min(inputs * inside.split.taps[0], outputs) + 1), len(inside.lost) - 1)
    lost = inside.lost[ranks] * (1 - left) + whole.lost[number]
    return Curve(inside.split, lost, directions.astype(np.float16))
