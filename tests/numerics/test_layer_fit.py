"""What a layer should give where an activation follows."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics import layer_fit as sight
from onnx_udfc.numerics import moments
from onnx_udfc.numerics.layer_fit import Bounds
from tests.memory import taken


@pytest.mark.parametrize(
    "bounds", [Bounds(0, np.inf), Bounds(0, 6), Bounds(-np.inf, 1), Bounds(-1, 1), Bounds(-np.inf, np.inf)]
)
@pytest.mark.parametrize("cached", [1 << 17, 100])
def test_no_value_is_nearer_to_what_passes_and_to_the_fit(
    bounds: Bounds, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "_CACHED", cached)
    rng = np.random.default_rng(0)
    passed = np.clip(rng.normal(0, 3, (2, 150, 3)), bounds.low, bounds.high).astype(np.float32)
    fit = rng.normal(0, 5, passed.shape).astype(np.float32)

    def cost(z: np.ndarray) -> np.ndarray:
        missed = passed - np.clip(z, bounds.low, bounds.high)
        return np.asarray(np.square(missed) + sight._PULL * np.square(z - fit), np.float64)

    z = fit.copy()
    sight._to_nearest_passing(z, passed, bounds)
    least = np.min([cost(np.full_like(fit, v)) for v in np.linspace(-30, 30, 6001)], axis=0)
    assert (cost(z) <= least + 1e-5).all()
    assert (z != fit).any()


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_groups_that_are_done_some_at_a_time_give_the_same_bytes(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(1, 2, (groups, 4, 300)).astype(np.float32).transpose(0, 2, 1)  # as patches lie in memory
    targets = rng.normal(0, 1, (groups, 300, 2)).astype(np.float32)
    prior = rng.normal(0, 1, (groups, 2, 4))
    found = []
    for copied in (1 << 22, 1):
        monkeypatch.setattr(moments, "_COPIED", copied)
        fit = sight.Sight(seen, targets, Bounds(0, np.inf))
        assert fit.measured is not None
        found.append((fit.measured.gram, fit.measured.cross, fit.fit(prior, 0.1), fit.targets, fit.moved))
    assert len(moments.group_parts(seen)) == max(1, groups // 2)
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_many_groups_are_fitted_without_a_second_copy_of_their_patches() -> None:
    seen = np.random.default_rng(0).normal(1, 2, (128, 25, 4000)).astype(np.float32).transpose(0, 2, 1)
    targets = seen[:, :, :1].copy()

    def fitted() -> None:
        sight.Sight(seen, targets, Bounds(0, np.inf)).fit(np.ones((128, 1, 25)), 0.1)

    assert taken(fitted)[1] < 0.8 * seen.nbytes


def test_a_ridge_is_preferred_for_what_it_leaves_of_other_samples() -> None:
    """Of few samples noise is learnt by heart where nothing can be repaired, and what can be is repaired."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((1, 300, 96)).astype(np.float32)
    prior = rng.standard_normal((1, 8, 96))
    noise = rng.standard_normal((1, 300, 8)).astype(np.float32)
    kept = patches @ prior.transpose(0, 2, 1).astype(np.float32)
    other = patches @ (prior + 0.2 * rng.standard_normal(prior.shape)).transpose(0, 2, 1).astype(np.float32)
    assert sight.Sight(patches, kept + 2 * noise).preferred(prior, (0.01, 1)) == 1
    assert sight.Sight(patches, other).preferred(prior, (0.01, 1)) == 0.01
