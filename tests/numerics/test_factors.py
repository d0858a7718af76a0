"""Low-rank factors against what they must be: exact at full rank, optimal below it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.factors import RIDGE, UNSEEN, Split, curve, evened, factors, first_gram, splits, turned
from onnx_udfc.numerics.grids import FORMATS, round_nearest, search_scale

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
    first, second = factors(weight, np.cov(seen.T).astype(np.float64), split, rank, len(seen))
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
    first, second = factors(whole, np.cov(seen.T).astype(np.float64), split, 2, len(seen))
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

    first, second = factors(weight, gram, split, rank, len(seen))
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
    first, _ = factors(weight, gram, split, 2, len(seen))
    inner = first_gram(gram, split)
    np.testing.assert_allclose(np.einsum("rd,de,re->r", first, inner, first), 1, rtol=5e-3)


def test_directions_that_are_not_there_stay_zero() -> None:
    weight = np.outer(np.arange(1.0, 5.0), np.ones(6))
    first, second = factors(weight, np.eye(6), Split("channel", (), 0), 3, 100)
    assert not first[1:].any()
    np.testing.assert_allclose(second @ first, weight, rtol=1e-9)


@pytest.mark.parametrize("split", CASES, ids=str)
def test_channels_between_that_are_evened_make_the_same_layer(split: Split) -> None:
    weight, seen = problem(split)
    pair = factors(weight, np.cov(seen.T).astype(np.float64), split, 4, len(seen))
    first, second = evened(*pair, split)
    np.testing.assert_allclose(product(first, second, split), product(*pair, split), rtol=1e-5, atol=1e-9)
    parts = second.reshape(7, 4, -1)
    sizes, before = np.square(parts).sum((0, 2)), np.square(pair[1].reshape(7, 4, -1)).sum((0, 2))
    assert sizes.max() / sizes.min() < before.max() / before.min()
    # The sum of the roots of what the sizes were: the rest went into the first layer.
    roots = np.sqrt(np.linalg.eigvalsh(np.einsum("ort,ost->rs", *2 * [pair[1].reshape(7, 4, -1)])))
    np.testing.assert_allclose(sizes.sum(), roots.sum(), rtol=1e-6)


def test_channels_between_that_nothing_reads_are_evened_too() -> None:
    split = Split("channel", (), 0)
    pair = factors(np.outer(np.arange(1.0, 5.0), np.ones(6)), np.eye(6), split, 3, 100)
    first, second = evened(*pair, split)
    np.testing.assert_allclose(second @ first, pair[1] @ pair[0], rtol=1e-9)
    for still in evened(np.zeros((3, 6)), np.zeros((4, 3)), split):
        assert not still.any()


def rounded(weight: Double, bits: int) -> Double:
    scale = search_scale(weight[None], FORMATS[bits])
    return np.asarray(round_nearest(weight[None], scale, FORMATS[bits])[0] * scale[0][:, None], np.float64)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_few_bits_harm_layers_less_whose_channels_between_are_evened(bits: int) -> None:
    rng = np.random.default_rng(2)
    split, sizes = Split("channel", (), 0), 0.8 ** np.arange(32)
    weight = (np.linalg.qr(rng.standard_normal((64, 32)))[0] * sizes) @ np.linalg.qr(rng.standard_normal((64, 32)))[0].T
    pair = factors(weight, np.eye(64), split, 32, 10_000)

    def lost(first: Double, second: Double) -> float:
        return float(np.square(rounded(second, bits) @ rounded(first, bits) - weight).sum())

    assert lost(*evened(*pair, split)) < 0.5 * lost(*pair)


def smooth(split: Split, n: int) -> NDArray[np.float32]:
    """Patches whose neighbouring taps see much the same, as those of pictures do."""
    rng = np.random.default_rng(11)
    whole, own = rng.standard_normal((n, 5, 1)), rng.standard_normal((n, 5, int(np.prod(split.kernel))))
    return (whole + 0.5 * own).reshape(n, -1).astype(np.float32)


def loss(difference: Double, gram: Double) -> float:
    """Variance of what a difference of weights (o, d) makes of patches."""
    return float(np.einsum("od,de,oe->", difference, gram, difference))


def fitted(first: Double, weight: Double, gram: Double, split: Split) -> Double:
    """The weight (o, I k) of a first layer and the best second one behind it, by the definition."""
    t1, t2 = split.taps
    steps = np.einsum("ria,bc->rbiac", first.reshape(len(first), -1, t1), np.eye(t2)).reshape(len(first) * t2, -1)
    return np.asarray(weight @ gram @ steps.T @ np.linalg.inv(steps @ gram @ steps.T) @ steps)


@pytest.mark.parametrize("split", [s for s in CASES if s.taps[1] > 1], ids=str)
def test_the_first_layer_is_fitted_to_taps_that_hang_together(split: Split) -> None:
    weight, seen = problem(split)[0], smooth(split, 6000)
    gram = np.cov(seen.T, bias=True).astype(np.float64)
    values, vectors = np.linalg.eigh(first_gram(gram, split))  # the best one where taps are uncorrelated
    root = vectors * np.sqrt(values)
    matrix = weight.reshape(7, -1, *split.taps).transpose(1, 2, 0, 3).reshape(len(values), -1)
    left = np.linalg.svd(root.T @ matrix)[0]
    apart = np.linalg.solve(root.T, left[:, :2]).T
    first, second = factors(weight, gram, split, 2, len(seen))
    before = loss(weight - fitted(apart, weight, gram, split), gram)
    after = loss(weight - product(first, second, split).reshape(weight.shape), gram)
    assert after < 0.98 * before
    assert after == pytest.approx(loss(weight - fitted(first, weight, gram, split), gram), rel=2e-3)
    alone = factors(weight, gram, split, 2, 0)[0]  # of no samples: nothing is known of taps together
    np.testing.assert_allclose(loss(weight - fitted(alone, weight, gram, split), gram), before, rtol=5e-3)


def test_the_curve_of_separable_layers_is_what_is_left_behind_the_first_one() -> None:
    split = Split("separable", (3, 3), 1)
    weight, seen = problem(split)[0], smooth(split, 6000)
    gram = np.cov(seen.T, bias=True).astype(np.float64)
    found = curve(weight, seen, (seen @ weight.T).astype(np.float32), split)
    middle = np.cov(seen.reshape(len(seen), -1, 3)[..., 1].T, bias=True).astype(np.float64)
    for rank, exact in ((1, 1e-2), (2, 1e-2), (3, 1e-2), (6, 5e-2), (8, 5e-2)):  # nine save nothing, five are measured
        first = factors(weight, np.kron(middle, np.eye(3)).astype(np.float64), split, rank, 0)[0]
        truth = loss(weight - fitted(first, weight, gram, split), gram)
        assert found.lost[rank] == pytest.approx(truth, rel=exact)


@pytest.mark.parametrize("split", CASES, ids=str)
def test_the_directions_of_a_curve_are_uncorrelated_and_lead(split: Split) -> None:
    weight, seen = problem(split)
    found = curve(weight, seen, (seen @ weight.T).astype(np.float32), split)
    if split.kind == "channel":
        assert found.directions is None
        return
    assert found.directions is not None
    width = 5 * split.taps[0]
    assert found.directions.shape == (width, min(2 * width // 3, 7 * split.taps[1]))
    middle = seen.reshape(len(seen), -1, split.taps[1])[..., split.taps[1] // 2]
    directions = found.directions.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-3)
    inner = np.asarray(np.corrcoef((middle @ directions).T))
    np.testing.assert_allclose(inner, np.eye(len(inner)), atol=1e-2)
    matrix = weight.reshape(7, -1, split.taps[1]).transpose(1, 0, 2).reshape(width, -1)
    spread = (middle @ directions).std(0)
    explained = np.square((directions / spread).T @ np.cov(middle.T, bias=True) @ matrix).sum(1)
    assert (np.diff(explained) <= 1e-2 * explained[0]).all()


def test_what_few_samples_do_not_show_is_left_as_it_was() -> None:
    split = Split("separable", (3, 3), 1)
    weight, seen = problem(split)[0], smooth(split, 20)
    first, second = factors(weight, np.cov(seen.T, bias=True).astype(np.float64), split, 4, len(seen))
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    flat = factors(weight, np.zeros((45, 45)), split, 4, len(seen))
    assert all(np.isfinite(part).all() for part in flat)


def test_weights_of_what_does_not_vary_stay_small() -> None:
    """More channels between than directions in which a quarter of silent inputs leaves anything."""
    rng, split = np.random.default_rng(0), Split("separable", (3, 3), 1)
    seen = np.maximum(rng.standard_normal((100, 16, 1)) + 0.5 * rng.standard_normal((100, 16, 9)) - 1, 0)
    seen[:, :4] = 0
    gram = np.cov(seen.reshape(100, -1).T, bias=True).astype(np.float64)
    first, _ = factors(rng.standard_normal((32, 144)), gram, split, 44, len(seen))
    inner = first_gram(gram, split)
    assert np.abs(first).max() <= 1.001 / np.sqrt(RIDGE * np.diag(inner).mean())  # of unit variance, the ridge in it


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e8])
def test_curves_and_factors_of_any_size_are_finite_and_fall(size: float) -> None:
    split = Split("separable", (3, 3), 1)
    weight, seen = problem(split)[0], smooth(split, 400) * np.float32(size)
    found = curve(weight, seen, (seen @ weight.T).astype(np.float32), split)
    assert np.isfinite(found.lost).all()
    assert (np.diff(found.lost) <= 0).all()
    gram = np.cov(seen.T, bias=True).astype(np.float64)
    assert all(np.isfinite(part).all() for part in factors(weight, gram, split, 4, len(seen)))


def test_few_samples_show_no_layer_of_low_rank() -> None:
    rng = np.random.default_rng(11)
    weight, seen = rng.standard_normal((80, 100)), rng.standard_normal((12, 100)).astype(np.float32)
    split = splits(())[0]
    left = curve(weight, seen, (seen @ weight.T).astype(np.float32), split).lost
    assert left[12] > 0.3 * left[0]  # of these twelve, twelve directions lose nothing
    others = rng.standard_normal((2000, 100))
    first, second = factors(weight, np.cov(seen.T).astype(np.float64), split, 40, len(seen))
    lost = np.square(others @ (weight - second @ first).T).sum() / np.square(others @ weight.T).sum()
    assert lost < 0.4  # twelve directions alone would leave seven eighths


@pytest.mark.parametrize("split", [s for kernel in [(1, 1), (3, 3)] for s in splits(kernel)], ids=str)
def test_directions_of_one_half_lose_more_of_the_other(split: Split) -> None:
    rng = np.random.default_rng(13)
    width = 20 * int(np.prod(split.taps))
    mixes = rng.standard_normal((2, 6, width))  # what an image shows lies in six directions of its own
    seen = np.concatenate([rng.standard_normal((300, 6)) @ mix for mix in mixes]).astype(np.float32)
    weight = rng.standard_normal((24, width))
    targets = (seen @ weight.T).astype(np.float32)
    believed, unseen = (curve(weight, seen, targets, split, few=few).lost for few in (False, True))
    assert unseen[0] == pytest.approx(believed[0] * (UNSEEN if not split.kernel or split.kernel == (1, 1) else 1))
    assert (unseen[1:9] > 1.1 * believed[1:9] * unseen[0] / believed[0]).all()
    assert unseen[12] > 0.1 * unseen[0]
    shuffled = rng.permutation(len(seen))
    mixed = curve(weight, seen[shuffled], targets[shuffled], split, few=True).lost
    assert mixed[12] < 0.5 * unseen[12]  # both halves show the same


@pytest.mark.parametrize("few", [False, True])
def test_a_head_of_many_outputs_is_decomposed_by_what_it_reads(few: bool) -> None:
    rng = np.random.default_rng(17)
    seen = (rng.standard_normal((400, 12)) * np.arange(1, 13)).astype(np.float32)
    weight, split = rng.standard_normal((40, 12)), splits(())[0]
    small = turned(weight)
    found = curve(small, seen, (seen @ small.T).astype(np.float32), split, few=few).lost
    wide = np.concatenate([seen, rng.standard_normal((400, 30)).astype(np.float32)], 1)  # of what it does not use
    other = np.concatenate([weight, np.zeros((40, 30))], 1)
    known = curve(other, wide, (wide @ other.T).astype(np.float32), split, few=few).lost
    assert len(found) == 13
    np.testing.assert_allclose(found[:12], known[:12], rtol=1e-3)
