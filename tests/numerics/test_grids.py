"""Formats, scales and rounding; the naive formulas are here, the package has the fast ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics import grids as quantize
from onnx_udfc.numerics.grids import (
    FORMATS,
    Floats,
    QuantFormat,
    QuantParams,
    round_nearest,
    search_scale,
)
from tests.numerics.gram_rounding import round_with_gram

BITS = sorted(FORMATS)


def correlated_gram(width: int, seed: int = 0, groups: int = 1) -> Floats:
    """(groups, width, width) second moments of rectified, correlated inputs."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(groups, 4 * width, width)) @ (np.eye(width) + rng.normal(size=(width, width))), 0)
    gram: Floats = x.swapaxes(-1, -2) @ x / (4 * width)
    return gram


def damage(codes: NDArray[np.int8], scale: Floats, weight: Floats, gram: Floats) -> float:
    """Equation (1) summed over the rows of weight (o, d)."""
    error = codes * scale[:, None] - weight
    return float(np.einsum("oi,ij,oj->", error, gram, error))


def paper_gptq(weight: Floats, scale: Floats, fmt: QuantFormat, gram: Floats, damping: float) -> NDArray[np.int8]:
    """arXiv 2210.17323, algorithm 1 without blocks, columns by falling diagonal."""
    order = np.argsort(-np.diag(gram), kind="stable")
    H = gram[np.ix_(order, order)] + damping * np.mean(np.diag(gram)) * np.eye(len(gram))
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    W = weight[:, order].copy()
    codes = np.zeros(W.shape)
    for i in range(W.shape[1]):
        codes[:, i] = np.clip(np.rint(W[:, i] / scale), fmt.qmin, fmt.qmax)
        error = (W[:, i] - codes[:, i] * scale) / U[i, i]
        W[:, i:] -= np.outer(error, U[i, i:])
    result = np.empty(W.shape, np.int8)
    result[:, order] = codes
    return result


@pytest.mark.parametrize("bits", BITS)
def test_grids_are_symmetric(bits: float) -> None:
    fmt = FORMATS[bits]
    assert (fmt.bits, fmt.qmin) == (bits, -fmt.qmax)
    if bits == int(bits):
        assert fmt.qmax == 2 ** (int(bits) - 1) - 1
    else:
        assert bits == pytest.approx(np.log2(fmt.levels), abs=0.006)
    assert fmt.storage == (4 if bits <= 4 else 8)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", [3, 70, 150])
def test_the_same_codes_as_the_papers_algorithm(bits: int, width: int) -> None:
    weight = np.random.default_rng(1).normal(size=(6, width))
    gram = correlated_gram(width)[0]
    scale = search_scale(weight, FORMATS[bits])
    codes, reason = round_with_gram(weight, scale, FORMATS[bits], gram)
    assert reason is None
    np.testing.assert_array_equal(codes, paper_gptq(weight, scale, FORMATS[bits], gram, 0.01))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_block_size_does_not_change_the_codes(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(2).normal(size=(5, 130))
    scale, gram = search_scale(weight, FORMATS[3]), correlated_gram(130)[0]
    before = round_with_gram(weight, scale, FORMATS[3], gram).codes
    monkeypatch.setattr(quantize, "BLOCK", block)
    np.testing.assert_array_equal(round_with_gram(weight, scale, FORMATS[3], gram).codes, before)


def test_groups_are_rounded_each_with_its_own_gram() -> None:
    weight = np.random.default_rng(3).normal(size=(7, 2, 9))
    gram = correlated_gram(9, groups=7)
    scale = search_scale(weight, FORMATS[4], gram)
    together = round_with_gram(weight, scale, FORMATS[4], gram).codes
    for g in range(7):
        np.testing.assert_array_equal(search_scale(weight[g], FORMATS[4], gram[g]), scale[g])
        np.testing.assert_array_equal(round_with_gram(weight[g], scale[g], FORMATS[4], gram[g]).codes, together[g])


def test_inputs_without_correlation_give_the_nearest_codes() -> None:
    weight = np.random.default_rng(4).normal(size=(8, 20))
    scale = search_scale(weight, FORMATS[4])
    codes = round_with_gram(weight, scale, FORMATS[4], np.diag(np.arange(1.0, 21.0))).codes
    np.testing.assert_array_equal(codes, round_nearest(weight, scale, FORMATS[4]))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_gram_halves_the_damage_of_correlated_inputs(bits: int) -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(16, 96))
    inputs = np.maximum(rng.normal(size=(500, 12)) @ rng.normal(size=(12, 96)), 0)
    gram = inputs.T @ inputs / 500
    scale = search_scale(weight, FORMATS[bits], gram)
    nearest = round_nearest(weight, scale, FORMATS[bits])
    better = round_with_gram(weight, scale, FORMATS[bits], gram).codes
    assert damage(better, scale, weight, gram) < 0.5 * damage(nearest, scale, weight, gram)


def test_inputs_that_are_copies_of_each_other_are_no_trouble() -> None:
    gram = np.ones((40, 40))
    weight = np.random.default_rng(6).normal(size=(3, 40))
    scale = search_scale(weight, FORMATS[4], gram)
    codes, reason = round_with_gram(weight, scale, FORMATS[4], gram)
    assert reason is None
    # All inputs being one, only the sum of a row matters, and the last columns can make it nearly exact.
    assert np.abs((codes * scale[:, None] - weight).sum(1)).max() < scale.max()


def test_inputs_that_were_never_seen_give_the_nearest_codes() -> None:
    weight = np.random.default_rng(7).normal(size=(2, 3, 9))
    scale = search_scale(weight, FORMATS[4])
    codes, reason = round_with_gram(weight, scale, FORMATS[4], np.zeros((2, 9, 9)))
    assert reason is None
    np.testing.assert_array_equal(codes, round_nearest(weight, scale, FORMATS[4]))


def test_a_gram_that_is_not_positive_gets_more_damping() -> None:
    weight = np.random.default_rng(8).normal(size=(3, 2))
    scale = search_scale(weight, FORMATS[4])
    codes, reason = round_with_gram(weight, scale, FORMATS[4], np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert reason is None
    assert np.abs(codes).max() <= FORMATS[4].qmax


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_gram_that_cannot_be_used_gives_the_nearest_codes_and_a_reason(bad: float) -> None:
    weight = np.random.default_rng(9).normal(size=(3, 4))
    gram = np.eye(4)
    gram[2, 2] = bad
    scale = search_scale(weight, FORMATS[4])
    codes, reason = round_with_gram(weight, scale, FORMATS[4], gram)
    np.testing.assert_array_equal(codes, round_nearest(weight, scale, FORMATS[4]))
    assert reason is not None
    assert "second moments" in reason


@pytest.mark.parametrize("bits", BITS)
def test_weights_on_the_grid_are_kept_exactly(bits: int) -> None:
    fmt = FORMATS[bits]
    codes = np.random.default_rng(10).integers(fmt.qmin, fmt.qmax + 1, (6, 50)).astype(np.int8)
    codes[:, 0] = fmt.qmax
    weight = codes * np.array([2.0**-k for k in range(6)])[:, None]
    scale = search_scale(weight, fmt)
    params = QuantParams(bits, round_nearest(weight, scale, fmt)[None], scale[None])
    np.testing.assert_array_equal(params.dequantize()[0], weight)


@pytest.mark.parametrize("with_gram", [False, True])
def test_the_scale_is_the_best_of_all_candidates(with_gram: bool) -> None:
    fmt, weight = FORMATS[3], np.random.default_rng(11).standard_t(3, size=(10, 30))
    gram = correlated_gram(30)[0] if with_gram else np.eye(30)
    scale = search_scale(weight, fmt, gram if with_gram else None)
    for row, found in zip(weight, scale, strict=True):
        candidates = [
            np.float64(np.float32(np.abs(row).max() / fmt.qmax * f)) for f in np.linspace(1.0, fmt.lowest_clip, 25)
        ]
        errors = []
        for s in candidates:
            error = np.clip(np.rint(row / s), fmt.qmin, fmt.qmax) * s - row
            errors.append(error @ gram @ error)
        assert found == candidates[int(np.argmin(errors))]


def test_wide_rows_are_searched_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(12).normal(size=(3, 5, 40))
    before = search_scale(weight, FORMATS[4])
    monkeypatch.setattr(quantize, "CACHED", 80)
    np.testing.assert_array_equal(search_scale(weight, FORMATS[4]), before)


def test_ternary_weights_are_clipped_far_below_the_largest() -> None:
    weight = np.random.default_rng(13).normal(size=(4, 2000))
    scale = search_scale(weight, FORMATS[2])
    codes = round_nearest(weight, scale, FORMATS[2])
    assert set(np.unique(codes)) == {-1, 0, 1}
    # 0.190 of the variance is the least error of three equally spaced levels on a normal distribution.
    error = np.square(codes * scale[:, None] - weight).mean(1)
    np.testing.assert_array_less(error, 0.21)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_are_positive_and_exact_in_the_files_type(dtype: type) -> None:
    weight = np.random.default_rng(14).normal(size=(5, 8))
    weight[1], weight[2], weight[3, 1:] = 0.0, 1e-30, 0.0
    scale = search_scale(weight, FORMATS[4], dtype=dtype)
    assert scale[1] == 1.0
    assert (scale > 0).all()
    np.testing.assert_array_equal(scale.astype(dtype).astype(np.float64), scale)
    codes = round_nearest(weight, scale, FORMATS[4])
    assert not codes[1].any()
    assert np.isfinite(codes * scale[:, None]).all()


def test_empty_weights_have_empty_scales() -> None:
    assert search_scale(np.zeros((0, 4)), FORMATS[4]).shape == (0,)
