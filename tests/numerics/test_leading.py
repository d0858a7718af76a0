"""Channels in their leading directions."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.leading import narrowed
from onnx_udfc.numerics.metric import Metric


def plain(weight: np.ndarray) -> Metric:
    """Errors of the outputs of weights (g, d, o) count as they are."""
    return Metric(np.ones(len(weight) * weight.shape[2]), None, len(weight))


def scene(
    groups: int = 2, channels: int = 70, block: int = 9, outputs: int = 5, rank: int = 9, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated patches (g, 300, C k), and weights (g, C k, o) that use `rank` directions of each channel."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels * block, channels * block)) / (channels * block) ** 0.5
    patches = (rng.normal(size=(groups, 300, channels * block)) @ mixing + rng.normal()).astype(np.float32)
    directions = rng.normal(size=(groups, channels, block, rank))
    weight = directions @ rng.normal(size=(groups, channels, rank, outputs))
    return patches, weight.reshape(groups, channels * block, outputs)


def centered(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean(1, keepdims=True))


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_weights_that_use_few_directions_lose_nothing(rank: int) -> None:
    patches, weight = scene(rank=rank)
    small, mixed = narrowed(patches, weight.swapaxes(1, 2), plain(weight), 9, rank)
    assert small.shape == (2, 300, 70 * rank)
    assert mixed.shape == (2, 70 * rank, 5)
    np.testing.assert_allclose(centered(small @ mixed), centered(patches @ weight), rtol=1e-3, atol=1e-3)


def test_no_other_direction_is_nearer() -> None:
    patches, weight = scene(groups=1, channels=1, rank=9)
    response = centered(patches @ weight)
    small, mixed = narrowed(patches, weight.swapaxes(1, 2), plain(weight), 9, 2)
    left = np.square(response - centered(small @ mixed)).sum()
    best = np.square(np.linalg.svd(response[0], compute_uv=False)[2:]).sum()  # Eckart and Young: of any two directions
    assert left == pytest.approx(best, rel=1e-3)


def test_channels_that_never_vary_are_harmless() -> None:
    patches, weight = scene()
    patches[..., 9:27] = 3.0
    small, mixed = narrowed(patches, weight.swapaxes(1, 2), plain(weight), 9, 3)
    assert np.isfinite(small).all()
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(mixed[:, 3:9], 0, atol=1e-6)


def test_the_scale_of_the_input_is_kept() -> None:
    patches, weight = scene()
    small, _ = narrowed(patches, weight.swapaxes(1, 2), plain(weight), 9, 9)
    np.testing.assert_allclose(np.square(centered(small)).sum(), np.square(centered(patches)).sum(), rtol=1e-3)


def test_weights_are_counted_in_the_units_of_the_outputs() -> None:
    patches, weight = scene(rank=3)
    unit = np.exp(np.random.default_rng(1).normal(size=(2, 1, 5)))
    small, mixed = narrowed(patches, weight.swapaxes(1, 2), Metric(unit.reshape(-1), None, 2), 9, 2)
    expected = narrowed(patches, (weight / unit).swapaxes(1, 2), plain(weight), 9, 2)
    np.testing.assert_allclose(small, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mixed, expected[1], rtol=1e-6)
