"""Rounding with a Gram at given scales and nothing else: what the package's searches begin with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_udfc.numerics.grids import Codes, Floats, QuantFormat, gram_basis, nearest_plane, round_nearest


class Rounding(NamedTuple):
    """Codes int8, shaped as the weights, and why they are plain nearest codes (None: they are not)."""

    codes: Codes
    reason: str | None


def round_with_gram(weight: Floats, scale: Floats, fmt: QuantFormat, gram: Floats, damping: float = 0.01) -> Rounding:
    """Round so that the layer's output, not its weights, stays close (GPTQ, see `numerics.grids`).

    Args:
        weight: (groups, o, d), or (o, d).
        scale: (groups, o), or (o,), > 0.
        fmt: the grid.
        gram: (groups, d, d), or (d, d): second moments of the input patches, any positive factor.
        damping: λ relative to mean(diag G); grows tenfold as often as the factorization fails.

    Returns:
        The codes, shaped as weight; with a reason where the Gram could not be used and they are the nearest ones.
    """
    if weight.ndim == 2:
        codes, reason = round_with_gram(weight[None], scale[None], fmt, gram[None], damping)
        return Rounding(codes[0], reason)
    weight = np.asarray(weight, np.float64)
    basis = gram_basis(gram, damping)
    if isinstance(basis, str):
        return Rounding(round_nearest(weight, scale, fmt), basis)
    units = basis.columns(weight / scale[..., None])
    return Rounding(basis.codes(fmt.encode(nearest_plane(units, fmt, basis))), None)
