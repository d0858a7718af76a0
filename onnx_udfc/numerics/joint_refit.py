"""A layer that lost output channels, and the layers that read what is left of it, refitted together.

Refitted to their own old outputs, the channels that stay are those of the original. But what the readers need is no
longer spread over all of them: with a = clip(W p + b) the channels that stay, and U the readers' weights,

    min over W, b, U of   Σ_r ‖t_r − U_r a‖² / ‖t_r‖²

is solved by variable projection (Golub and Pereyra, 1973): U is always the ridge regression on the current a, and W and
b move against the gradient g = a' ∘ Σ_r U_rᵀ e_r, e_r = t_r − U_r a, in the metric of the layer's own input,

    ΔW = gᵀ P (G + λI)⁻¹        Δb = Σ g        step = ⟨e, U Δa⟩ / ‖U Δa‖²,  Δa = a' ∘ (ΔW p + Δb)

which is the exact minimum along the direction of the problem made linear. Where a max pooling lies between, a is the
largest of a window and g goes to the place that it came from. Where a reader sees other layers' channels beside a (of
a Concat), they stand in its regression and do not move. Only W and b are handed back: the readers are refitted when
their turn comes, to what the layer gives once it is rounded. On ResNets half of the gain comes in the first step. A
third takes another hundredth off the error on the samples, but nothing off that of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products
from onnx_udfc.numerics.layer_fit import Bounds
from onnx_udfc.numerics.moments import Array, column_means, column_variances
from onnx_udfc.numerics.narrowing import Narrowing
from onnx_udfc.numerics.reconstruct import Factor

Double = NDArray[np.float64]
Index = NDArray[np.int64]

ROUNDS = 2
RIDGE = 0.03  # of the readers' regressions, relative to mean(diag G)
PARTS = 4  # of the samples that a reader sees: done side by side, but not where a Gram for each would be large
NARROW = 640  # columns, at most, that this is done for


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels, at sampled positions.

    Attributes:
        taps: (n, k) places that its k taps see; q, the number of places, for a tap outside of the image.
        targets: (n, o) what it should give, mean free or not.
        weight: (o, K·k) where its ridge pulls to, tap index fastest.
        windows: (q, w) rows of the producer's patches of whose outputs each place is the largest, m for one outside of
            the image; None where the places are the m rows themselves.
        beside: (n, f) what else it sees, mean free or not; None where there is nothing.
        beside_weight: (o, f) where its ridge pulls the weights of that to.
        narrow: the directions of what its taps see that its regression looks at; None where these are all.
    """

    taps: Index
    targets: Array
    weight: Double
    windows: Index | None = None
    beside: Array | None = None
    beside_weight: Double | None = None
    narrow: Narrowing | None = None


@dataclass(frozen=True)
class Shared:
    """What a producer and its readers see.

    Attributes:
        patches: (m, d) of the producer's input.
        bounds: the activation behind the producer.
        readers: at least one; a tap reads each place at most once.
    """

    patches: Array
    bounds: Bounds
    readers: Sequence[Reader]


@dataclass(frozen=True)
class _Aim:
    """What stays the same of a reader, over the deviation of its targets.

    Attributes:
        wanted: (n, o) targets, mean free.
        start: (k·K + f, o) weights that its ridge pulls to; t₂ R in place of k·K where it is narrowed.
        beside: (n, f) what it sees beside, mean free.
        gram: (f, f) of that.
        cross: (f, o) of that and the targets.
        narrow: of the reader.
    """

    wanted: Array
    start: Double
    beside: Array
    gram: Array
    cross: Array
    narrow: Narrowing | None


@dataclass(frozen=True)
class _Fit:
    """A reader's best weights U (k·K, o), channel index fastest, over the deviation; o may be far above k·K.

    Attributes:
        back: (n, k·K) e Uᵀ of the errors e (n, o) that are left.
        root: (k·K, o) U, or (k·K, k·K) U Uᵀ where that is smaller: what lengths of U Δa are measured by.
        squared: whether it is the second.
    """

    back: Array
    root: Array
    squared: bool

    def length(self, change: Array) -> float:
        """‖Uᵀ Δa‖² of changes (n, k·K), mean free."""
        turned = products.product(change, self.root)
        return float(np.vdot(turned, change if self.squared else turned))


def refit_together(shared: Shared, weight: Double, level: Double, factor: Factor) -> tuple[Double, Double]:
    """Weights and mean outputs of the producer that serve its readers best.

    Args:
        shared: what is seen.
        weight: (K, d) to start from.
        level: (K,) mean of the producer's output, before its activation.
        factor: (G + λI)⁻¹ of the producer's input, one channel group.

    Returns:
        Weights (K, d) and mean outputs (K,).
    """
    patches, bounds, readers = shared.patches, shared.bounds, shared.readers
    mean = column_means(patches).astype(np.float32)
    now, height = weight.astype(np.float32), level.astype(np.float32)
    aims = [_aim(reader, len(weight)) for reader in readers]
    y = products.product(patches, now.T)
    y += height - now @ mean
    for _ in range(ROUNDS):
        passes = (y > bounds.low) & (y < bounds.high)
        outputs = _padded(np.clip(y, np.float32(bounds.low), np.float32(bounds.high)))
        sources = [_sources(outputs, reader.windows) for reader in readers]
        fits = [
            _fitted(_places(outputs, source), reader.taps, aim)
            for reader, source, aim in zip(readers, sources, aims, strict=True)
        ]
        slope = _slope(readers, sources, fits, outputs.shape) * passes
        total = slope.sum(0)
        turn = factor.precondition((products.product(slope.T, patches) - np.outer(total, mean))[None])[0]
        moved = products.product(patches, turn.T)
        moved += total - turn @ mean
        step = _step(_padded(moved * passes), readers, sources, fits)
        now, height = now + step * turn, height + step * total
        y += step * moved
    return now.astype(np.float64), height.astype(np.float64)


def places_of(values: Array, windows: Index | None) -> Array:
    """(q + 1, K) what taps see of values (m, K), directly or the largest of windows, zeros in the last row."""
    padded = _padded(values)
    return _places(padded, _sources(padded, windows))


def _padded(values: Array) -> Array:
    """(m + 1, K) with a row of zeros at the end: what taps outside of the image see."""
    return np.concatenate([values, np.zeros((1, values.shape[1]), np.float32)])


def _sources(outputs: Array, windows: Index | None) -> Index | None:
    """(q, K) the row of the outputs (m + 1, K) that each place gets its value from; None where a place is a row."""
    if windows is None:
        return None
    inside = np.concatenate([outputs[:-1], np.full((1, outputs.shape[1]), -np.inf, np.float32)])
    rows: Index = windows[np.arange(len(windows))[:, None], inside[windows].argmax(1)]
    return rows


def _places(outputs: Array, source: Index | None) -> Array:
    """(q + 1, K) what the taps see of the outputs (m + 1, K), zeros in the last row."""
    return outputs if source is None else _padded(np.take_along_axis(outputs, source, axis=0))


def _parts(rows: int, columns: int) -> list[slice]:
    """The rows (n, columns) that are worked on side by side: whatever the number of threads."""
    return products.slices(rows, max(1, -(-rows // (PARTS if columns <= NARROW else 1))))


def _seen(places: Array, taps: Index) -> tuple[Array, list[slice]]:
    """(n, k·K) what taps (n, k) see of the places (q + 1, K), mean free, and the parts it is worked on in."""
    seen = np.empty((len(taps), taps.shape[1] * places.shape[1]), np.float32)
    rows = _parts(*seen.shape)

    def look(part: slice) -> Double:
        here = seen[part]
        np.take(places, taps[part], axis=0, out=here.reshape(len(here), taps.shape[1], -1), mode="wrap")
        return column_means(here) * len(here)

    mean = (np.sum(products.each(look, rows), axis=0) / max(1, len(taps))).astype(np.float32)
    products.each(lambda part: np.subtract(seen[part], mean, out=seen[part]), rows)
    return seen, rows


def _aim(reader: Reader, channels: int) -> _Aim:
    """What stays the same in all rounds."""
    deviation = max(float(np.sqrt(column_variances(reader.targets).sum() * len(reader.targets))), 1e-30)
    narrow = reader.narrow
    pulled = reader.weight if narrow is None else narrow.of(reader.weight)
    by_channel = pulled.reshape(len(pulled), channels if narrow is None else narrow.basis.shape[1], -1)
    start = by_channel.transpose(2, 1, 0).reshape(-1, len(reader.weight)) / deviation
    wanted = (reader.targets - reader.targets.mean(0)) / np.float32(deviation)
    beside = np.zeros((len(wanted), 0), np.float32)
    if reader.beside is not None and reader.beside_weight is not None:
        start = np.concatenate([start, reader.beside_weight.T / deviation])
        beside = reader.beside - column_means(reader.beside).astype(np.float32)
    return _Aim(wanted, start, beside, products.gram(beside), products.product(beside.T, wanted), narrow)


def _fitted(places: Array, taps: Index, aim: _Aim) -> _Fit:
    """The ridge regression of a reader on what its taps see (q + 1, K) and what it sees beside."""
    whole, rows = _seen(places, taps)
    narrow = aim.narrow
    seen = whole if narrow is None else narrow.of_taps(whole)

    def measured(part: slice) -> tuple[Array, Array, Array]:
        turned = seen[part].T
        return (
            products.gram(seen[part]),
            products.product(turned, aim.beside[part]),
            products.product(turned, aim.wanted[part]),
        )

    own, across, cross = (sum(found[1:], start=found[0]) for found in zip(*products.each(measured, rows), strict=True))
    gram = np.block([[own, across], [across.T, aim.gram]]).astype(np.float64)
    strength = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)
    gram.flat[:: len(gram) + 1] += strength
    right = np.concatenate([cross, aim.cross]) + strength * aim.start
    both = np.linalg.solve(gram, right).astype(np.float32)
    found, fixed = both[: seen.shape[1]], both[seen.shape[1] :]
    weight = found if narrow is None else narrow.to_taps(found)
    squared, back = weight.shape[0] < weight.shape[1], np.empty_like(whole)
    inner = products.product(weight, weight.T) if squared else weight
    turned = products.product(fixed, weight.T)

    def left(part: slice) -> None:
        if squared:
            here = products.product(aim.wanted[part], weight.T)
            here -= products.product(whole[part], inner)
            if len(fixed):
                here -= products.product(aim.beside[part], turned)
            back[part] = here
            return
        errors = aim.wanted[part] - products.product(seen[part], found)
        if len(fixed):
            errors -= products.product(aim.beside[part], fixed)
        back[part] = products.product(errors, weight.T)

    products.each(left, rows)
    return _Fit(back, inner, squared)


def _slope(
    readers: Sequence[Reader], sources: Sequence[Index | None], fits: Sequence[_Fit], shape: tuple[int, ...]
) -> Array:
    """(m, K) how the producer's outputs should move."""
    slope = np.zeros(shape, np.float32)
    for reader, source, fit in zip(readers, sources, fits, strict=True):
        here = _gathered(reader.taps, fit.back, (len(slope) if source is None else len(source) + 1, shape[1]))
        if source is None:
            slope += here
            continue
        cells = source * shape[1] + np.arange(shape[1])  # windows may overlap
        slope += np.bincount(cells.ravel(), here[:-1].ravel(), slope.size).reshape(shape).astype(np.float32)
    return slope[:-1]


def _gathered(taps: Index, back: Array, shape: tuple[int, int]) -> Array:
    """(q + 1, K) the sums at the places of what taps (n, k) send back (n, k·K)."""
    sent = back.reshape(*taps.shape, -1)

    def sums(some: range) -> Array:
        here = np.zeros(shape, np.float32)
        for tap in some:  # each place is read at most once by a tap; only the row of zeros is written more often
            here[taps[:, tap]] += sent[:, tap]
        return here

    half = taps.shape[1] // 2
    both = products.each(sums, [range(half), range(half, taps.shape[1])] if half else [range(taps.shape[1])])
    return sum(both[1:], start=both[0])


def _step(moved: Array, readers: Sequence[Reader], sources: Sequence[Index | None], fits: Sequence[_Fit]) -> np.float32:
    """The length of the step, from what it does to the outputs (m + 1, K)."""
    along = square = 0.0
    for reader, source, fit in zip(readers, sources, fits, strict=True):
        change, rows = _seen(_places(moved, source), reader.taps)
        parts = partial(_moved, change, fit)
        for part, length in products.each(parts, rows):
            along += part
            square += length
    return np.float32(along / max(square, 1e-30))


def _moved(change: Array, fit: _Fit, part: slice) -> tuple[float, float]:
    """⟨e, U Δa⟩ and ‖U Δa‖² of some of the rows of changes (n, k·K)."""
    return float(np.vdot(change[part], fit.back[part])), fit.length(change[part])
