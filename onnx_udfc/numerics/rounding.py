"""Codes and scales together: the best that few bits can do in the metric of the Gram.

Rounding with a Gram (`grids.nearest_plane`) takes the scale as given. Here both are looked for, against the same
damage E = (q·s − w)ᵀ G (q·s − w) of every row:

1. the codes for several scales around the one of `search_scale`, each rounded with the Gram;
2. for given codes the best scale in closed form, s = qᵀGw / qᵀGq; the scale with the least E is kept;
3. for a given scale, one code after another is set to the best value that the others allow,
   q_i ← round(q_i − Σ_j G_ij x_j / G_ii), x = q − w/s: cyclic coordinate descent (QuantEase, arXiv 2309.01885),
   here with G + λI, whose damage never rises;
4. step 2 once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from onnx_udfc.numerics.grids import (
    BLOCK,
    FORMATS,
    Columns,
    Floats,
    GramBasis,
    QuantFormat,
    QuantParams,
    gram_basis,
    in_turn,
    nearest,
    nearest_plane,
    round_nearest,
    search_scale,
    storable,
)
from onnx_udfc.numerics.products import slices

FACTORS = (1.0, 0.9, 1.1, 0.8, 1.2, 0.7, 1.35)  # the first is kept where all are equal
MOST_CANDIDATES = 1 << 23  # weights times factors that are rounded at once; a larger layer tries its own scale only
SWEEPS = 3
DAMPING = 0.01  # of a Gram, relative to mean(diag G)
FINER = 4  # bits
UNSEEN = 0.1  # of the mean second moment, for an input that never varied


Basis = Callable[[], GramBasis | str]


def quantize_layer(
    weight: Floats, gram: Floats | None, bits: float, dtype: np.dtype[Any], basis: Basis | None = None
) -> tuple[QuantParams, str]:
    """Round weights (g, o, d) with the Gram (g, d, d) of their inputs; to nearest where it was not measured.

    Gives the codes, and why a Gram that was measured is of no use; that is empty where it is.

    The scales are representable in `dtype`, the type that the weight has in the file. `basis` gives what `basis_of`
    makes of the Gram, where that was begun before.
    """
    fmt = FORMATS[bits]
    if gram is None:
        return nearest(weight, bits, dtype), ""
    found = basis_of(gram) if basis is None else basis()
    if isinstance(found, str):
        return nearest(weight, bits, dtype), found
    columns = found.columns(weight)
    codes, scale = _best_candidate(columns, search_scale(weight, fmt, _as_if_all_moved(gram), dtype), fmt, found, dtype)
    descend(columns, codes, scale, fmt, found)
    return QuantParams(bits, found.codes(fmt.encode(codes)), best_scale(columns, codes, scale, found, dtype).scale), ""


def basis_of(gram: Floats) -> GramBasis | str:
    """What `quantize_layer` needs of a Gram (g, d, d) for every weight."""
    return gram_basis(_as_if_all_moved(gram), DAMPING)


def quantize_finely(weight: Floats, bits: float, dtype: np.dtype[Any]) -> QuantParams:
    """Round weights (g, o, d) to nearest in two steps: codes that clip nothing, and FINER bits for what they leave.

    At 8 bits the error is a twelfth of that of the codes alone: half a step is seven of the finer ones.
    """
    first, second = (_unclipped(FORMATS[width]) for width in (bits, FINER))
    coarse = first(weight, dtype)
    return replace(coarse, finer=second(weight - coarse.dequantize(), dtype))


def _unclipped(fmt: QuantFormat) -> Callable[[Floats, np.dtype[Any]], QuantParams]:
    """Rounds weights (g, o, d) to nearest, with the scale by which the largest of a row is the last code."""

    def rounded(weight: Floats, dtype: np.dtype[Any]) -> QuantParams:
        largest = np.abs(weight).max(axis=-1, initial=0.0)
        scale = storable(np.where(largest > 0, largest / fmt.reach, 1.0), dtype)
        return QuantParams(fmt.bits, round_nearest(weight, scale, fmt), scale)

    return rounded


def _as_if_all_moved(gram: Floats) -> Floats:
    """A Gram (g, d, d) in which inputs that never vary do so a little, or their weights would be clipped at no cost."""
    diagonal = np.einsum("gii->gi", gram)
    still = diagonal == 0
    if not still.any():
        return gram
    own = diagonal.mean(1, keepdims=True)
    level = np.where(own > 0, own, diagonal.mean() or 1.0)
    return np.asarray(gram + np.eye(gram.shape[1]) * (UNSEEN * level * still)[:, None])


class Scaled(NamedTuple):
    """Scales (groups, o), and the damage (groups, o) that they leave over that of codes that are all 0."""

    scale: Floats
    gain: Floats


def best_scale(
    weight: Columns, codes: Columns, scale: Floats, basis: GramBasis, dtype: DTypeLike = np.float32
) -> Scaled:
    """Scales of least damage for weights and codes (groups, d, o); where that is none above 0 the scale stays."""
    weighted = basis.gram @ codes
    cross, square = (np.einsum("gdo,gdo->go", weighted, other).astype(np.float64) for other in (weight, codes))
    usable = (square > 0) & (cross > 0)
    best = np.where(usable, storable(np.where(usable, cross / np.where(usable, square, 1.0), 1.0), dtype), scale)
    return Scaled(best, best * (best * square - 2 * cross))


def _best_candidate(
    weight: Columns, scale: Floats, fmt: QuantFormat, basis: GramBasis, dtype: DTypeLike
) -> tuple[Columns, Floats]:
    """Codes and scale with the least damage over FACTORS of the scale, row by row."""
    groups, width, rows = weight.shape
    factors = FACTORS if weight.size * len(FACTORS) <= MOST_CANDIDATES else (1.0,)
    tried = np.concatenate([storable(scale * factor, dtype) for factor in factors], axis=1)
    repeated = np.tile(weight, (1, 1, len(factors)))
    units = np.divide(repeated, tried[:, None], dtype=np.float32)
    codes = nearest_plane(units, fmt, basis)
    found = best_scale(repeated, codes, tried, basis, dtype)
    best = np.argmin(found.gain.reshape(groups, len(factors), rows), axis=1)[:, None]
    return (
        np.take_along_axis(codes.reshape(groups, width, len(factors), rows), best[:, None], axis=2)[:, :, 0],
        np.take_along_axis(found.scale.reshape(groups, len(factors), rows), best, axis=1)[:, 0],
    )


def descend(weight: Columns, codes: Columns, scale: Floats, fmt: QuantFormat, basis: GramBasis) -> None:
    """Coordinate descent over the codes (groups, d, o), in place and in blocks; stops when a sweep changes nothing."""
    damage = codes - weight / scale[:, None].astype(np.float32)
    pivots = np.einsum("gii->gi", basis.gram)[..., None] + np.float32(DAMPING)
    for _ in range(SWEEPS):
        changed = False
        for block in slices(codes.shape[1], BLOCK):
            slope = np.matmul(basis.gram[:, block], damage)
            slope += np.float32(DAMPING) * damage[:, block]
            slope /= pivots[:, block]
            within = basis.gram[:, block, block] / pivots[:, block]
            moves = _moves(slope, codes[:, block], within, fmt)
            if moves is not None:
                codes[:, block] += moves
                damage[:, block] += moves
                changed = True
        if not changed:
            break


def _moves(slope: Columns, codes: Columns, within: Columns, fmt: QuantFormat) -> Columns | None:
    """How the codes (groups, n, o) of a block move, one column after another; None where none does.

    Args:
        slope: (groups, n, o) of the damage, over the pivots.
        codes: as they are.
        within: (groups, n, n) the Gram's block, its rows over the pivots.
        fmt: the grid.
    """
    wanted = codes - slope
    if np.array_equal(fmt.nearest(wanted, out=np.empty_like(wanted)), codes):
        return None
    moves = np.empty_like(slope)
    in_turn(wanted, within, codes, fmt, moves)
    return moves
