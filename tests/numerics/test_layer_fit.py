"""What a layer should give where an activation follows."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics import layer_fit as sight
from onnx_udfc.numerics import moments
from onnx_udfc.numerics.layer_fit import Bounds


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
