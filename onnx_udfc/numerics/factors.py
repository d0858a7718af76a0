"""A layer as two smaller ones in a row, in closed form.

A layer y = W p sees patches p of I channels with k taps, G = cov(p). Its taps are parted in t₁ for a first layer and t₂
for a second one, k = t₁ t₂ (by spatial axes), with r channels between:

    channel      all taps first, then 1 × 1           r (I k + O) weights
    separable    the first axis, then the others      r (I t₁ + O t₂)
    input        1 × 1 first, then all taps           r (I + O k)

With M the weights as a matrix [(i, t₁), (o, t₂)], G₁ the covariance of what the first layer sees and L Lᵀ = G₁,

    Lᵀ M = U S Vᵀ        B = (L⁻ᵀ U_r)ᵀ        A = S_r V_rᵀ

minimizes the error Σ_o E‖y_o − (A B p)_o‖² exactly for `channel` (reduced-rank regression, Izenman 1975), and for the
others as far as the second layer's taps see the same, uncorrelated (Jaderberg et al., arXiv 1405.3866, have the form).
From there A and B are fitted in turn by the covariances of all taps, as far as there are samples enough to know them.
The channels between have unit variance. The error of every rank r is the sum of the squares of S beyond r, so that one
decomposition gives the whole curve; where little is seen, of one half of the samples, and the error is what its
directions leave of the other half, or of both if that is more. That of `separable` is smaller, for A fits what B gives
at all taps. With L Lᵀ the covariance of that in the order of the ranks and X its covariance with the outputs, rank r
explains ‖(L⁻¹ X)_{r t₂}‖² (the first r t₂ rows), over (1 − r t₂ / n)² for n samples (generalized cross-validation,
Craven and Wahba 1978); by what that takes off the same of one tap the error is multiplied. It is measured up to half of
the ranks that save anything, and stays as much beyond. `input` keeps the larger one: its second layer has all taps to
fit with, and what it gains on made-up inputs is lost on others.

Any other channels between, T B and A T⁻¹, make the same layer, but one that few bits may hold better. Columns of A are
as different as S, a row of A has one scale, and what is small beside the largest is lost. With AᵀA = V D Vᵀ,

    T = Q D^¼ Vᵀ        Q: the cosine transform

divides the sizes D^½ between both layers and mixes what is left, so that all columns of A are nearly alike and no row
has outliers (weights without these are what rotations between layers are for: Chee et al., arXiv 2307.13304).

Only the smaller side is decomposed: Mᵀ G₁ M = V S² Vᵀ gives B = (M V_r S_r⁻¹)ᵀ, and Lᵀ M Mᵀ L = U S² Uᵀ the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import Array, column_variances, covariance, moments, shrinkage, shrunk
from onnx_udfc.numerics.products import product

Double = NDArray[np.float64]
Kind = Literal["channel", "separable", "input"]

RIDGE = 1e-3  # of mean(diag G₁), so that a Gram of few samples has an inverse
_NOTHING = 1e-12  # of the largest S²: no direction
_STILL = 1e-6  # of the largest value of D: beside what others say, a channel between says nothing
_MEASURED = 0.5  # of the ranks that save anything: those that curves are measured at
# What a direction that is lost counts for where few are seen: that of a kernel of one tap says what the inputs had, not
# what filters are like, and is as dear as a channel (docs/allocation.md).
UNSEEN = 4.0
_TURNS = 2  # of both layers; a third one takes 1 % more off the error
_GRADIENTS = 4  # steps of each: twice as many leave as much to the fourth digit
_NEAR = 1e-10  # of the first residual, squared: solved


@dataclass(frozen=True)
class Split:
    """How the taps of a layer are parted.

    Attributes:
        kind: `channel`, `separable` or `input`.
        kernel: taps of each spatial axis; () for a matrix.
        leading: how many axes the first layer has, with their strides and pads; the second has the others.
    """

    kind: Kind
    kernel: tuple[int, ...]
    leading: int

    @property
    def first(self) -> tuple[int, ...]:
        """Kernel of the first layer."""
        return tuple(k if i < self.leading else 1 for i, k in enumerate(self.kernel))

    @property
    def second(self) -> tuple[int, ...]:
        """Kernel of the second layer."""
        return tuple(1 if i < self.leading else k for i, k in enumerate(self.kernel))

    @property
    def taps(self) -> tuple[int, int]:
        """(t₁, t₂)."""
        return math.prod(self.first), math.prod(self.second)


@dataclass(frozen=True)
class Curve:
    """What a split loses at every rank.

    Attributes:
        split: see there.
        lost: (R + 1,) error when r = 0 … R channels are left between, falling.
        directions: (I t₁, D) the leading columns of L⁻ᵀ U, of unit length, two thirds of them at most; None for
            `channel`.
        weight: what a lost share counts, see `numerics.metric`.
    """

    split: Split
    lost: Double
    directions: NDArray[np.float16] | None = None
    weight: float = 1.0


def splits(kernel: tuple[int, ...]) -> tuple[Split, ...]:
    """The ways to part a kernel; one of a single tap, or a matrix, can only be parted by channels."""
    found = [Split("channel", kernel, len(kernel))]
    wide = [i for i, k in enumerate(kernel) if k > 1]
    if wide:
        found.append(Split("input", kernel, 0))
    if len(wide) > 1:
        found.append(Split("separable", kernel, wide[0] + 1))
    return tuple(found)


def curve(
    weight: Double,
    seen: Array,
    targets: Array,
    split: Split,
    *,
    few: bool = False,
    measured: int | None = None,
    freed: Callable[[], None] = lambda: None,
) -> Curve:
    """The error of every rank.

    Args:
        weight: (o, I k); rows in units in which errors count.
        seen: (n, I k) patches.
        targets: (n, o) what the layer makes of them, in the same units.
        split: how the taps are parted.
        few: what is seen is little of what there is: errors are those on the second half, of directions of the first,
            and those of kernels of one tap count UNSEEN times.
        measured: up to which rank that of `separable` is measured; None: as `measured_ranks` has it.
        freed: called before the largest step, when what was used before it is freed.
    """
    total = float(column_variances(targets).sum())
    if split.taps[1] == 1:
        left = _tails(np.maximum(np.linalg.eigvalsh(_made(weight, seen, targets))[::-1], 0.0))
        if few:
            half = len(seen) // 2
            outputs = _leading(_made(weight, seen[:half], targets[:half]))[1]
            left = np.maximum(left, _tails(column_variances(targets[half:] @ outputs.astype(np.float32))))
            left *= UNSEEN if split.taps[0] == 1 else 1.0
        return Curve(split, left * total)
    half = len(seen) // 2 if few else len(seen)
    values, first = _leads(weight, split, shrunk(middle_covariance(seen[:half], split), half), freed)
    there = int((values > _NOTHING * max(values[0], 1e-300)).sum())
    lost, moved, sizes = _tails(values), product(middle_tap(seen, split), first), _floored(values)
    if few:
        lost = np.maximum(
            _tails(sizes * _spread(moved, first, seen, split)), _tails(sizes * column_variances(moved[half:]))
        )
    if split.kind == "separable":
        most = min(there, measured or measured_ranks(weight, split), half // (2 * split.taps[1]))
        if most:
            left = _fitted(moved[:half, :most], moved[:half] * np.sqrt(sizes).astype(np.float32), 1)
            del moved
            both = _fitted(_between(seen[:half], first[:, :most], split), targets[:half], split.taps[1])
            lost *= _together(both / left, len(lost))
            lost = np.minimum.accumulate(lost)
    leading = first[:, : min(there, 2 * len(first) // 3)]
    unit = leading / np.maximum(np.linalg.norm(leading, axis=0), 1e-300)
    return Curve(split, lost * total, unit.astype(np.float16))  # a span needs no more


def measured_ranks(weight: Double, split: Split) -> int:
    """Up to which rank the curve of a separable layer of this weight (o, I k) is measured."""
    rows, width = (int(side) for side in weight.shape)
    saving = math.ceil(rows * width / (width // split.taps[1] + rows * split.taps[1]))
    return math.ceil(saving * _MEASURED)


def turned(weight: Double) -> Double:
    """(d, d) rows that make as much of everything as those of a weight (o, d) with more of them."""
    return np.asarray(np.linalg.qr(weight, mode="r"))


def _spread(moved: Array, first: Array, seen: Array, split: Split) -> Double:
    """Variances (R,) of patches (n, I k) in directions (I t₁, R), `moved` (n, R), by the shrunk covariance."""
    share, spread = shrinkage(len(seen), len(first)), column_variances(moved)
    if not share:
        return spread
    return (1 - share) * spread + share * (column_variances(middle_tap(seen, split)) @ np.square(first))


def _together(ratios: Double, length: int) -> Double:
    """What remains of errors at ranks 0 … length - 1 from what does at 1 … r; beyond it as much as there."""
    found = np.concatenate([[1.0], np.minimum(ratios, 1.0)])
    return found[np.minimum(np.arange(length), len(found) - 1)]


def _made(weight: Double, seen: Array, targets: Array) -> Double:
    """Covariance (o, o) of what a layer makes of patches that are correlated as far as there are samples to know it."""
    gram, share = covariance(targets[None])[0], shrinkage(*seen.shape)
    if share > 0:
        gram = (1 - share) * gram + share * ((weight * column_variances(seen)) @ weight.T)
    return np.asarray(gram)


def _tails(values: Double) -> Double:
    """(R + 1,) share of the sum of values (R,) that is left without the first r of them."""
    share = values / max(float(values.sum()), 1e-300)
    return np.concatenate([np.cumsum(share[::-1])[::-1], [0.0]])


def _between(seen: Array, first: Array, split: Split) -> Array:
    """(n, r t₂) what a first layer (I t₁, r) makes of patches (n, I k) at each tap of the second."""
    parts = seen.reshape(len(seen), -1, split.taps[1])
    return np.stack([parts[..., tap] @ first for tap in range(split.taps[1])], 2).reshape(len(seen), -1)


def _fitted(between: Array, targets: Array, taps: int) -> Double:
    """(r,) share of the variance of targets (n, o) that fits to `taps`, 2 `taps` … of the columns (n, r taps) leave."""
    ranks, whole = between.shape[1] // taps, float(column_variances(targets).sum())
    measured = moments(between[None], targets[None])
    gram, cross = measured.gram[0], measured.cross[0]
    if not np.isfinite(gram).all():  # beyond float32
        return np.ones(ranks)
    root = np.linalg.cholesky(gram + _strength(gram) * np.eye(len(gram)))
    explained = np.square(np.linalg.solve(root, cross)).sum(1).reshape(ranks, taps).sum(1)
    unseen = np.square(1 - np.arange(taps, len(gram) + 1, taps) / len(targets))
    return np.asarray(np.maximum(1 - np.cumsum(explained) / max(whole, 1e-300), 1e-12) / unseen)


def factors(weight: Double, gram: Double, split: Split, rank: int, samples: int) -> tuple[Double, Double]:
    """Weights of both layers.

    Args:
        weight: (o, I k); rows in units in which errors count.
        gram: (I k, I k) covariance of the patches.
        split: how the taps are parted.
        rank: channels between, at least 1; those beyond the directions that there are stay 0.
        samples: that the covariance is of.

    Returns:
        (r, I t₁) and (o, r t₂), tap index fastest.
    """
    matrix, seen = _matrix(weight, split), first_gram(gram, split)
    if split.taps[1] == 1:
        seen = shrunk(seen, samples)
    values, left, right = _decomposed(matrix, seen)
    there = min(rank, int((values > _NOTHING * max(values[0], 1e-300)).sum()))
    first, second = left[:, :there].T, right[:there].reshape(there, len(weight), split.taps[1]).transpose(1, 0, 2)
    if split.taps[1] > 1 and there:
        parts = _by_tap(gram, seen, 1 - shrinkage(samples, len(gram)))
        first, second = _in_turn(first, second, weight, parts)
    padded, rest = np.zeros((rank, first.shape[1])), np.zeros((len(weight), rank, split.taps[1]))
    padded[:there], rest[:, :there] = first, second
    return padded, rest.reshape(len(weight), -1)


def evened(first: Double, second: Double, split: Split) -> tuple[Double, Double]:
    """The same two layers with other channels between, T of the module's equation: for weights in few bits.

    Args:
        first: (r, I t₁) weights.
        second: (o, r t₂) weights; rows in units in which errors count.
        split: how the taps are parted.

    Returns:
        (r, I t₁) and (o, r t₂).
    """
    rank = len(first)
    parts = second.reshape(len(second), rank, split.taps[1])
    values, vectors = _leading(np.tensordot(parts, parts, ((0, 2), (0, 2))))
    if not values[0] > 0:
        return first, second
    size = np.maximum(values, _STILL * values[0]) ** 0.25
    turn = _cosines(rank)
    ahead, back = (turn * size) @ vectors.T, (vectors / size) @ turn.T
    return ahead @ first, (back.T @ parts).reshape(len(second), -1)


def _cosines(n: int) -> Double:
    """(n, n) the cosine transform, orthogonal."""
    at = np.arange(n)
    found = np.sqrt(2 / n) * np.cos(np.pi / n * at[:, None] * (at + 0.5))
    found[0] = np.sqrt(1 / n)
    return np.asarray(found)


def _by_tap(gram: Double, seen: Double, trust: float) -> Array:
    """(t₂, I t₁, t₂, I t₁) covariances G_ec of what the first layer sees at taps e and c, at [c, :, e, :].

    They are trusted beside uncorrelated ones; a ridge keeps weights small where nothing was seen to vary.
    """
    t2 = len(gram) // len(seen)
    parts = np.ascontiguousarray(gram.reshape(len(seen), t2, len(seen), t2).transpose(3, 0, 1, 2), np.float32)
    parts *= np.float32(trust)
    apart = ((1 - trust) * seen + _strength(seen) * np.eye(len(seen))).astype(np.float32)
    for tap in range(t2):
        parts[tap, :, tap] += apart
    return parts


def _in_turn(first: Double, second: Double, weight: Double, parts: Array) -> tuple[Double, Double]:
    """Weights (r, I t₁) and (o, r, t₂), each fitted to the other in turn, by the covariances of all taps.

    With A_c the second layer's weights at tap c, G_ce the covariance of what the first layer sees at taps c and e and
    D_e = W_e - A_e B what the pair lacks of the weights, the first layer B moves by the ΔB of Σ A_cᵀ A_e ΔB G_ec =
    Σ A_cᵀ D_e G_ec: too many unknowns for a solver, so steps of conjugate gradients are taken, preconditioned as if
    taps were uncorrelated. D is in float64, what it is multiplied by in float32: what lacks nothing stays.
    """
    t2 = len(parts)
    seen = np.asarray(sum(parts[c, :, c] for c in range(t2)) / t2, np.float64)
    taps, inverse = np.moveaxis(weight.reshape(len(weight), -1, t2), 2, 0), np.asarray(np.linalg.inv(seen), np.float64)
    second = _second(first, second, taps, parts)
    for _ in range(_TURNS):
        single = np.ascontiguousarray(np.moveaxis(second, 2, 0), np.float32)
        lacking = _lacking(first, second, taps)
        inner = single.swapaxes(1, 2)[:, None] @ single
        rest = sum(product(single[c].T @ lacking[e], parts[c, :, e]) for c in range(t2) for e in range(t2))
        near = _inverse(np.asarray(sum(inner[c, c] for c in range(t2)), np.float64)), inverse
        first = _conjugate_gradients(partial(_moved, inner, parts), np.asarray(rest, np.float64), first, near)
        second = _second(first, second, taps, parts)
    deviation = np.sqrt(np.maximum(((first @ seen) * first).sum(1), 1e-30))
    return first / deviation[:, None], second * deviation[:, None]


def _lacking(first: Double, second: Double, taps: Double) -> Array:
    """(t₂, o, I t₁) what two layers (r, I t₁) and (o, r, t₂) lack of the weights (t₂, o, I t₁)."""
    return (taps - np.moveaxis(second, 2, 0) @ first).astype(np.float32)


def _across(first: Array, parts: Array) -> Array:
    """(r, t₂, I t₁) B G_ec at every tap e, of what `_by_tap` has of c."""
    return product(first, parts.reshape(len(parts), -1)).reshape(len(first), *parts.shape[1:])


def _moved(inner: Array, parts: Array, first: Double) -> Double:
    """Σ A_cᵀ A_e B G_ec of a first layer B, with A_cᵀ A_e = inner[c, e]."""
    single, rank = first.astype(np.float32), len(first)
    found = np.zeros_like(single)
    for both, part in zip(inner, parts, strict=True):
        across = _across(single, part).swapaxes(0, 1).reshape(-1, first.shape[1])
        found += product(both.swapaxes(0, 1).reshape(rank, -1), across)
    return found.astype(np.float64)


def _second(first: Double, start: Double, taps: Double, parts: Array) -> Double:
    """(o, r, t₂) the second layer that fits the first one (r, I t₁), near the one to start from."""
    rank, t2, single = len(first), len(parts), first.astype(np.float32)
    gram, rest = np.empty((rank * t2, rank, t2)), np.zeros((rank * t2, len(start)))
    for tap, (part, lacking) in enumerate(zip(parts, _lacking(first, start, taps), strict=True)):
        across = _across(single, part).reshape(rank * t2, -1)
        gram[..., tap] = product(across, single.T)
        rest += product(across, lacking.T)
    system = gram.reshape(rank * t2, -1)
    system.flat[:: len(system) + 1] += _strength(system)
    return start + np.linalg.solve(system, rest).T.reshape(start.shape)


def _conjugate_gradients(
    moves: Callable[[Double], Double], rest: Double, start: Double, near: tuple[Double, Double]
) -> Double:
    """B with moves(B - start) near what is left, from the start; preconditioned by near[0] · near[1]."""
    found = start
    step = ahead = near[0] @ rest @ near[1]
    size = first = float(np.vdot(rest, ahead))
    for _ in range(_GRADIENTS):
        moved = moves(step)
        bend = float(np.vdot(step, moved))
        if size <= _NEAR * first or bend <= 0:  # what is left is rounding
            return found
        found, rest = found + size / bend * step, rest - size / bend * moved
        ahead = near[0] @ rest @ near[1]
        before, size = size, float(np.vdot(rest, ahead))
        step = ahead + size / before * step
    return found


def _inverse(gram: Double) -> Double:
    return np.asarray(np.linalg.inv(gram + _strength(gram) * np.eye(len(gram))))


def _strength(gram: Double) -> float:
    """A ridge that gives the Gram of few samples an inverse."""
    return RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)


def first_gram(gram: Double, split: Split) -> Double:
    """Covariance (I t₁, I t₁) of what the first layer sees: of its taps, wherever those of the second one stand."""
    t1, t2 = split.taps
    channels = len(gram) // (t1 * t2)
    if t2 == 1:
        return gram
    parts = gram.reshape(channels, t1, t2, channels, t1, t2)
    return np.asarray(np.einsum("iacjbc->iajb", parts).reshape(channels * t1, -1) / t2)


def middle_covariance(seen: Array, split: Split) -> Double:
    """The same (I t₁, I t₁) of patches (n, I k), as the middle tap of the second layer sees it."""
    return np.asarray(covariance(middle_tap(seen, split)[None])[0])


def middle_tap(seen: Array, split: Split) -> Array:
    """(n, I t₁) of patches (n, I k): what the middle tap of the second layer has below it."""
    t2 = split.taps[1]
    return np.ascontiguousarray(seen.reshape(len(seen), -1, t2)[..., t2 // 2])


def _matrix(weight: Double, split: Split) -> Double:
    """M: (I t₁, o t₂) of the weight (o, I t₁ t₂)."""
    t1, t2 = split.taps
    parts = weight.reshape(len(weight), -1, t1, t2).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(parts.reshape(-1, len(weight) * t2))


def _decomposed(matrix: Double, gram: Double) -> tuple[Double, Double, Double]:
    """S² (R,) falling, L⁻ᵀ U (I t₁, R) and S Vᵀ (R, o t₂)."""
    inner, root = _smaller(matrix, gram)
    values, vectors = _leading(inner)
    if root is not None:
        return values, np.asarray(np.linalg.solve(root.T, vectors)), np.asarray(vectors.T @ root.T @ matrix)
    size = np.sqrt(_floored(values))
    return values, (matrix @ vectors) / size, size[:, None] * vectors.T


def _leads(weight: Double, split: Split, gram: Double, freed: Callable[[], None]) -> tuple[Double, Array]:
    """The first two of `_decomposed` of a weight (o, I k), the second in float32; what was used goes."""
    inner, root = _smaller(_matrix(weight, split), gram)
    del gram
    freed()
    values, vectors = _leading(inner)
    del inner
    if root is not None:
        return values, np.linalg.solve(root.T, vectors).astype(np.float32)
    vectors /= np.sqrt(_floored(values))
    return values, _matrix(weight, split).astype(np.float32) @ vectors.astype(np.float32)


def _smaller(matrix: Double, gram: Double) -> tuple[Double, Double | None]:
    """The smaller of Mᵀ G₁ M, without L, and Lᵀ M Mᵀ L, with it."""
    if matrix.shape[1] <= matrix.shape[0]:
        return np.asarray(matrix.T @ (gram @ matrix)), None
    root = np.asarray(np.linalg.cholesky(gram + _strength(gram) * np.eye(len(gram))))
    return np.asarray(root.T @ (matrix @ matrix.T) @ root), root


def _floored(values: Double) -> Double:
    """Falling values as they may be divided by."""
    return np.asarray(np.maximum(values, _NOTHING * max(values[0], 1e-300)))


def _leading(symmetric: Double) -> tuple[Double, Double]:
    """Eigenvalues (n,), falling and not below 0, and the vectors (n, n) as columns."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
