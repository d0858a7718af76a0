"""What rounding a layer's weights costs, in the unit in which `select` counts removed channels.

The error of rounding W to Q at the layer's output, relative to what the layer writes to, is

    e = Σ_o (Q − W)_o G (Q − W)_oᵀ / (variance · O)

with G the covariance of its input patches. Rounding with the Gram and the refits that follow leave about a quarter of
it. It counts like the removal of one channel that costs as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_udfc.numerics.grids import FORMATS, nearest
from onnx_udfc.numerics.moments import Array, Double, column_means
from onnx_udfc.numerics.products import each, stacked

LEFT = 0.25  # of the error of rounding to nearest, after rounding with the Gram and repair
MOST_ROWS, MOST_SAMPLES = 128, 1024  # of a layer's outputs in a group, and of its samples, that the error is taken on
MEASURED = (2, 3, 4, 8)  # bits; between them the logarithm of the error is nearly a line over that of the levels


def rounding_damage(
    matrix: Double, patches: Array, variance: float, widths: Sequence[float], gram: Double | None = None
) -> dict[float, float]:
    """Error of rounding a layer to each of some widths, of some of its outputs on some samples where they are many.

    A Gram that nobody else needs is worth neither its time nor its memory: samples times rows are less work.

    Args:
        matrix: (g, o, d) weights.
        patches: (g, n, d) sampled input.
        variance: of what the layer writes to, mean over channels.
        widths: bits.
        gram: (g, d, d) covariance of all patches, where it is known.
    """
    if not widths:
        return {}
    rows = matrix[:, :: -(-matrix.shape[1] // MOST_ROWS)]
    groups, out, _ = rows.shape
    seen = _centered(patches) if gram is None else None
    logs = [np.log(max(error, 1e-300)) for error in each(lambda bits: _error(rows, bits, gram, seen), MEASURED)]
    between = np.interp([_levels(b) for b in widths], [_levels(b) for b in MEASURED], logs)
    shares = LEFT * np.exp(between) / (variance * groups * out)
    return {bits: float(share) for bits, share in zip(widths, shares, strict=True)}


def _centered(patches: Array) -> Array:
    """(g, n, d) evenly spaced samples of the patches, mean free."""
    seen = patches[:, :: -(-patches.shape[1] // MOST_SAMPLES)]
    return np.asarray(seen - column_means(seen)[:, None].astype(np.float32), np.float32)


def _error(matrix: Double, bits: float, gram: Double | None, seen: Array | None) -> float:
    """Σ_o (Q − W)_o G (Q − W)_oᵀ of rounding to nearest; G (g, d, d), or that of samples (g, n, d), mean free."""
    damage = nearest(matrix, bits).dequantize() - matrix
    if gram is not None:
        return float(np.vdot(damage @ gram, damage))
    assert seen is not None
    moved = stacked(seen, damage.transpose(0, 2, 1).astype(np.float32))
    return float(np.square(moved, dtype=np.float64).sum() / seen.shape[1])


def _levels(bits: float) -> float:
    """The logarithm of a grid's number of levels."""
    return float(np.log2(FORMATS[bits].levels))
