"""Ranges of activations."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.activation_grids import ActivationParams, Kind, Read, as_they_are, search_range, whole_range
from tests.memory import taken


def squared_error(params: ActivationParams, x: np.ndarray) -> float:
    return float(np.square(params.simulate(x) - x).mean())


def test_values_on_the_grid_are_kept_exactly() -> None:
    x = np.arange(256) * 0.5
    params = search_range(x)
    assert params == ActivationParams(0.5, 0)
    np.testing.assert_array_equal(params.simulate(x), x)


def test_nothing_negative_means_zero_point_zero() -> None:
    assert search_range(np.maximum(np.random.default_rng(0).normal(size=1000), 0)).zero_point == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shift", [-100.0, -1.0, 0.0, 1.0, 100.0])
def test_zero_is_always_exact(dtype: Kind, shift: float) -> None:
    params = search_range(np.random.default_rng(1).normal(size=500) + shift, dtype)
    assert params.simulate(np.zeros(1))[0] == 0.0


def test_int8_is_symmetric() -> None:
    params = whole_range(np.array([-1.0, 127.0]), "int8")
    assert params == ActivationParams(1.0, 0, "int8")


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_clipping_pays_where_few_values_are_far_out(dtype: Kind) -> None:
    x = np.random.default_rng(2).standard_t(4, size=100_000)
    assert squared_error(search_range(x, dtype), x) < 0.8 * squared_error(whole_range(x, dtype), x)


def test_evenly_spread_values_are_not_clipped() -> None:
    x = np.linspace(-1.0, 3.0, 10_000)
    assert search_range(x) == whole_range(x)


@pytest.mark.parametrize("cap", [6.0, 0.1, 1 / 3, 20.7])
def test_the_top_of_the_range_stays_within_the_cap_in_float32(cap: float) -> None:
    scale = np.float32(search_range(np.linspace(0, 50, 1000), cap=cap).scale)
    assert scale * np.float32(255) <= np.float32(cap)
    assert np.nextafter(scale, np.float32(1)) * np.float32(255.001) > np.float32(cap)


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-6])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_constant_tensor_is_kept(value: float, dtype: Kind) -> None:
    params = search_range(np.full(10, value), dtype)
    np.testing.assert_allclose(params.simulate(np.full(3, value)), value, rtol=1e-6)


@pytest.mark.parametrize("x", [np.zeros(5), np.array([]), np.full(4, np.nan)])
def test_a_tensor_of_zeros_has_scale_one(x: np.ndarray) -> None:
    assert search_range(x) == ActivationParams(1.0, 0)


def test_values_that_are_not_finite_are_left_out() -> None:
    x = np.random.default_rng(3).normal(size=1000)
    assert search_range(np.concatenate([x, [np.nan, np.inf, -np.inf]])) == search_range(x)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_extreme_values_have_a_finite_positive_scale(size: float) -> None:
    scale = search_range(np.array([-size, size])).scale
    assert 0 < scale < np.inf
    assert scale == np.float64(np.float32(scale))


def test_constants_close_together_are_no_trouble() -> None:
    params = search_range(np.array([100.0, np.nextafter(100.0, 101.0)] * 50))
    np.testing.assert_allclose(params.simulate(np.array([100.0])), 100.0, rtol=1e-6)


WIDENED = [(1.0, None, 4.0), (1.5, None, 6.0), (1.5, 5.0, 5.0), (1.0, 6.0, 4.0)]


@pytest.mark.parametrize(("margin", "cap", "top"), WIDENED)
def test_the_whole_range_is_widened_up_to_the_cap(margin: float, cap: float | None, top: float) -> None:
    params = whole_range(np.array([0.0, 0.5, 4.0, np.inf]), "uint8", cap, margin)
    assert params.scale * 255 == pytest.approx(top, rel=1e-6)


def test_both_ends_of_the_whole_range_are_widened() -> None:
    params = whole_range(np.array([-2.0, 4.0]), margin=1.5)
    low, high = (np.array([0, 255]) - params.zero_point) * params.scale
    assert (low, high) == (pytest.approx(-3, abs=params.scale), pytest.approx(6, abs=params.scale))


def test_headroom_widens_a_clipped_range_but_not_beyond_the_samples() -> None:
    x = np.append(np.random.default_rng(2).uniform(size=250_000), 1.6)
    best, wider, all_of_it = search_range(x), search_range(x, headroom=1.25), search_range(x, headroom=100)
    assert wider.scale == pytest.approx(1.25 * best.scale)
    assert all_of_it == whole_range(x)


@pytest.mark.parametrize(("cap", "top"), [(None, 1.25), (1.1, 1.1)])
def test_headroom_goes_beyond_the_samples_where_asked_but_not_beyond_the_cap(cap: float | None, top: float) -> None:
    x = np.linspace(0, 1, 1000)
    within, beyond = (search_range(x, "uint8", cap, 1.25, beyond=b) for b in (False, True))
    assert within.scale * 255 == pytest.approx(1, rel=1e-6)
    assert beyond.scale * 255 == pytest.approx(top, rel=1e-6)
    assert (within.zero_point, beyond.zero_point) == (0, 0)


def test_a_range_is_found_and_a_large_tensor_coded_in_a_quarter_of_its_memory() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 300_001)).astype(np.float32)
    params, searching = taken(lambda: search_range(x))
    seen, quantizing = taken(lambda: params.coded(x))
    assert searching < x.nbytes
    assert quantizing < 0.4 * x.nbytes
    np.testing.assert_array_equal(seen[...], params.simulate(x).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("grid", [ActivationParams(0.015625, 117), ActivationParams(0.015625, 0, "int8")])
def test_codes_are_read_as_what_a_pair_gives(dtype: str, grid: ActivationParams) -> None:
    values = np.linspace(-3, 3, 1200).astype(dtype).reshape(4, 3, 100)
    seen, expected = grid.coded(values), grid.simulate(values).astype(dtype)
    assert (seen.ndim, seen.size, len(seen)) == (3, values.size, 4)
    for rows in (slice(1, 3), 2, np.array([3, 0]), ...):
        assert seen[rows].dtype == dtype
        np.testing.assert_array_equal(seen[rows], expected[rows])
    assert grid.coded(np.array(0.5, dtype))[...] == grid.simulate(np.array(0.5, dtype)).astype(dtype)


def test_what_is_not_finite_is_left_out_of_large_tensors_too() -> None:
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    spoilt = np.insert(x, [5, 5000, 90_000], [np.nan, np.inf, -np.inf])
    assert search_range(spoilt) == search_range(x)
    assert whole_range(spoilt) == whole_range(x)


def test_what_the_reader_does_not_tell_apart_takes_no_codes() -> None:
    x = np.random.default_rng(0).normal(size=20000) * np.where(np.arange(20000) % 2, 100.0, 2.0)

    def hard_swish(v: np.ndarray) -> np.ndarray:
        return np.asarray(v * np.clip(v / 6 + 0.5, 0, 1), np.float64)

    def error(read: Read) -> float:
        grid = search_range(np.minimum(x, 20), read=read)
        return float(np.square(hard_swish(grid.simulate(np.minimum(x, 20))) - hard_swish(np.minimum(x, 20))).mean())

    grid = search_range(np.minimum(x, 20), read=hard_swish)
    low = -grid.zero_point * grid.scale
    assert -20 < low < -2
    assert error(hard_swish) < error(as_they_are) / 10


@pytest.mark.parametrize("cap", [6.0, 1.0])
def test_a_tensor_that_is_always_zero_stays_within_its_cap(cap: float) -> None:
    still = np.zeros(10)
    for params in (search_range(still, cap=cap), whole_range(still, cap=cap)):
        assert np.float32(params.scale) * np.float32(255) <= np.float32(cap)
        assert params.zero_point == 0
    assert search_range(still).scale == 1.0
