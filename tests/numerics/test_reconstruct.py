from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import moments
from onnx_udfc.numerics.reconstruct import (
    Producer,
    energy,
    intercept,
    mix_merge,
    mix_none,
    mix_udfc,
    regress,
    rescale_quantized,
    residual,
)

Floats = NDArray[np.float64]


def producer(channels: int = 12, width: int = 18, seed: int = 0) -> Producer:
    """Weights with a batch-norm factor folded in, some of it negative."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.3, 2, channels) * rng.choice([-1, 1], channels)
    return Producer(rng.normal(size=(channels, width)) * scale[:, None], rng.normal(size=channels), scale)


KEEP = np.array([1, 2, 5, 6, 10])


def test_none_selects() -> None:
    mixing = mix_none(producer(), KEEP)
    for c, k in itertools.product(range(12), range(5)):
        assert mixing[c, k] == (KEEP[k] == c)


def test_udfc_is_the_papers_closed_form() -> None:
    """s_j = (V_K V_Kᵀ + α1 q_K q_Kᵀ + α2 I)⁻¹ (V_K v_j + α1 q_j q_K), one pruned channel after another."""
    p = producer()
    mixing = mix_udfc(p, KEEP)
    V, q = p.weight[KEEP], p.bias[KEEP]
    for j in range(12):
        if j in KEEP:
            expected = np.array([float(j == k) for k in KEEP])
        else:
            system = V @ V.T + 0.01 * np.outer(q, q) + 0.008 * np.eye(5)
            expected = np.linalg.inv(system) @ (V @ p.weight[j] + 0.01 * p.bias[j] * q)
        np.testing.assert_allclose(mixing[j], expected, rtol=1e-5, atol=1e-9)


def test_udfc_minimizes_what_it_claims() -> None:
    p = producer()

    def loss(j: int, s: Floats) -> float:
        off = p.weight[j] - p.weight[KEEP].T @ s
        return float(off @ off + 0.01 * (p.bias[j] - p.bias[KEEP] @ s) ** 2 + 0.008 * s @ s)

    mixing, rng = mix_udfc(p, KEEP), np.random.default_rng(0)
    for j in (0, 3, 11):
        assert all(loss(j, mixing[j]) < loss(j, mixing[j] + 0.01 * rng.normal(size=5)) for _ in range(50))


def test_merge_is_neuron_merging() -> None:
    """Loops over pruned and kept channels: cosine of the trained weights, and the bias that the merge would leave."""
    p = producer(40, 6)
    keep = np.arange(0, 40, 3)
    mixing = mix_merge(p, keep)
    raw = p.weight / p.scale[:, None]
    merged = 0
    for j in range(40):
        if j in keep:
            expected = np.array([float(j == k) for k in keep])
        else:
            cosines = [raw[j] @ raw[k] / np.linalg.norm(raw[j]) / np.linalg.norm(raw[k]) for k in keep]
            ratios = [np.linalg.norm(raw[j]) / np.linalg.norm(raw[k]) * p.scale[j] / p.scale[k] for k in keep]
            gaps = [abs(r * p.bias[k] - p.bias[j]) for r, k in zip(ratios, keep, strict=True)]
            costs = [0.85 * (1 - c) + 0.15 * g / max(gaps) for c, g in zip(cosines, gaps, strict=True)]
            best = int(np.argmin(costs))
            expected = np.zeros(len(keep))
            if cosines[best] > 0.1:
                expected[best], merged = ratios[best], merged + 1
        np.testing.assert_allclose(mixing[j], expected, rtol=1e-5, atol=1e-12)
    assert 5 < merged <= 26


def test_merge_drops_what_is_like_nothing() -> None:
    p = Producer(np.eye(4), np.zeros(4), np.ones(4))
    assert np.array_equal(mix_merge(p, np.array([0, 1])), mix_none(p, np.array([0, 1])))


def test_rescaling_is_the_papers_closed_form() -> None:
    whole = producer()
    damaged = Producer(np.round(whole.weight), whole.bias + 0.1, whole.scale)
    found = rescale_quantized(damaged, whole)
    for c in range(12):
        v, w = whole.weight[c], damaged.weight[c]
        top = w @ v + 0.01 * damaged.bias[c] * whole.bias[c]
        assert found[c] == pytest.approx(top / (w @ w + 0.01 * damaged.bias[c] ** 2 + 0.008), rel=1e-9)
    zero = Producer(np.zeros((3, 4)), np.zeros(3), np.ones(3))
    assert np.array_equal(rescale_quantized(zero, zero), np.zeros(3))


Singles = NDArray[np.float32]


def data(groups: int, n: int, d: int, o: int = 3, seed: int = 0) -> tuple[Singles, Singles, Floats]:
    """Correlated patches with a mean, targets that they explain in part, and a prior."""
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(groups, n, d)) @ rng.normal(size=(groups, d, d)) / np.sqrt(d) + rng.normal(size=(groups, 1, d))
    t = p @ rng.normal(size=(groups, d, o)) + 0.5 * rng.normal(size=(groups, n, o)) + 2
    return p.astype(np.float32), t.astype(np.float32), rng.normal(size=(groups, o, d))


def naive_fit(p: Floats, t: Floats, prior: Floats, ridge: float, least: float) -> tuple[Floats, Floats]:
    """W (o, d) and b (o,) of one group from (G + λI)⁻¹ in float64; λ is relative to the Gram, or to `least`."""
    p, t = p.astype(np.float64), t.astype(np.float64)
    centered, gram = p - p.mean(0), np.zeros((p.shape[1], p.shape[1]))
    for row in centered:
        gram += np.outer(row, row) / len(p)
    strength = ridge * max(np.trace(gram) / len(gram), least)
    cross = centered.T @ (t - t.mean(0)) / len(p)
    weight = (np.linalg.inv(gram + strength * np.eye(len(gram))) @ (cross + strength * prior.T)).T
    return weight, t.mean(0) - weight @ p.mean(0)


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("n", "d"), [(200, 9), (40, 39), (20, 30), (9, 50)])
def test_regression_is_the_naive_formula(groups: int, n: int, d: int, ridge: float) -> None:
    p, t, prior = data(groups, n, d)
    found = regress(p, t, prior, ridge)
    least = float(p.var(axis=1, dtype=np.float64).mean())
    for g in range(groups):
        weight, bias = naive_fit(p[g].astype(float), t[g].astype(float), prior[g], ridge, least)
        scale = abs(weight).max()
        np.testing.assert_allclose(found.weight[g], weight, rtol=1e-5, atol=2e-5 * scale)
        np.testing.assert_allclose(found.bias[g], bias, rtol=1e-5, atol=1e-4 * scale)


def test_the_small_and_the_large_system_give_the_same() -> None:
    p, t, prior = data(2, 25, 30)
    small = regress(p, t, prior, 0.05)
    large = regress(np.concatenate([p, p], 1), np.concatenate([t, t], 1), prior, 0.05)  # the same moments, n above d
    np.testing.assert_allclose(small.weight, large.weight, rtol=1e-4, atol=1e-5 * abs(prior).max())
    np.testing.assert_allclose(small.bias, large.bias, rtol=1e-4, atol=1e-4)
    assert small.residual == pytest.approx(float(np.mean(left_over(p, t, small.weight))), rel=1e-3)


def left_over(p: Singles, t: Singles, weight: Floats) -> list[float]:
    """For each group: centered squares of t - W p over those of t."""
    left = t.astype(np.float64) - p.astype(np.float64) @ weight.transpose(0, 2, 1)
    return [float(x.var(0).sum() / y.astype(np.float64).var(0).sum()) for x, y in zip(left, t, strict=True)]


def test_the_residual_is_what_is_left() -> None:
    p, t, prior = data(1, 300, 7)
    found = regress(p, t, prior, 0.01)
    assert found.residual == pytest.approx(left_over(p, t, found.weight)[0], abs=1e-6)  # of single products
    measured = moments(p, t)
    assert residual(measured, prior, energy(t)) == pytest.approx(left_over(p, t, prior)[0], rel=1e-5)
    assert found.residual < residual(measured, prior, energy(t))


def test_the_bias_keeps_the_mean() -> None:
    p, t, prior = data(2, 300, 7)
    for weight in (prior, regress(p, t, prior, 0.01).weight):
        bias = intercept(moments(p, t), weight)
        output = p @ weight.transpose(0, 2, 1) + bias[:, None]
        np.testing.assert_allclose(output.mean(1), t.mean(1, dtype=np.float64), rtol=1e-5)


def test_a_strong_ridge_gives_the_prior() -> None:
    for n, d in ((200, 9), (20, 30)):
        p, t, prior = data(2, n, d)
        np.testing.assert_allclose(regress(p, t, prior, 1e9).weight, prior, rtol=1e-5, atol=1e-5)


def test_targets_that_the_prior_explains_give_the_prior() -> None:
    for n, d in ((200, 9), (20, 30)):
        p, _, prior = data(2, n, d)
        t = (p @ prior.transpose(0, 2, 1) + 3).astype(np.float32)
        found = regress(p, t, prior, 0.01)
        np.testing.assert_allclose(found.weight, prior, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.bias, 3, rtol=1e-4)


SINGULAR = ["zero", "constant", "duplicate", "rank one", "one sample", "huge", "tiny"]


@pytest.mark.parametrize("ridge", [0.01, 0.1])
@pytest.mark.parametrize(("n", "d"), [(50, 6), (5, 20)])
@pytest.mark.parametrize("kind", SINGULAR)
def test_singular_systems_never_give_nan(kind: str, n: int, d: int, ridge: float) -> None:
    p, t, prior = data(2, 1 if kind == "one sample" else n, d)
    if kind == "zero":
        p[:] = 0
    elif kind == "constant":
        p[:] = 7
    elif kind == "duplicate":
        p[:, :, 1:] = p[:, :, :1]
    elif kind == "rank one":
        p[:, 1:] = p[:, :1] * np.arange(2, n + 1)[:, None]
    elif kind in ("huge", "tiny"):
        p *= 1e15 if kind == "huge" else 1e-15
    found = regress(p, t, prior, ridge)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()
    assert np.isfinite(found.residual)


@pytest.mark.parametrize("n", [50, 5])
def test_inputs_that_never_change_leave_the_prior(n: int) -> None:
    p, t, prior = data(1, n, 6)
    p[:] = 1.5
    found = regress(p, t, prior, 0.01)
    np.testing.assert_allclose(found.weight, prior, rtol=1e-5)
    np.testing.assert_allclose(found.bias[0], t[0].mean(0, dtype=np.float64) - 1.5 * prior[0].sum(1), rtol=1e-5)


def test_a_group_that_the_samples_hardly_move_stays_near_its_prior() -> None:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(8, 400, 9)).astype(np.float32)
    prior = rng.normal(size=(8, 1, 9))
    t = (p @ prior.swapaxes(1, 2)).astype(np.float32)
    p[3] *= 0.01  # nearly dead in the damaged network: only weights a hundred times larger give what it gave
    weight = regress(p, t, prior, 0.1).weight
    assert np.abs(weight[3]).max() < 3 * np.abs(prior[3]).max()
    np.testing.assert_allclose(weight[0], prior[0], rtol=0.2, atol=0.1)
