"""Codes and scales together: never worse than rounding alone, and each step against its naive formula."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics import rounding as refine
from onnx_udfc.numerics.grids import (
    FORMATS,
    Codes,
    Floats,
    GramBasis,
    QuantFormat,
    gram_basis,
    round_nearest,
    search_scale,
)
from onnx_udfc.numerics.rounding import best_scale, descend, quantize_layer
from tests.numerics.gram_rounding import round_with_gram

F32 = np.dtype(np.float32)


def problem(groups: int, rows: int, width: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Weights (groups, rows, width) and Grams of rectified inputs of low rank."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, max(2, width // 4), width))
    inputs = np.maximum(rng.normal(size=(groups, 4 * width, mix.shape[1])) @ mix, 0)
    return rng.normal(size=(groups, rows, width)), inputs.swapaxes(1, 2) @ inputs / (4 * width)


def basis_of(gram: Floats) -> GramBasis:
    basis = gram_basis(gram, 0.01)
    assert isinstance(basis, GramBasis)
    return basis


def descended(weight: Floats, codes: Codes, scale: Floats, fmt: QuantFormat, gram: Floats) -> Codes:
    """The codes (groups, rows, width) that `descend` comes to."""
    basis = basis_of(gram)
    columns = basis.columns(codes)
    descend(basis.columns(weight), columns, scale, fmt, basis)
    return basis.codes(columns)


def damage(codes: np.ndarray, scale: Floats, weight: Floats, gram: Floats) -> Floats:
    """(groups, rows)."""
    error = codes * scale[..., None] - weight
    found: Floats = np.einsum("god,gde,goe->go", error, gram, error)
    return found


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("groups", "rows", "width"), [(1, 12, 90), (20, 1, 9), (3, 4, 30)])
def test_a_tenth_less_damage_than_rounding_alone(bits: int, groups: int, rows: int, width: int) -> None:
    fmt, (weight, gram) = FORMATS[bits], problem(groups, rows, width)
    scale = search_scale(weight, fmt, gram)
    before = damage(round_with_gram(weight, scale, fmt, gram).codes, scale, weight, gram).sum()
    found, reason = quantize_layer(weight, gram, bits, F32)
    assert not reason
    assert np.abs(found.codes).max() <= fmt.qmax
    assert damage(found.codes, found.scale, weight, gram).sum() < 0.9 * before


def test_the_scale_of_given_codes_is_the_best() -> None:
    weight, gram = problem(2, 5, 12)
    codes = round_nearest(weight, search_scale(weight, FORMATS[4]), FORMATS[4])
    basis = basis_of(gram)
    found = best_scale(basis.columns(weight), basis.columns(codes), np.ones((2, 5)), basis)
    least = damage(codes, found.scale, weight, gram)
    for factor in (0.99, 1.01):
        assert (damage(codes, found.scale * factor, weight, gram) > least).all()
    level = np.einsum("gii->g", gram)[:, None] / 12
    nothing = damage(np.zeros_like(codes), found.scale, weight, gram)
    np.testing.assert_allclose(found.gain * level, least - nothing, rtol=1e-5)


def test_codes_of_zeros_keep_their_scale() -> None:
    weight, gram = problem(1, 2, 6)
    basis = basis_of(gram)
    codes, scale = np.zeros((1, 6, 2), np.float32), np.array([[3.0, 4.0]])
    np.testing.assert_array_equal(best_scale(basis.columns(weight), codes, scale, basis).scale, scale)


def test_descent_ends_where_no_single_code_can_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "SWEEPS", 100)
    fmt, (weight, gram) = FORMATS[3], problem(1, 3, 20)
    scale = search_scale(weight, fmt, gram)
    codes = descended(weight, round_nearest(weight, scale, fmt), scale, fmt, gram)
    damped = gram + 0.01 * np.trace(gram[0]) / 20 * np.eye(20)
    least = damage(codes, scale, weight, damped)
    for column in range(20):
        for step in (-1, 1):
            moved = codes.copy()
            moved[..., column] = np.clip(moved[..., column] + step, fmt.qmin, fmt.qmax)
            assert (damage(moved, scale, weight, damped) >= least * (1 - 1e-6)).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_block_size_does_not_change_the_descent(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, (weight, gram) = FORMATS[3], problem(2, 3, 70)
    scale = search_scale(weight, fmt, gram)
    start = round_nearest(weight, scale, fmt)
    before = descended(weight, start, scale, fmt, gram)
    assert (before != start).any()
    monkeypatch.setattr(refine, "BLOCK", block)
    np.testing.assert_array_equal(descended(weight, start, scale, fmt, gram), before)


def test_a_large_layer_tries_its_own_scale_only(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, (weight, gram) = FORMATS[3], problem(1, 4, 40)
    monkeypatch.setattr(refine, "MOST_CANDIDATES", 1)
    scale = search_scale(weight, fmt, gram)
    before = damage(round_with_gram(weight, scale, fmt, gram).codes, scale, weight, gram).sum()
    found, _ = quantize_layer(weight, gram, 3, F32)
    assert damage(found.codes, found.scale, weight, gram).sum() < before


def test_inputs_never_seen_and_weights_of_zero_are_no_trouble() -> None:
    weight, gram = problem(3, 2, 9)
    gram[1], weight[2] = 0.0, 0.0
    found, reason = quantize_layer(weight, gram, 4, F32)
    assert not reason
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    np.testing.assert_array_equal(found.codes[1], round_nearest(weight[1], found.scale[1], FORMATS[4]))
    assert not found.codes[2].any()


def test_a_gram_that_cannot_be_used_gives_the_nearest_codes_and_a_reason() -> None:
    weight, gram = problem(1, 2, 6)
    gram[0, 0, 0] = np.nan
    found, reason = quantize_layer(weight, gram, 4, F32)
    assert reason
    np.testing.assert_array_equal(found.codes, round_nearest(weight, found.scale, FORMATS[4]))
