"""A layer as two smaller ones in a row, in closed form.

A layer y = W p sees patches p of I channels with k taps, G = cov(p). Its taps are parted in t₁ for a first layer and t₂
for a second one, k = t₁ t₂ (by spatial axes), with r channels between:

    channel      all taps first, then 1 × 1           r (I k + O) weights
    separable    the first axis, then the others      r (I t₁ + O t₂)
    input        1 × 1 first, then all taps           r (I + O k)

With M the weights as a matrix [(i, t₁), (o, t₂)], G₁ the covariance of what the first layer sees and L Lᵀ = G₁,

    Lᵀ M = U S Vᵀ        B = (L⁻ᵀ U_r)ᵀ        A = S_r V_rᵀ

minimizes the error Σ_o E‖y_o − (A B p)_o‖² exactly for `channel` (reduced-rank regression, Izenman 1975), and for the
others as far as the second layer's taps see the same, uncorrelated (Jaderberg et al., arXiv 1405.3866, have the form);
there A is fitted again on what B really gives. The channels between have unit variance. The error of every rank r is
the sum of the squares of S beyond r, so that one decomposition gives the whole curve.

Only the smaller side is decomposed: Mᵀ G₁ M = V S² Vᵀ gives B = (M V_r S_r⁻¹)ᵀ, and Lᵀ M Mᵀ L = U S² Uᵀ the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import Array, covariance

Double = NDArray[np.float64]
Kind = Literal["channel", "separable", "input"]

RIDGE = 1e-3  # of mean(diag G₁), so that a Gram of few samples has an inverse
_NOTHING = 1e-12  # of the largest S²: no direction


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
    """

    split: Split
    lost: Double


def splits(kernel: tuple[int, ...]) -> tuple[Split, ...]:
    """The ways to part a kernel; one of a single tap, or a matrix, can only be parted by channels."""
    found = [Split("channel", kernel, len(kernel))]
    wide = [i for i, k in enumerate(kernel) if k > 1]
    if wide:
        found.append(Split("input", kernel, 0))
    if len(wide) > 1:
        found.append(Split("separable", kernel, wide[0] + 1))
    return tuple(found)


def curve(weight: Double, seen: Array, targets: Array, split: Split) -> Curve:
    """The error of every rank.

    Args:
        weight: (o, I k); rows in units in which errors count.
        seen: (n, I k) patches.
        targets: (n, o) what the layer makes of them, in the same units.
        split: how the taps are parted.
    """
    outputs = covariance(targets[None])[0]
    if split.taps[1] == 1:
        values = _leading(outputs)[0]
    else:
        middle = seen.reshape(len(seen), -1, *split.taps)[..., split.taps[1] // 2].reshape(len(seen), -1)
        values = _decomposed(_matrix(weight, split), covariance(np.ascontiguousarray(middle)[None])[0])[0]
    share = values / max(float(values.sum()), 1e-300)
    tails = np.concatenate([np.cumsum(share[::-1])[::-1], [0.0]])
    return Curve(split, tails * float(np.trace(outputs)))


def factors(weight: Double, gram: Double, split: Split, rank: int) -> tuple[Double, Double]:
    """Weights of both layers.

    Args:
        weight: (o, I k); rows in units in which errors count.
        gram: (I k, I k) covariance of the patches.
        split: how the taps are parted.
        rank: channels between, at least 1; those beyond the directions that there are stay 0.

    Returns:
        (r, I t₁) and (o, r t₂), tap index fastest.
    """
    matrix = _matrix(weight, split)
    values, left, right = _decomposed(matrix, first_gram(gram, split))
    there = min(rank, int((values > _NOTHING * max(values[0], 1e-300)).sum()))
    first, second = np.zeros((rank, len(matrix))), np.zeros((rank, matrix.shape[1]))
    first[:there], second[:there] = left[:, :there].T, right[:there]
    by_output = second.reshape(rank, len(weight), -1).transpose(1, 0, 2)
    return first, np.ascontiguousarray(by_output.reshape(len(weight), -1))


def first_gram(gram: Double, split: Split) -> Double:
    """Covariance (I t₁, I t₁) of what the first layer sees: of its taps, wherever those of the second one stand."""
    t1, t2 = split.taps
    channels = len(gram) // (t1 * t2)
    if t2 == 1:
        return gram
    parts = gram.reshape(channels, t1, t2, channels, t1, t2)
    return np.asarray(np.einsum("iacjbc->iajb", parts).reshape(channels * t1, -1) / t2)


def _matrix(weight: Double, split: Split) -> Double:
    """M: (I t₁, o t₂) of the weight (o, I t₁ t₂)."""
    t1, t2 = split.taps
    parts = weight.reshape(len(weight), -1, t1, t2).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(parts.reshape(-1, len(weight) * t2))


def _decomposed(matrix: Double, gram: Double) -> tuple[Double, Double, Double]:
    """S² (R,) falling, L⁻ᵀ U (I t₁, R) and S Vᵀ (R, o t₂), by the smaller side."""
    if matrix.shape[1] <= matrix.shape[0]:
        values, right = _leading(matrix.T @ (gram @ matrix))
        size = np.sqrt(np.maximum(values, _NOTHING * max(values[0], 1e-300)))
        return values, (matrix @ right) / size, size[:, None] * right.T
    strength = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)
    root = np.linalg.cholesky(gram + strength * np.eye(len(gram)))
    inner = root.T @ matrix
    values, left = _leading(inner @ inner.T)
    return values, np.linalg.solve(root.T, left), left.T @ inner


def _leading(symmetric: Double) -> tuple[Double, Double]:
    """Eigenvalues (n,), falling and not below 0, and the vectors (n, n) as columns."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
