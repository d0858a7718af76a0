"""Inputs of a layer that never vary: they say nothing, so nothing is concluded from them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.grids import FORMATS, round_nearest, search_scale
from onnx_udfc.numerics.layer_fit import Sight
from onnx_udfc.numerics.moments import moments, without_still
from onnx_udfc.numerics.rounding import quantize_layer

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((1, 4, 9))
F32 = np.dtype(np.float32)


@pytest.mark.parametrize("level", [0.0, 0.3, -7e4])
@pytest.mark.parametrize("samples", [6, 40])
def test_a_layer_whose_input_never_varies_keeps_its_weights(level: float, samples: int) -> None:
    patches = np.full((1, samples, 9), level, np.float32)
    sight = Sight(patches, RNG.standard_normal((1, samples, 4)).astype(np.float32))
    assert sight.still
    np.testing.assert_array_equal(sight.fit(WEIGHT, 0.01), WEIGHT)


def test_what_varies_is_fitted_and_what_does_not_keeps_its_weights() -> None:
    patches = RNG.standard_normal((1, 200, 9)).astype(np.float32)
    patches[..., :3] = 0.3
    truth = RNG.standard_normal((1, 4, 9))
    sight = Sight(patches, (patches @ truth.transpose(0, 2, 1)).astype(np.float32))
    assert not sight.still
    found = sight.fit(WEIGHT, 1e-6)
    np.testing.assert_allclose(found[..., :3], WEIGHT[..., :3], rtol=1e-9)
    np.testing.assert_allclose(found[..., 3:], truth[..., 3:], atol=1e-3)


def test_what_float32_leaves_of_a_constant_is_no_variance() -> None:
    patches = np.concatenate([np.full((1, 500, 2), 0.1), RNG.standard_normal((1, 500, 1))], axis=2).astype(np.float32)
    found = without_still(moments(patches, patches))
    assert not found.gram[:, :2].any()
    assert not found.gram[..., :2].any()
    assert not found.cross[:, :2].any()
    assert found.gram[0, 2, 2] > 0.5


def test_without_variance_codes_are_the_nearest() -> None:
    for gram in (np.zeros((1, 9, 9)), None):
        params, _ = quantize_layer(WEIGHT, gram, 8, F32)
        assert np.abs(params.dequantize() - WEIGHT).max() <= np.abs(WEIGHT).max() / 127 / 2 * 1.01


def test_the_weights_of_what_never_varied_are_not_clipped_at_no_cost() -> None:
    lively = RNG.standard_normal((50, 9))
    lively[:, :4] = 0
    gram = (lively.T @ lively / 50)[None]
    weight = WEIGHT.copy()
    weight[..., 0] = 2 * np.abs(WEIGHT).max()
    fmt = FORMATS[4]
    params, _ = quantize_layer(weight, gram, 4, F32)
    ignored = search_scale(weight, fmt, gram, F32)
    plain = np.abs(round_nearest(weight, ignored, fmt) * ignored[..., None] - weight)[..., 0]
    assert (np.abs(params.dequantize() - weight)[..., 0] < 0.7 * plain).all()
