"""Sampled patches of a layer's input, and their means, Grams and cross moments.

A layer is a linear map of patches: y = W p + b, where p holds the k taps of I/g channels around one output position
(im2col). With P (n, d) the patches at n sampled positions and T (n, o) the targets there,

    G = (P - mean)ᵀ (P - mean) / n        X = (P - mean)ᵀ (T - mean) / n

Products are float32, sums of products stay below 2^24 terms, and solvers get float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products

Array = NDArray[np.float32]
Double = NDArray[np.float64]
Index = NDArray[np.int64]

_TOGETHER = 1 << 20  # values that statistics are summed over at once
_SPARSE = 12  # times as large an input as its patches is not laid out anew for them: gathering alone takes as long
STILL = 1e-5  # deviation of an input, of its mean, below which it does not vary
_OUTSIDE = -(1 << 60)  # a place whose sum with others stays below 0
_LAID_OUT = 1 << 18  # values of the input that are laid out anew at once, or one channel
_ROW = 1 << 12  # values that are summed in float32
_COPIED = 1 << 22  # values of some groups that a copy is made of
_AT_PEAKS = 0.75  # of sampled positions: what rises elsewhere must not become a peak
_CACHED = 1 << 17  # values that several operations in a row are done on


@dataclass(frozen=True)
class Window:
    """How a layer looks at its input.

    Attributes:
        kernel: taps for each spatial dimension; empty for Gemm and MatMul, whose patches are rows.
        strides: strides, one for each spatial dimension (of the output for a transposed convolution).
        dilations: dilations, one for each spatial dimension.
        pads: pixels of zero padding at the beginning of each spatial dimension.
        groups: channel groups.
        transposed: a ConvTranspose; taps are then counted in the flipped kernel.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class Moments:
    """Second moments of patches and targets, for each channel group.

    Attributes:
        count: sampled positions n.
        mean: (g, d) mean patch.
        gram: (g, d, d) covariance of the patches, float64.
        target_mean: (g, o).
        cross: (g, d, o) covariance of patches and targets, float64.
    """

    count: int
    mean: Double
    gram: Double
    target_mean: Double
    cross: Double


def sample_positions(output_shape: tuple[int, ...], window: Window, limit: int, seed: int) -> Index:
    """Sorted flat positions (image, *space) of a layer's output, at most `limit`, without repetition."""
    total = int(np.prod(output_shape[:-1] if not window.kernel else output_shape[:1] + output_shape[2:]))
    if total <= limit:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))


def peak_positions(y: Array, positions: Index, *, spatial: bool, seed: int) -> Index:
    """As many positions as those given, most of them where a channel of a sample has its largest value.

    Args:
        y: (N, O, *space) what the layer gives, or (N, ..., O) where it is not `spatial`.
        positions: (n,) flat, ascending, of all (image, *space).
        spatial: the channels lie on the second axis.
        seed: of the choice among more than there is room for: in proportion to the channels that peak there.
    """
    values = y.reshape(*y.shape[:2], -1) if spatial else np.moveaxis(y.reshape(len(y), -1, y.shape[-1]), 1, 2)
    peaks = values.argmax(2) + np.arange(len(values))[:, None] * values.shape[2]
    found, channels = np.unique(peaks, return_counts=True)
    rng, most = np.random.default_rng(seed), int(_AT_PEAKS * len(positions))
    if len(found) > most:
        found = rng.choice(found, most, replace=False, p=channels / channels.sum())
    others = np.setdiff1d(positions, found)
    others = rng.choice(others, min(len(others), len(positions) - len(found)), replace=False)
    return np.sort(np.concatenate([found, others]))


def sample_targets(y: Array, window: Window, positions: Index) -> Array:
    """Values (n, O) of a layer's output y (N, O, *space), or rows (..., O), at the positions."""
    if not window.kernel:
        return y.reshape(-1, y.shape[-1])[positions]
    image, *space = np.unravel_index(positions, y.shape[:1] + y.shape[2:])
    sampled: Array = np.moveaxis(y, 1, -1)[(image, *space)]
    return sampled


def patches(x: Array, window: Window, output_shape: tuple[int, ...], positions: Index) -> Array:
    """Patches (g, n, d) of the input x at output positions, d = I/g * taps, tap index fastest.

    Args:
        x: (N, I, *space), or (..., I) when the window has no kernel.
        window: the layer's geometry.
        output_shape: shape of the layer's output for this x.
        positions: flat indices from `sample_positions`.
    """
    if not window.kernel:
        return x.reshape(-1, x.shape[-1])[positions][None]
    n, channels, taps = len(positions), x.shape[1], int(np.prod(window.kernel))
    if x.size > _SPARSE * n * channels * taps:
        result = _gathered_sparsely(x, window, output_shape, positions)
    else:
        result = _gathered(x, tap_positions(window, x.shape, output_shape, positions).T)
    return result.reshape(window.groups, channels // window.groups * taps, n).transpose(0, 2, 1)


def _gathered(x: Array, where: Index) -> Array:
    """(channels, taps, n) of the input x (N, channels, *space) at flat positions (taps, n), -1 outside.

    Some channels at a time, laid out so that a channel of all images is contiguous: they stay in the cache, and no
    copy of the whole input is made. The last column is what lies outside.
    """
    channels, pixels = x.shape[1], x.size // max(1, x.shape[1])
    result, flat = np.empty((channels, *where.shape), np.float32), x.reshape(len(x), channels, -1)
    step, where = max(1, _LAID_OUT // max(1, pixels)), np.ascontiguousarray(where)

    def gather(start: int) -> None:
        part = flat[:, start : start + step]
        rows = np.empty((part.shape[1], pixels + 1), np.float32)
        rows[:, :-1].reshape(len(rows), len(x), -1)[...] = part.transpose(1, 0, 2)
        rows[:, -1] = 0
        np.take(rows, where, axis=1, out=result[start : start + step], mode="wrap")  # any other mode makes a copy

    products.each(gather, range(0, channels, step))
    return result


def _gathered_sparsely(x: Array, window: Window, output_shape: tuple[int, ...], positions: Index) -> Array:
    """(channels, taps, n) of few positions of a large input, which is not copied."""
    result = np.empty((len(positions), x.shape[1], int(np.prod(window.kernel))), np.float32)
    for tap, (image, coordinates, valid) in enumerate(_taps(window, x.shape, output_shape, positions)):
        index: tuple[Any, ...] = (image, slice(None), *coordinates)
        result[:, :, tap] = x[index] if valid.all() else np.where(valid[:, None], x[index], 0)
    return result.transpose(1, 2, 0)


def tap_positions(
    window: Window, input_shape: tuple[int, ...], output_shape: tuple[int, ...], positions: Index
) -> Index:
    """(n, taps) flat positions (image, *space) of the input that each tap reads at output positions; -1 outside."""
    image, *space = np.unravel_index(positions, output_shape[:1] + output_shape[2:])
    flat, step = image * int(np.prod(input_shape[2:])), int(np.prod(input_shape[2:]))
    for i, at in enumerate(space):
        step //= input_shape[2 + i]
        coordinate, valid = _tap_coordinates(window, i, at, input_shape[2 + i])
        flat = flat[..., None, :] + np.where(valid, coordinate * step, _OUTSIDE)
    np.maximum(flat, -1, out=flat)
    return flat.reshape(-1, len(positions)).T


def _taps(
    window: Window, input_shape: tuple[int, ...], output_shape: tuple[int, ...], positions: Index
) -> Iterator[tuple[Index, list[Index], NDArray[np.bool_]]]:
    """For each tap the image (n,), the input coordinates (n,) that it reads, and whether they lie inside (n,)."""
    image, *space = np.unravel_index(positions, output_shape[:1] + output_shape[2:])
    axes = [_tap_coordinates(window, i, at, input_shape[2 + i]) for i, at in enumerate(space)]
    for choice in itertools.product(*[range(k) for k in window.kernel]):
        coordinates = [axes[i][0][t] for i, t in enumerate(choice)]
        yield image, coordinates, np.logical_and.reduce([axes[i][1][t] for i, t in enumerate(choice)])


def _tap_coordinates(window: Window, dim: int, at: Index, length: int) -> tuple[Index, NDArray[np.bool_]]:
    """Input coordinate (taps, n) read by each tap of one dimension, and whether it lies inside the input."""
    taps, stride = np.arange(window.kernel[dim])[:, None], window.strides[dim]
    dilation, pad = window.dilations[dim], window.pads[dim]
    if window.transposed:
        stuffed = at + pad - (window.kernel[dim] - 1 - taps) * dilation
        coordinate, valid = stuffed // stride, stuffed % stride == 0
    else:
        coordinate = at * stride + taps * dilation - pad
        valid = np.ones(coordinate.shape, bool)
    valid &= (coordinate >= 0) & (coordinate < length)
    return np.where(valid, coordinate, 0), valid


def moments(p: Array, t: Array) -> Moments:
    """Means, Gram and cross moments of patches p (g, n, d) and targets t (g, n, o)."""
    n = p.shape[1]
    mean, target_mean = column_means(p), column_means(t)
    found = []
    for some in group_parts(p):
        centered = p[some] - mean[some, None].astype(np.float32)
        centered_t = t[some] - target_mean[some, None].astype(np.float32)
        cross = products.stacked(centered.transpose(0, 2, 1), centered_t).astype(np.float64) / n
        found.append((_gram(centered), cross))
    grams, crosses = zip(*found, strict=True)
    return Moments(n, mean, joined(grams), target_mean, joined(crosses))


def group_parts(values: Array) -> list[slice]:
    """The groups of values (g, n, d), so many at a time that a copy of them stays small; all where it would anyway."""
    groups, each = len(values), max(1, values[:1].size)
    step = max(2, _COPIED // each) if groups > 1 else 1  # of stacks of one product is another way to sum
    starts = list(range(0, max(1, groups - 1 if groups > step else 1), step))
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], groups], strict=True)]


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Some groups after the others."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def without_still(measured: Moments) -> Moments:
    """The moments with zeros for inputs that never vary: what float32 leaves of their variance says nothing."""
    still = np.einsum("gii->gi", measured.gram) <= np.square(STILL * measured.mean)
    if not still.any():
        return measured
    gram, cross = measured.gram.copy(), measured.cross.copy()
    gram[still], cross[still] = 0, 0
    gram.swapaxes(1, 2)[still] = 0
    return Moments(measured.count, measured.mean, gram, measured.target_mean, cross)


def covariance(p: Array) -> Double:
    """Gram (g, d, d) of patches p (g, n, d) around their mean, float64."""
    return _gram(p - column_means(p)[:, None].astype(np.float32))


def _gram(centered: Array) -> Double:
    # Of a stack of small matrices BLAS is better given all at once.
    found = [products.gram(part) for part in centered] if len(centered) == 1 else centered.transpose(0, 2, 1) @ centered
    gram: Double = np.asarray(found, np.float64) / centered.shape[1]
    return gram


def column_variances(values: Array) -> Double:
    """Variances (..., o) over the rows of values (..., n, o): of a few rows in float32, of these in float64."""
    mean = column_means(values)
    center = mean.astype(np.float32)[..., None, :]
    total: Double = np.zeros(mean.shape)
    for part in row_parts(values):
        piece = values[..., part, :] - center
        total += np.einsum("...no,...no->...o", piece, piece)
    if not np.isfinite(total).all():
        return np.asarray(values.var(-2, dtype=np.float64))
    return np.asarray(total / max(1, values.shape[-2]))


def column_means(values: Array) -> Double:
    """Means (..., o) over the rows of values (..., n, o): of a few rows in float32 by BLAS, of these in float64."""
    ones = np.ones(_ROW, np.float32)
    parts = [values[..., part, :] for part in row_parts(values)]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.asarray(ones[: p.shape[-2]] @ p, np.float64) for p in parts]
    total = np.sum(sums, axis=0) if sums else np.zeros(values.shape[:-2] + values.shape[-1:])
    if not np.isfinite(total).all():
        return np.asarray(values.mean(-2, dtype=np.float64))
    return np.asarray(total / max(1, values.shape[-2]))


def row_parts(values: NDArray[Any]) -> list[slice]:
    """The rows of values (..., n, o), so many at a time that what is made of them stays in the cache."""
    rows = values.shape[-2]
    return products.slices(rows, max(1, min(_ROW, _CACHED * rows // max(1, values.size))))


def channel_statistics(y: Array) -> tuple[Double, Double]:
    """Mean and variance (C,) over all axes but 1 of y (N, C, ...), a few images at a time to keep the memory small."""
    step = max(1, _TOGETHER * len(y) // max(y.size, 1))
    parts = [y[start : start + step] for start in range(0, len(y), step)]
    size = y.size / y.shape[1]
    mean = sum(products.each(channel_sums, parts), start=np.zeros(y.shape[1])) / size
    center = mean.astype(np.float32).reshape((1, -1) + (1,) * (y.ndim - 2))
    with np.errstate(over="ignore"):  # values that large are not fitted anyway
        squares = products.each(lambda part: channel_sums(np.square(part - center)), parts)
    square = sum(squares, start=np.zeros(y.shape[1]))
    return mean, square / size


def channel_sums(y: Array) -> Double:
    """Sums (C,) over all axes but 1 of y (N, C, ...): of an image in float32 by BLAS, of images in float64."""
    rows = y.reshape(len(y), y.shape[1], -1)
    ones = np.ones(min(rows.shape[2], _ROW), np.float32)
    pieces = [rows[:, :, i : i + _ROW] for i in range(0, rows.shape[2], _ROW)]
    with np.errstate(over="ignore", invalid="ignore"):
        found = sum((p @ ones[: p.shape[2]]).sum(0, dtype=np.float64) for p in pieces)
    total = np.asarray(found, np.float64) + np.zeros(y.shape[1])
    return total if np.isfinite(total).all() else np.asarray(rows.sum((0, 2), dtype=np.float64))


def shrunk_covariance(patches: Array, gram: Double | None = None) -> Double:
    """Covariance (g, d, d) of patches (g, n, d), shrunk toward its diagonal where n < 2 d.

    With fewer samples n than unknowns d, every channel looks like a combination of the others, and removing it looks
    free. (The classifier behind a global pooling has one sample an image.) The off-diagonal part is therefore shrunk,

        G ← (1 − ρ) G + ρ diag(G)      ρ = max(0, (2d − n) / (2d + n))

    as in Ledoit and Wolf (2004), whose optimal ρ also falls with n/d; twice as many samples as unknowns are enough to
    leave it as it is.

    Args:
        patches: samples.
        gram: their covariance, where it is known; not changed.
    """
    return shrunk(covariance(patches) if gram is None else gram, patches.shape[1])


def shrunk(gram: Double, samples: int) -> Double:
    """A covariance (..., d, d) of so many samples, as `shrunk_covariance` makes it; a copy where anything changes."""
    share = shrinkage(samples, gram.shape[-1])
    if not share:
        return gram
    found = (1 - share) * gram
    np.einsum("...ii->...i", found)[...] = np.einsum("...ii->...i", gram)
    return found


def shrinkage(samples: int, unknowns: int) -> float:
    """ρ of `shrunk_covariance`."""
    return max(0.0, (2 * unknowns - samples) / (2 * unknowns + samples))
