"""Low-rank factors against what they must be: exact at full rank, optimal below it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.factors import Split, curve, factors, first_gram, splits

Double = NDArray[np.float64]
KERNELS = [(), (1, 1), (5,), (3, 3), (1, 7), (2, 3, 3)]
CASES = [split for kernel in KERNELS for split in splits(kernel)]


def product(first: Double, second: Double, split: Split) -> Double:
    """The weight (o, I t₁ t₂) of both layers in a row, by the definition."""
    t1, t2 = split.taps
    return np.asarray(
        np.einsum("ria,orb->oiab", first.reshape(len(first), -1, t1), second.reshape(len(second), -1, t2))
    )


def problem(split: Split, channels: int = 5, out: int = 7, n: int = 4000) -> tuple[Double, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    d = channels * int(np.prod(split.taps))
    mixed = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d)
    return rng.standard_normal((out, d)), mixed.astype(np.float32)


@pytest.mark.parametrize("split", CASES, ids=str)
def test_full_rank_is_the_layer_itself(split: Split) -> None:
    weight, seen = problem(split)
    t1, t2 = split.taps
    rank = min(5 * t1, 7 * t2)
    first, second = factors(weight, np.cov(seen.T).astype(np.float64), split, rank)
    assert first.shape == (rank, 5 * t1)
    assert second.shape == (7, rank * t2)
    np.testing.assert_allclose(product(first, second, split).reshape(weight.shape), weight, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("split", CASES, ids=str)
def test_what_is_of_low_rank_costs_nothing_and_one_rank_less_does(split: Split) -> None:
    rng = np.random.default_rng(5)
    t1, t2 = split.taps
    whole = product(rng.standard_normal((2, 5 * t1)), rng.standard_normal((7, 2 * t2)), split).reshape(7, -1)
    seen = problem(split)[1]
    found = curve(whole, seen, (seen @ whole.T).astype(np.float32), split)
    assert found.lost[2] < 1e-5 * found.lost[0]
    assert found.lost[1] > 1e-3 * found.lost[0]
    first, second = factors(whole, np.cov(seen.T).astype(np.float64), split, 2)
    np.testing.assert_allclose(product(first, second, split).reshape(whole.shape), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_channels_between_lose_less(kernel: tuple[int, ...], rank: int) -> None:
    split = splits(kernel)[0]
    weight, seen = problem(split)
    gram = np.cov(seen.T, bias=True).astype(np.float64)

    def loss(approximation: Double) -> float:
        difference = weight - approximation
        return float(np.einsum("od,de,oe->", difference, gram, difference))

    first, second = factors(weight, gram, split, rank)
    best = loss(second @ first)
    found = curve(weight, seen, (seen @ weight.T).astype(np.float32), split)
    assert best == pytest.approx(found.lost[rank], rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):  # any other first layer, with the best second one for it
        other = first + 0.3 * rng.standard_normal(first.shape)
        after = weight @ gram @ other.T @ np.linalg.inv(other @ gram @ other.T)
        assert loss(after @ other) > best


@pytest.mark.parametrize("split", CASES, ids=str)
def test_the_channels_between_have_unit_variance(split: Split) -> None:
    weight, seen = problem(split)
    gram = np.cov(seen.T, bias=True).astype(np.float64)
    first, _ = factors(weight, gram, split, 2)
    inner = first_gram(gram, split)
    np.testing.assert_allclose(np.einsum("rd,de,re->r", first, inner, first), 1, rtol=5e-3)


def test_directions_that_are_not_there_stay_zero() -> None:
    weight = np.outer(np.arange(1.0, 5.0), np.ones(6))
    first, second = factors(weight, np.eye(6), Split("channel", (), 0), 3)
    assert not first[1:].any()
    np.testing.assert_allclose(second @ first, weight, rtol=1e-9)
