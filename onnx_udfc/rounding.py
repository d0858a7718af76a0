"""What rounding a layer's weights costs, in the unit in which `select` counts removed channels.

The error of rounding W to Q at the layer's output, relative to what the layer writes to, is

    e = Σ_o (Q − W)_o G (Q − W)_oᵀ / (variance · O)

with G the covariance of its input patches. Rounding with the Gram and the refits that follow leave about a quarter of
it. It counts like the removal of one channel that costs as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_udfc.moments import Array, Double, covariance
from onnx_udfc.quantize import FORMATS, round_nearest, search_scale
from onnx_udfc.sight import WIDEST_GRAM

LEFT = 0.25  # of the error of rounding to nearest, after rounding with the Gram and repair


def rounding_damage(matrix: Double, patches: Array, variance: float, widths: Sequence[float]) -> dict[float, float]:
    """Error of rounding a layer to each of some widths.

    Args:
        matrix: (g, o, d) weights.
        patches: (g, n, d) sampled input.
        variance: of what the layer writes to, mean over channels.
        widths: bits.
    """
    groups, out, unknowns = matrix.shape
    wide = unknowns > WIDEST_GRAM
    gram = None if wide else covariance(patches)
    spread = patches.var(axis=1, dtype=np.float64) if wide else None
    found = {}
    for bits in widths:
        scale = search_scale(matrix, FORMATS[bits])
        damage = round_nearest(matrix, scale, FORMATS[bits]) * scale[..., None] - matrix
        error = float(np.square(damage).sum(1).ravel() @ spread.ravel()) if spread is not None else 0.0
        if gram is not None:
            error = float(np.einsum("god,gde,goe->", damage, gram, damage, optimize=True))
        share = error / (variance * groups * out)
        found[bits] = LEFT * share
    return found
