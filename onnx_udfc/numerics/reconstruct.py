"""How the next layer is repaired: one regression, and the older closed forms that never run the network.

Regression, for patches p of the damaged input, the target t and the prior weights W0 (ridge toward W0, LBYL's form
carried to measured moments; the row `moments`):

    W = (X + λ W0) (G + λ I)⁻¹       λ = ridge · mean(diag G)       b = E[t] - W E[p]

(in a grouped layer the mean is at least that of all groups: a channel that hardly varies keeps its weights)

With fewer samples than unknowns the same W comes from an (n, n) system (Woodbury):

    W = W0 + Rᵀ (P Pᵀ / n + λ I)⁻¹ P / n       R = T - P W0ᵀ

Channel methods give a mixing matrix A (C, |K|): channel c is replaced by Σ_k A[c, k] · kept channel k, and the consumer
absorbs it, U'[:, k] = Σ_c U[:, c] A[c, k]. V (C, d) are the producer's weights with batch norm folded, q (C,) its bias.

- `none`: A selects the kept channels.
- `merge` (Neuron Merging, Kim et al., NeurIPS 2020): each pruned channel goes to one kept channel.
- `udfc` (Bai et al., ICCV 2023; the ridge form is inferred from its predecessor LBYL, arXiv 2502.08474):
  s_j = (V_K V_Kᵀ + α1 q_K q_Kᵀ + α2 I)⁻¹ (V_K v_j + α1 q_j q_K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products
from onnx_udfc.numerics.inverses import inverse
from onnx_udfc.numerics.moments import Array, Moments, column_variances, moments
from onnx_udfc.options import words
from onnx_udfc.options.words import RUNNING, Rows

Double = NDArray[np.float64]
Keep = NDArray[np.int64]
Solver = Callable[[Array, Array, Double, float], Double]

_UDFC_BIAS, _UDFC_RIDGE = 0.01, 0.008  # α1, α2 of the paper
_AT_A_TIME = 1 << 20  # weights that products are made of
_MERGE_BALANCE, _MERGE_COSINE = 0.85, 0.1  # λ and the least cosine of Neuron Merging


@dataclass(frozen=True)
class Producer:
    """What a channel method knows of the layers that write a group.

    Attributes:
        weight: V (C, d), batch norm folded; several producers stand side by side.
        bias: q (C,), batch norm folded.
        scale: g (C,), the batch-norm factor that was folded; ones without batch norm.
    """

    weight: Double
    bias: Double
    scale: Double

    @property
    def trained(self) -> Double:
        """The weights (C, d) as they were trained, before batch norm was folded."""
        return np.asarray(self.weight / np.where(self.scale == 0, 1e-12, self.scale)[:, None])


@dataclass(frozen=True)
class Solution:
    """Refitted weights (g, o, d), bias (g, o), and what is left of the target's variance after the fit (0 to 1)."""

    weight: Double
    bias: Double
    residual: float


def mix_none(producer: Producer, keep: Keep) -> Double:
    """Mixing matrix (C, |K|) that drops the pruned channels."""
    mixing = np.zeros((len(producer.bias), len(keep)))
    mixing[keep, np.arange(len(keep))] = 1
    return mixing


def mix_udfc(producer: Producer, keep: Keep) -> Double:
    """Mixing matrix (C, |K|): each pruned channel as the ridge combination of the kept ones."""
    mixing = mix_none(producer, keep)
    pruned = np.setdiff1d(np.arange(len(producer.bias)), keep)
    features = np.concatenate([producer.weight, np.sqrt(_UDFC_BIAS) * producer.bias[:, None]], axis=1)
    gram = features[keep] @ features[keep].T + _UDFC_RIDGE * np.eye(len(keep))
    mixing[pruned] = np.linalg.solve(gram, features[keep] @ features[pruned].T).T
    return mixing


def mix_merge(producer: Producer, keep: Keep) -> Double:
    """Mixing matrix (C, |K|): each pruned channel is a multiple of the kept one that is most like it."""
    mixing = mix_none(producer, keep)
    pruned = np.setdiff1d(np.arange(len(producer.bias)), keep)
    if not len(pruned):
        return mixing
    raw, scale = producer.trained, np.where(producer.scale == 0, 1e-12, producer.scale)
    norm = np.maximum(np.linalg.norm(raw, axis=1), 1e-12)
    cosine = (raw / norm[:, None])[pruned] @ (raw / norm[:, None])[keep].T
    factor = (norm * scale)[pruned][:, None] / (norm * scale)[keep]
    gap = abs(factor * producer.bias[keep] - producer.bias[pruned][:, None])
    gap /= np.maximum(gap.max(axis=1, keepdims=True), 1e-12)
    best = np.argmin(_MERGE_BALANCE * (1 - cosine) + (1 - _MERGE_BALANCE) * gap, axis=1)
    rows = np.arange(len(pruned))
    similar = cosine[rows, best] > _MERGE_COSINE
    mixing[pruned[similar], best[similar]] = factor[rows, best][similar]
    return mixing


@dataclass(frozen=True)
class Method:
    """A way to repair the consumer.

    Attributes:
        mix: the mixing matrix of a pruned group, from weights alone.
        measured: the consumer is refitted on moments of a network run; `mix` then only gives the start.
        selection: the criterion used unless another is asked for.
        rescales: quantized channels are rescaled in the next layer (UDFC's quantized form).
        solve: of a measured one, the weights (g, o, d) for patches (g, n, d), targets (g, n, o), prior weights and λ;
            none: `LayerFit`, which minds the activation behind the layer, too.
        text: what a user is told of it.
    """

    mix: Callable[[Producer, Keep], Double]
    measured: bool = False
    selection: str = "l2"
    rescales: bool = False
    solve: Solver | None = None
    text: str = ""


class _Methods(Rows[str, Method]):
    def __setitem__(self, name: str, row: Method) -> None:
        RUNNING.update({name} if row.measured else ())
        super().__setitem__(name, row)

    def __delitem__(self, name: str) -> None:
        RUNNING.discard(name)
        super().__delitem__(name)


METHODS = _Methods(
    words.METHODS,
    {
        "none": Method(mix_none),
        "merge": Method(mix_merge),
        "udfc": Method(mix_udfc, rescales=True),
        "moments": Method(mix_none, measured=True, selection="obs"),
    }.items(),
)


def rescale_quantized(damaged: Producer, original: Producer) -> Double:
    """UDFC's scale (C,) of the next layer's input channel after the producer was quantized.

    s_c = (ṽ·v + α1 q̃ q) / (ṽ·ṽ + α1 q̃² + α2).
    """
    top, bottom = np.empty(len(damaged.weight)), np.empty(len(damaged.weight))
    for part in products.slices(len(top), max(1, _AT_A_TIME // max(1, damaged.weight.shape[1]))):
        top[part] = (damaged.weight[part] * original.weight[part]).sum(1)
        bottom[part] = np.square(damaged.weight[part]).sum(1)
    top += _UDFC_BIAS * damaged.bias * original.bias
    bottom += _UDFC_BIAS * np.square(damaged.bias) + _UDFC_RIDGE
    scale: Double = top / bottom
    return scale


def regress(p: Array, t: Array, prior: Double, ridge: float) -> Solution:
    """Fit targets by patches, near the prior.

    Args:
        p: patches (g, n, d).
        t: targets (g, n, o).
        prior: W0 (g, o, d).
        ridge: λ relative to mean(diag G), of the group or of all if that is more; more than 0.

    Returns:
        The solution; if a system is singular the ridge grows tenfold until it is not.
    """
    if p.shape[1] < p.shape[2]:
        return _regress_dual(p, t, prior, ridge)
    measured = moments(p, t)
    weight = Factor(measured.gram, ridge).solve(measured.cross, prior)
    return Solution(weight, intercept(measured, weight), residual(measured, weight, energy(t)))


class Factor:
    """(G + λ I)⁻¹ for each channel group, ready for many right-hand sides."""

    def __init__(self, gram: Double, ridge: float) -> None:
        """Invert.

        Args:
            gram: G (g, d, d), float64.
            ridge: λ relative to mean(diag G) of the group, or of all groups if that is more; grows tenfold while a
                system is singular.
        """
        levels = _levels(np.einsum("gii->g", gram) / gram.shape[1])
        found = [_regularized_inverse(part, ridge * level) for part, level in zip(gram, levels.tolist(), strict=True)]
        self._inverse = np.stack([inverted for inverted, _ in found])
        self._strength = np.array([strength for _, strength in found])[:, None, None]

    def solve(self, cross: Double, prior: Double) -> Double:
        """Weights (g, o, d) for X (g, d, o) and the prior W0 (g, o, d): the module's first equation."""
        right = cross + self._strength * prior.transpose(0, 2, 1)
        weight: Double = products.stacked(self._inverse, right).transpose(0, 2, 1)
        return weight

    def precondition(self, slope: Array) -> Array:
        """(g, o, d) a slope with respect to weights, times (G + λ I)⁻¹, in float32: it only gives a direction."""
        return products.stacked(slope, self._single)

    @cached_property
    def _single(self) -> Array:
        return self._inverse.astype(np.float32)


def _levels(own: Double) -> Double:
    """What λ is relative to, (g,): a group's mean(diag G), or that of all groups if it is more.

    A depthwise channel that the samples hardly move says little, and stays near its prior beside livelier ones.
    """
    levels: Double = np.maximum(np.maximum(own, own.mean()), 1e-30)
    return levels


def _regularized_inverse(gram: Double, strength: float) -> tuple[Double, float]:
    """(G + λ I)⁻¹ and λ."""
    for _ in range(8):
        system = gram.copy()
        system.flat[:: len(gram) + 1] += strength
        try:
            found = inverse(system)
        except np.linalg.LinAlgError:
            found = np.full_like(gram, np.nan)
        if np.isfinite(found).all():
            return found, strength
        strength *= 10
    flat: Double = np.eye(len(gram)) / strength
    return flat, strength


def _regress_dual(p: Array, t: Array, prior: Double, ridge: float) -> Solution:
    """`regress` for fewer samples than unknowns: an (n, n) system for each group."""
    mean, target_mean = p.mean(1, dtype=np.float64), t.mean(1, dtype=np.float64)
    weight, left = np.empty(prior.shape), []
    levels = _levels(np.square(p - mean[:, None].astype(np.float32)).mean((1, 2), dtype=np.float64))
    for x, y, start, found, mx, my, level in zip(p, t, prior, weight, mean, target_mean, levels, strict=True):
        n, centered = len(x), x - mx.astype(np.float32)
        missing = (y - my) - centered @ start.T.astype(np.float32)
        gram = (centered @ centered.T).astype(np.float64) / n
        gram.flat[:: n + 1] += ridge * level
        step = centered.T @ np.linalg.solve(gram, missing).astype(np.float32) / n
        np.add(start, step.T, out=found)
        left.append(np.square(missing - centered @ step).sum() / max(np.square(y - my).sum(), 1e-30))
    return Solution(weight, target_mean - np.einsum("god,gd->go", weight, mean), float(np.mean(left)))


def intercept(measured: Moments, weight: Double) -> Double:
    """Bias (g, o) that keeps the mean: E[t] - W E[p]."""
    bias: Double = measured.target_mean - np.einsum("god,gd->go", weight, measured.mean)
    return bias


def energy(t: Array) -> float:
    """E‖t‖² of targets (g, n, o), centered, over all groups."""
    return float(column_variances(t).sum())


def residual(measured: Moments, weight: Double, total: float) -> float:
    """Fraction of the targets' energy that W (g, o, d) leaves: E‖t - W p‖² / E‖t‖², both centered."""
    explained = 2 * np.einsum("god,gdo->", weight, measured.cross)
    kept = np.einsum("god,god->", weight, weight @ measured.gram)
    return float(max(total - explained + kept, 0.0) / max(total, 1e-30))
