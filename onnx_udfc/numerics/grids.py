"""Weights in few bits: number formats, scales, and rounding that sees the inputs' second moments.

A row w (the weights of one output channel) is written as q·s, with integer codes q on a symmetric grid of an odd
number of levels, ±(2^(b−1) − 1) at b bits, and one scale s per row. Grids between those of 2, 3 and 4 bits are there
for budgets: their b is log2 of their number of levels. With the Gram G = E[p pᵀ] of the layer's input patches p, the
damage is

    E[(q·s − w)ᵀp]² = (q·s − w)ᵀ G (q·s − w)                                                        (1)

`search_scale` tries clipping factors f of s = f·max|w| / qmax and keeps the least (1) of rounding to nearest.

`nearest_plane` is GPTQ (Frantar et al., arXiv 2210.17323): columns in order of falling diag G; each is rounded, and
its error is made up for by the columns that are still free. In the paper's words, with U the upper Cholesky factor of
H⁻¹, H = G + λI:  e = (w_i − q_i)/U_ii,  w_rest −= e·U_i,rest. We compute the same numbers from H itself (GPTQ is
Babai's nearest plane, arXiv 2507.18553): with H = R Rᵀ, R upper triangular, and x = q·s − w against the *original* w,

    (1) = ‖Rᵀx‖²,   so   w_i ← w_i − Σ_{j<i} x_j R_ji / R_ii   is the best value of column i given those before it.

This needs one factorization (float64) and no inverse; blocks of columns become products (float32, in units of s).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnx_udfc.numerics.products import each, slices
from onnx_udfc.options.words import BITS, Rows

Floats = NDArray[np.float64]
Codes = NDArray[np.int8]
Columns = NDArray[np.float32]  # (groups, d, o): what belongs to a column of the weights is contiguous

BLOCK = 64  # columns rounded one by one before the rest is updated with a matrix product
EXACT_GRAM = 256  # wider rows are searched with the diagonal blocks of G of this size: d²·o·25 products cost too much
ROUNDED = 1 << 20  # weights that are rounded to nearest at a time
CACHED = 1 << 16  # weights that are searched at a time: few enough to stay in the cache
MANY = 1 << 12  # values from which on one pass with a longer start is quicker than two
DAMPING_TRIES = 6
STEPS = 25  # factors between the lowest clip and 1 that are tried


@dataclass(frozen=True)
class QuantFormat:
    """A grid of values: the codes themselves (symmetric integers), or a codebook of any values.

    Attributes:
        bits: width of a code; another for each format.
        qmin: least code; integer grids are symmetric, so that a zero point of 0 loses nothing.
        qmax: greatest code, 2^(bits−1) − 1 where bits is whole.
        storage: bits that a code takes in an ONNX type at opset 21 (int4 or int8; there is nothing between).
        packs: whether packed words (`packing`) are so much smaller that they are worth the nodes that unpack them.
        lowest_clip: least factor of max|w| that `search_scale` tries; coarse grids want more clipping.
        values: of a codebook, rising, one for each code from qmin to qmax; none: each code is its value.
        name: the word of `--bits`; none: the number of bits.
        text: what a user is told about that word.
    """

    bits: float
    qmin: int
    qmax: int
    storage: int
    packs: bool
    lowest_clip: float = 0.4
    values: tuple[float, ...] = ()
    name: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        """A codebook has a value for each code."""
        assert not self.values or len(self.values) == self.levels, "as many values as codes"

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return self.qmax - self.qmin + 1

    @property
    def reach(self) -> float:
        """The value that lies farthest from 0."""
        return max(map(abs, self.values)) if self.values else self.qmax

    @cached_property
    def book(self) -> NDArray[np.float32]:
        """The values of a codebook (levels,)."""
        return np.array(self.values, np.float32)

    @cached_property
    def _borders(self) -> NDArray[np.float32]:
        """Between neighbouring values of a codebook (levels − 1,)."""
        borders: NDArray[np.float32] = (self.book[1:] + self.book[:-1]) / np.float32(2)
        return borders

    def nearest(self, units: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        """The nearest value of each, any shape, written to `out` and returned; ties to even codes."""
        if self.values:
            out[...] = self.book[np.searchsorted(self._borders, units)]
            return out
        np.rint(units, out=out)
        if out.size >= MANY:
            return np.clip(out, self.qmin, self.qmax, out=out)
        np.maximum(out, self._ends[0], out=out)
        np.minimum(out, self._ends[1], out=out)
        return out

    @cached_property
    def _ends(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The least and the largest code as arrays: to make them of numbers takes longer than to compare 64 values."""
        return np.array(self.qmin, np.float32), np.array(self.qmax, np.float32)

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """The codes of values that `nearest` gave, in any type that holds them."""
        return np.searchsorted(self._borders, values) + self.qmin if self.values else values

    def decode(self, codes: Codes) -> NDArray[Any]:
        """The values of codes."""
        return self.book[codes - self.qmin] if self.values else codes


def _format(bits: float, qmax: int, lowest_clip: float = 0.4, *, packs: bool = True) -> QuantFormat:
    return QuantFormat(bits, -qmax, qmax, 4 if bits <= 4 else 8, packs, lowest_clip)


FORMATS = Rows(BITS, [
    (fmt.bits, fmt)
    for fmt in (
        _format(2, 1, 0.1), _format(2.32, 2, 0.15), _format(3, 3, 0.2), _format(3.17, 4, 0.2), _format(3.46, 5, 0.25),
        _format(3.7, 6, 0.25), _format(4, 7, 0.3, packs=False), _format(5, 15), _format(6, 31),
        _format(7, 63, packs=False), _format(8, 127, packs=False),
    )
])  # fmt: skip


def width_of(bits: int | str) -> float:
    """The key of FORMATS that a value of `--bits` stands for, `auto` excepted."""
    return next((key for key, fmt in FORMATS.items() if fmt.name == bits), 0.0) if isinstance(bits, str) else bits


@dataclass(frozen=True)
class QuantParams:
    """Codes and scales of one layer, in the layout of `Layer.matrix()`.

    Attributes:
        bits: key of FORMATS.
        codes: int8 (groups, O/groups, d), within the format's qmin..qmax.
        scale: float (groups, O/groups), > 0, exactly representable in the type that the weight has in the file.
        finer: codes of what these codes leave of the weights, where they are not enough.
    """

    bits: float
    codes: Codes
    scale: Floats
    finer: QuantParams | None = None

    def dequantize(self) -> Floats:
        """Return the weights that the codes stand for, float64 (groups, O/groups, d)."""
        weight: Floats = FORMATS[self.bits].decode(self.codes) * self.scale[..., None]
        return weight if self.finer is None else weight + self.finer.dequantize()

    def as_one_group(self) -> QuantParams:
        """The same as one group."""
        return replace(self, codes=self.codes.reshape(1, -1, self.codes.shape[-1]), scale=self.scale.reshape(1, -1))

    @property
    def bits_in_all(self) -> float:
        """Width of a code, with that of the finer one."""
        return self.bits + (0 if self.finer is None else self.finer.bits)


def search_scale(weight: Floats, fmt: QuantFormat, gram: Floats | None = None, dtype: DTypeLike = np.float32) -> Floats:
    """Scale of each row with the least error (1) of rounding to nearest, over clipping factors.

    Args:
        weight: (..., o, d).
        fmt: the grid.
        gram: (..., d, d), or None for G = I.
        dtype: type of the scale in the file; the result is exactly representable in it.

    Returns:
        float64 (..., o), > 0 everywhere: a row of zeros gets 1.
    """
    groups = np.reshape(weight, (-1, *weight.shape[-2:])) if gram is not None else weight[None]
    rows = groups.reshape(len(groups), -1, weight.shape[-1])
    metric = [] if gram is None else _diagonal_blocks(gram.reshape(len(rows), *gram.shape[-2:]))
    largest = np.maximum(rows.max(axis=-1, initial=0.0), -rows.min(axis=-1, initial=0.0))
    full = largest.astype(np.float64) / fmt.reach
    factors, best = np.linspace(1.0, fmt.lowest_clip, STEPS), np.ones(full.shape)

    def search(piece: tuple[slice, slice]) -> None:
        g, o = piece
        unit = np.where(full[g, o] > 0, full[g, o], 1.0)[..., None]
        units = (rows[g, o] / unit).astype(np.float32)
        best[g, o] = _best_factor(units, fmt, factors, [(part, block[g]) for part, block in metric])

    each(search, list(_pieces(*rows.shape)))
    return storable((full * best).reshape(weight.shape[:-1]), dtype)


def _pieces(groups: int, rows: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Groups and rows of weights (groups, rows, width) that are searched at a time: they stay in the cache."""
    height = max(1, CACHED // max(1, width))
    together = max(1, height // max(1, rows))
    for g in range(0, groups, together):
        for o in range(0, rows, height):
            yield slice(g, g + together), slice(o, o + height)


def _diagonal_blocks(gram: Floats) -> list[tuple[slice, NDArray[np.float32]]]:
    """Grams (g, d, d) over the mean of their diagonals; of wide ones the blocks (g, w, w) along the diagonal only."""
    width = gram.shape[-1]
    level = _level(np.einsum("gii->gi", gram))[..., None]
    parts = slices(width, width if width <= EXACT_GRAM else BLOCK)
    return [(part, (gram[:, part, part] / level).astype(np.float32)) for part in parts]


def _level(diagonal: Floats) -> Floats:
    """Mean (g, 1) of the diagonals (g, d) of Grams; 1 for a group that never saw an input."""
    level = diagonal.mean(axis=-1, keepdims=True)
    return np.where(level > 0, level, 1.0)


def _best_factor(
    units: NDArray[np.float32], fmt: QuantFormat, factors: Floats, metric: Sequence[tuple[slice, NDArray[np.float32]]]
) -> Floats:
    """Factor (g, o) of least error for rows (g, o, d) in units of their scale at factor 1; no metric: G = I."""
    errors = []
    inner, damage = np.empty_like(units), np.empty_like(units)
    for factor in factors:
        np.multiply(units, np.float32(1 / factor), out=inner)
        fmt.nearest(inner, out=damage)
        damage -= inner
        seen = [(damage[..., part] @ block, damage[..., part]) for part, block in metric] or [(damage, damage)]
        errors.append(sum(np.einsum("god,god->go", left, right) for left, right in seen) * factor**2)
    best: Floats = factors[np.argmin(errors, axis=0)]
    return best


def storable(scale: Floats, dtype: DTypeLike) -> Floats:
    """Round to the file's type; a scale that would vanish becomes the least normal number, that of no weights 1."""
    least = float(np.finfo(np.dtype(dtype)).tiny)
    stored = np.asarray(scale, np.dtype(dtype)).astype(np.float64)
    floored: Floats = np.where(scale == 0.0, 1.0, np.maximum(stored, least))
    return floored


def round_nearest(weight: Floats, scale: Floats, fmt: QuantFormat) -> Codes:
    """Codes int8 (..., o, d) of the nearest grid points (ties to even), for weight (..., o, d) and scale (..., o)."""
    codes: Codes = np.empty(np.shape(weight), np.int8)
    units = np.reshape(scale, (-1, 1))
    rows, flat = np.reshape(weight, (len(units), codes.shape[-1])), codes.reshape(len(units), codes.shape[-1])
    # In pieces: the intermediate results of a large layer would be larger still.
    for some in slices(len(rows), max(1, ROUNDED // max(1, codes.shape[-1]))):
        part = rows[some] / units[some]
        flat[some] = fmt.encode(fmt.nearest(part, out=part))
    return codes


def nearest(weight: Floats, bits: float, dtype: DTypeLike = np.float32) -> QuantParams:
    """Weights (groups, o, d) rounded to nearest, with the scales of least error where all inputs count the same."""
    scale = search_scale(weight, FORMATS[bits], dtype=dtype)
    return QuantParams(bits, round_nearest(weight, scale, FORMATS[bits]), scale)


@dataclass(frozen=True)
class GramBasis:
    """What rounding needs of Grams, in float32: G over the mean of its diagonal, its columns by falling diagonal.

    Attributes:
        order: (groups, d) of the columns.
        gram: (groups, d, d) in that order.
        share: (groups, d, d) in that order, share[i, j] = R_ji / R_ii for j ≤ i, else 0.
    """

    order: NDArray[np.intp]
    gram: NDArray[np.float32]
    share: NDArray[np.float32]

    def columns(self, weight: Floats | Codes) -> Columns:
        """Weights (groups, o, d) as columns (groups, d, o) in the basis' order."""
        turned = np.ascontiguousarray(weight.swapaxes(1, 2), np.float32)
        return np.stack([part[order] for part, order in zip(turned, self.order, strict=True)])

    def codes(self, columns: NDArray[Any]) -> Codes:
        """Columns (groups, d, o) of codes as codes (groups, o, d)."""
        found = np.empty(columns.shape, np.int8)
        for part, given, order in zip(found, columns, self.order, strict=True):
            part[order] = given
        return np.ascontiguousarray(found.swapaxes(1, 2))


def gram_basis(gram: Floats, damping: float) -> GramBasis | str:
    """Order the columns of Grams (groups, d, d) by falling diagonal and factorize; or the reason why not."""
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    if not np.isfinite(gram).all() or diagonal.min(initial=0.0) < 0:
        return "the second moments of the input are not finite"
    order = np.argsort(-diagonal, axis=-1, kind="stable")
    ordered = np.stack([part[np.ix_(index, index)] for part, index in zip(gram, order, strict=True)])
    ordered /= _level(np.einsum("gii->gi", ordered))[..., None]
    small = ordered.astype(np.float32)
    factor = upper_factor(ordered, damping)
    if factor is None:
        return "the second moments of the input could not be factorized"
    share = factor.swapaxes(1, 2) / np.einsum("gii->gi", factor)[..., None]
    return GramBasis(order, small, share.astype(np.float32))


def upper_factor(gram: Floats, damping: float) -> Floats | None:
    """R, upper triangular (groups, d, d), with G + λI = R Rᵀ; None where no λ makes it factorizable. Spoils gram."""
    diagonal = np.einsum("gii->gi", gram)
    level, ridge = _level(diagonal), damping
    diagonal += ridge * level
    for _ in range(DAMPING_TRIES):
        try:
            # The factor of the matrix read backwards, read backwards, is upper triangular.
            return np.asarray(np.linalg.cholesky(gram[:, ::-1, ::-1])[:, ::-1, ::-1], np.float64)
        except np.linalg.LinAlgError:
            more = max(10 * ridge, 1e-4)
            diagonal += (more - ridge) * level
            ridge = more
    return None


def nearest_plane(target: Columns, fmt: QuantFormat, basis: GramBasis) -> Columns:
    """Values (groups, d, o) of columns in units of the scale, rounded one after another, in blocks."""
    damage = np.zeros_like(target)
    for start in range(0, target.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        share = basis.share[:, block]
        want = target[:, block] - share[:, :, :start] @ damage[:, :start]
        made = damage[:, block]
        in_turn(want, share[:, :, start:], target[:, block], fmt, made)
    damage += target
    return fmt.nearest(damage, out=damage)


def in_turn(want: Columns, share: Columns, start: Columns, fmt: QuantFormat, made: Columns) -> None:
    """Round the columns of a block one after another, each less its share of how those before it moved.

    Args:
        want: (groups, n, o) in units of the scale.
        share: (groups, n, n) of what a column takes of each one before it.
        start: (groups, n, o) that a move is counted from.
        fmt: the grid.
        made: (groups, n, o) filled with the moves.
    """
    if len(want) > 1:
        for i in range(want.shape[1]):
            column = want[:, i] - (share[:, i, None, :i] @ made[:, :i])[:, 0]
            np.subtract(fmt.nearest(column, out=column), start[:, i], out=made[:, i])
        return
    column = np.empty(want.shape[2], np.float32)  # most layers have one group: the same without an axis for it
    for i, (aim, part, begun) in enumerate(zip(want[0], share[0], start[0], strict=True)):
        np.dot(part[:i], made[0, :i], out=column)
        np.subtract(aim, column, out=column)
        np.subtract(fmt.nearest(column, out=column), begun, out=made[0, i])
