"""Fewer rows for each channel, where ordering the channels of a wide layer would take long.

A channel owns k rows of a patch (the taps of a kernel). What the layer makes of them lies mostly in a few directions:
with x its rows, C = E[xxᵀ] centered and W (k, o) its weights, those of C^½ W. The r leading ones span a space with an
orthonormal basis Q (k, r) in the space of x, so

    x' = Qᵀ x        W' = (Qᵀ C Q)⁻¹ Qᵀ C W

is the channel in r rows: W'ᵀx' is the nearest to Wᵀx that r directions allow (reduced-rank regression, Izenman 1975).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.metric import Metric
from onnx_udfc.numerics.moments import Array
from onnx_udfc.numerics.products import slices

Double = NDArray[np.float64]

_AT_ONCE = 64  # channels, for the memory
_SMALLEST = 1e-9  # of a channel's variance: directions below it are not seen


def narrowed(patches: Array, weight: Double, metric: Metric, block: int, rank: int) -> tuple[Array, Double]:
    """Patches (g, n, C r) and weights (g, C r, o), as errors count, in place of (g, n, C k) and (g, o, C k).

    Args:
        patches: of a layer's input.
        weight: not copied as a whole.
        metric: how errors of the outputs count.
        block: k, rows of a channel, side by side.
        rank: r, at most k.
    """
    groups, samples, width = patches.shape
    channels = width // block
    small = np.empty((groups, samples, channels, rank), np.float32)
    mixed = np.empty((groups, channels, rank, weight.shape[1]))
    seen = patches.reshape(groups, samples, channels, block)
    given = weight.reshape(groups, -1, channels, block)
    for part in slices(channels, _AT_ONCE):
        x = seen[:, :, part].transpose(0, 2, 3, 1)
        x = x - x.mean(axis=3, keepdims=True, dtype=np.float64).astype(np.float32)
        within = (x @ x.swapaxes(2, 3)).astype(np.float64) / samples
        rows = metric.scaled(given[:, :, part].reshape(groups, weight.shape[1], -1))
        w = rows.reshape(groups, weight.shape[1], -1, block).transpose(0, 2, 3, 1)
        basis = _leading(within, w, rank)
        small[:, :, part] = (basis.swapaxes(2, 3).astype(np.float32) @ x).transpose(0, 3, 1, 2)
        reduced = basis.swapaxes(2, 3) @ within
        level = np.einsum("gckk->gc", within)[..., None, None]
        system = reduced @ basis + (_SMALLEST * level + 1e-30) * np.eye(rank)
        mixed[:, part] = np.linalg.solve(system, reduced @ w)
    return small.reshape(groups, samples, -1), mixed.reshape(groups, channels * rank, -1)


def _leading(within: Double, weight: Double, rank: int) -> Double:
    """Q (g, C, k, r)."""
    values, vectors = np.linalg.eigh(within)
    seen = values > _SMALLEST * np.maximum(values[..., -1:], 1e-30)
    root = np.sqrt(np.where(seen, values, 0.0))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=seen)
    turned = root[..., None] * (vectors.swapaxes(2, 3) @ weight)
    _, directions = np.linalg.eigh(turned @ turned.swapaxes(2, 3))
    basis, _ = np.linalg.qr(vectors @ (inverse[..., None] * directions[..., -rank:]))
    return np.asarray(basis, np.float64)
