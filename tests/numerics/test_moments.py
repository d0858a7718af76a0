from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import (
    Window,
    channel_statistics,
    channel_sums,
    column_means,
    column_variances,
    covariance,
    moments,
    patches,
    sample_positions,
    sample_targets,
    tap_positions,
)
from tests.memory import taken

Floats = NDArray[np.floating]


class Case(NamedTuple):
    """Geometry of one layer, with the pads after the last pixel."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    groups: int = 1


def grid() -> list[Case]:
    """Every combination of the usual values in one and two dimensions, and some in three."""
    line = [(1, 3), (1, 2, 3), (1, 2), (0, 1), (0, 2), (1, 2, 4)]
    cases = [Case((11,), (i,), (j,), (k,), (m,), (n,), g) for i, j, k, m, n, g in itertools.product(*line)]
    plane = [((1, 1), (3, 2)), ((1, 1), (2, 3)), ((1, 1), (2, 1)), ((0, 0), (1, 2))]
    cases += [Case((7, 9), k, s, d, b, (2, 1), g) for k, s, d, b in itertools.product(*plane) for g in (1, 4)]
    for s, d, g in itertools.product([(1, 1, 1), (2, 1, 2)], [(1, 1, 1), (1, 2, 1)], [1, 2]):
        cases.append(Case((5, 6, 4), (2, 3, 1), s, d, (1, 0, 0), (0, 1, 0), g))
    return cases


def output_size(case: Case) -> tuple[int, ...]:
    reach = [(k - 1) * d + 1 for k, d in zip(case.kernel, case.dilations, strict=True)]
    padded = [n + b + e for n, b, e in zip(case.size, case.begin, case.end, strict=True)]
    return tuple((n - r) // s + 1 for n, r, s in zip(padded, reach, case.strides, strict=True))


def naive_patch(x: Floats, case: Case, image: int, at: tuple[int, ...]) -> Floats:
    """(g, I/g * taps) what a convolution sees at one output position: loops over channels and taps."""
    channels, taps = x.shape[1], list(itertools.product(*[range(k) for k in case.kernel]))
    result = np.zeros((channels, len(taps)), x.dtype)
    for c in range(channels):
        for t, tap in enumerate(taps):
            place = [
                a * s + o * d - b
                for a, s, o, d, b in zip(at, case.strides, tap, case.dilations, case.begin, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(place, case.size, strict=True)):
                result[c, t] = x[(image, c, *place)]
    return result.reshape(case.groups, -1)


@pytest.mark.parametrize("case", grid(), ids=str)
def test_patches_are_those_of_a_naive_im2col(case: Case) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, *case.size)).astype(np.float32)
    window = Window(case.kernel, case.strides, case.dilations, case.begin, case.groups)
    shape = (2, 8, *output_size(case))
    positions = sample_positions(shape, window, 20, seed=1)
    found = patches(x, window, shape, positions)
    assert found.dtype == np.float32
    for n, flat in enumerate(positions):
        image, *at = np.unravel_index(flat, (2, *shape[2:]))
        assert np.array_equal(found[:, n], naive_patch(x, case, int(image), tuple(int(i) for i in at)))


TRANSPOSED = list(itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (0, 1), (0, 1), (1, 2)))


@pytest.mark.parametrize(("kernel", "stride", "dilation", "pad", "extra", "groups"), TRANSPOSED)
def test_patches_of_a_transposed_convolution_are_those_of_the_stuffed_input(
    kernel: int, stride: int, dilation: int, pad: int, extra: int, groups: int
) -> None:
    length, reach = 6, (kernel - 1) * dilation
    x = np.random.default_rng(0).normal(size=(2, 4, length)).astype(np.float32)
    out = stride * (length - 1) + extra + reach + 1 - 2 * pad
    stuffed = np.zeros((2, 4, (length - 1) * stride + 1 + 2 * reach + extra), np.float32)
    stuffed[:, :, reach : reach + (length - 1) * stride + 1 : stride] = x
    plain = Case(stuffed.shape[2:], (kernel,), (1,), (dilation,), (0,), (0,), groups)
    window = Window((kernel,), (stride,), (dilation,), (pad,), groups, transposed=True)
    found = patches(x, window, (2, 8, out), np.arange(2 * out))
    for image, at in itertools.product(range(2), range(out)):
        assert np.array_equal(found[:, image * out + at], naive_patch(stuffed, plain, image, (at + pad,)))


def test_patches_of_a_gemm_are_rows() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    positions = np.array([0, 4, 9])
    assert np.array_equal(patches(x, Window(), (2, 5, 7), positions)[0], x.reshape(10, 3)[positions])


def test_targets_are_the_outputs_at_the_positions() -> None:
    rng = np.random.default_rng(0)
    y, window = rng.normal(size=(3, 5, 4, 6)).astype(np.float32), Window((1, 1), (1, 1), (1, 1), (0, 0))
    positions = sample_positions(y.shape, window, 17, seed=0)
    naive = [y[i, :, r, c] for i, r, c in (np.unravel_index(p, (3, 4, 6)) for p in positions)]
    assert np.array_equal(sample_targets(y, window, positions), np.stack(naive))
    rows = rng.normal(size=(3, 4, 5)).astype(np.float32)
    assert np.array_equal(sample_targets(rows, Window(), np.array([2, 11])), rows.reshape(12, 5)[[2, 11]])


def test_positions_are_sorted_different_and_seeded() -> None:
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    some = sample_positions((4, 9, 10, 10), window, 100, seed=3)
    assert len(some) == 100
    assert (np.diff(some) > 0).all()
    assert 0 <= some[0] <= some[-1] < 400
    assert np.array_equal(some, sample_positions((4, 9, 10, 10), window, 100, seed=3))
    assert not np.array_equal(some, sample_positions((4, 9, 10, 10), window, 100, seed=4))
    assert np.array_equal(sample_positions((4, 9, 10, 10), window, 400, seed=3), np.arange(400))
    assert np.array_equal(sample_positions((4, 7, 9), Window(), 1000, seed=3), np.arange(28))


def naive_covariance(a: Floats, b: Floats) -> Floats:
    """Covariance of the columns of a (n, d) and b (n, o), in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    result = np.zeros((a.shape[1], b.shape[1]))
    for x, y in zip(a - a.mean(0), b - b.mean(0), strict=True):
        result += np.outer(x, y)
    return result / len(a)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_moments_are_the_naive_ones(groups: int, offset: float) -> None:
    rng = np.random.default_rng(0)
    p = (rng.normal(size=(groups, 200, 7)) + offset).astype(np.float32)
    t = (rng.normal(size=(groups, 200, 4)) + p[:, :, :4] - offset).astype(np.float32)
    found = moments(p, t)
    assert found.count == 200
    np.testing.assert_allclose(found.mean, p.mean(1, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(found.target_mean, t.mean(1, dtype=np.float64), rtol=1e-5)
    for g in range(groups):
        np.testing.assert_allclose(found.gram[g], naive_covariance(p[g], p[g]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.cross[g], naive_covariance(p[g], t[g]), rtol=1e-5, atol=1e-5)
    assert found.gram.dtype == found.cross.dtype == found.mean.dtype == np.float64
    np.testing.assert_allclose(covariance(p), found.gram, rtol=1e-5, atol=1e-6)


def test_the_gram_is_symmetric() -> None:
    p = np.random.default_rng(0).normal(size=(2, 100, 30)).astype(np.float32)
    for gram in (covariance(p), covariance(p[:1])):
        assert np.array_equal(gram, gram.swapaxes(1, 2))


@pytest.mark.parametrize("shape", [(4, 3, 8, 9), (4, 3, 11), (4, 3), (2, 3, 4, 5, 6)])
def test_channel_statistics(shape: tuple[int, ...]) -> None:
    y = (np.random.default_rng(0).normal(size=shape) + 100).astype(np.float32)  # a large mean must not eat the variance
    mean, var = channel_statistics(y)
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(mean, y.mean(axes, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(var, y.astype(np.float64).var(axes), rtol=1e-5)


@pytest.mark.parametrize("count", [3, 200])
def test_patches_are_what_their_tap_positions_say(count: int) -> None:
    """Of few positions of a large input and of many, by two ways of gathering."""
    x = np.random.default_rng(0).normal(size=(2, 3, 11, 12)).astype(np.float32)
    window, shape = Window((3, 2), (2, 1), (1, 2), (1, 1)), (2, 4, 6, 12)
    positions = sample_positions(shape, window, count, 0)
    at = tap_positions(window, x.shape, shape, positions)
    rows = np.concatenate([np.moveaxis(x, 1, -1).reshape(-1, 3), np.zeros((1, 3), np.float32)])
    naive = rows[at].transpose(0, 2, 1).reshape(len(positions), -1)
    assert np.array_equal(patches(x, window, shape, positions)[0], naive)


def test_sums_of_channels_are_those_in_double_precision() -> None:
    y = np.random.default_rng(0).normal(3, 1, size=(3, 4, 70, 81)).astype(np.float32)
    np.testing.assert_allclose(channel_sums(y), y.sum((0, 2, 3), dtype=np.float64), rtol=1e-6)
    assert channel_sums(y[:, :, :0]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(5000, 3), (2, 700, 31), (40, 6, 1), (1, 4), (3, 0, 2)])
def test_means_and_variances_of_columns_are_those_of_float64(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(100, 2, shape).astype(np.float32)
    if not shape[-2]:
        assert column_means(values).shape == column_variances(values).shape == (3, 2)
        return
    exact = values.astype(np.float64)
    np.testing.assert_allclose(column_means(values), exact.mean(-2), rtol=3e-6)
    np.testing.assert_allclose(column_variances(values), exact.var(-2), rtol=1e-4, atol=1e-9)


def test_columns_too_large_for_float32_have_means_and_variances() -> None:
    values = np.array([[1e38, 1.0], [3e38, 2.0], [3e38, 3.0]], np.float32)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(column_means(values), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(column_variances(values), exact.var(0), rtol=1e-6)


def test_patches_take_no_copy_of_the_input_beside_them() -> None:
    x = np.random.default_rng(0).normal(size=(16, 64, 40, 40)).astype(np.float32)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    positions = sample_positions(x.shape, window, 2000, 0)
    found, bytes_ = taken(lambda: patches(x, window, x.shape, positions))
    assert bytes_ - found.nbytes < x.nbytes / 2
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for row, flat in enumerate(positions[::97]):
        n, i, j = np.unravel_index(flat, (16, 40, 40))
        np.testing.assert_array_equal(found[0, 97 * row], padded[n, :, i : i + 3, j : j + 3].ravel())
