"""What rounding a layer's weights costs, in the unit in which `select` counts removed channels.

The error of rounding W to Q at the layer's output, relative to what the layer writes to, is

    e = Σ_o (Q − W)_o G (Q − W)_oᵀ / (variance · O)

with G the covariance of its input patches. Rounding with the Gram and the refits that follow leave about a quarter of
it. It counts like the removal of one channel that costs as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_udfc.numerics.grids import FORMATS, round_nearest, search_scale
from onnx_udfc.numerics.layer_fit import WIDEST_GRAM
from onnx_udfc.numerics.moments import Array, Double, covariance

LEFT = 0.25  # of the error of rounding to nearest, after rounding with the Gram and repair
MEASURED = (2, 3, 4, 8)  # bits; between them the logarithm of the error is nearly a line over that of the levels


def rounding_damage(
    matrix: Double, patches: Array, variance: float, widths: Sequence[float], gram: Double | None = None
) -> dict[float, float]:
    """Error of rounding a layer to each of some widths.

    Args:
        matrix: (g, o, d) weights.
        patches: (g, n, d) sampled input.
        variance: of what the layer writes to, mean over channels.
        widths: bits.
        gram: (g, d, d) covariance of the patches, where it is known.
    """
    if not widths:
        return {}
    groups, out, unknowns = matrix.shape
    wide = unknowns > WIDEST_GRAM
    gram = None if wide else covariance(patches) if gram is None else gram
    spread = patches.var(axis=1, dtype=np.float64) if wide else None
    logs = [np.log(max(_error(matrix, bits, gram, spread), 1e-300)) for bits in MEASURED]
    between = np.interp([_levels(b) for b in widths], [_levels(b) for b in MEASURED], logs)
    shares = LEFT * np.exp(between) / (variance * groups * out)
    return {bits: float(share) for bits, share in zip(widths, shares, strict=True)}


def _error(matrix: Double, bits: float, gram: Double | None, spread: Double | None) -> float:
    """Σ_o (Q − W)_o G (Q − W)_oᵀ of rounding to nearest; G (g, d, d), or its diagonal (g, d) alone."""
    scale = search_scale(matrix, FORMATS[bits])
    damage = round_nearest(matrix, scale, FORMATS[bits]) * scale[..., None] - matrix
    if gram is not None:
        return float(np.einsum("god,gde,goe->", damage, gram, damage, optimize=True))
    assert spread is not None
    return float(np.square(damage).sum(1).ravel() @ spread.ravel())


def _levels(bits: float) -> float:
    """The logarithm of a grid's number of levels."""
    return float(np.log2(FORMATS[bits].levels))
