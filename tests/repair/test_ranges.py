from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from onnx_udfc.emit.writer import activation_tensors
from onnx_udfc.model.network import read
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.ranges import MARGIN, last_tensors, measure_ranges, watchers
from tests.normed_graphs import CHAIN, RESIDUAL, scaled_model, settled
from tests.quantized_graphs import Values, simulate


def feeds(count: int = 4) -> Values:
    return {"x": np.random.default_rng(0).normal(size=(count, 3, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_each_range_is_that_of_what_the_quantized_network_computes(text: str, target: str) -> None:
    network = read(scaled_model(text))
    placement = activation_tensors(network, list(network.layers), target)
    grids = measure_ranges(network, placement, feeds(), real=True)
    assert set(grids) == set(placement.tensors)
    for tensor in placement.tensors:
        others = replace(placement, sites={t: r for t, r in placement.sites.items() if t != tensor})
        value = simulate(network, {}, others, grids, feeds())[tensor]
        expected = search_range(value, placement.dtype, placement.caps.get(tensor))
        assert grids[tensor].scale == pytest.approx(expected.scale, rel=1e-3)
        assert grids[tensor].zero_point == expected.zero_point


def test_a_watched_value_is_on_its_grid() -> None:
    network = read(scaled_model(CHAIN))
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids: dict[str, ActivationParams] = {}
    watch = watchers(network, placement, grids, real=True)["x"]
    x = feeds()["x"]
    seen = watch(x)
    assert seen.dtype == x.dtype
    assert len(np.unique(seen)) <= 256
    assert np.array_equal(watch(seen), seen)
    assert list(grids) == ["x"]


def test_synthetic_ranges_have_headroom_and_the_last_one_a_margin() -> None:
    network = read(scaled_model(CHAIN))
    placement = activation_tensors(network, list(network.layers), "cpu")
    assert last_tensors(network, placement) == {"y"}
    real = measure_ranges(network, placement, feeds(), real=True)
    synthetic = measure_ranges(network, placement, feeds(), real=False)
    assert all(synthetic[t].scale >= real[t].scale * 0.999 for t in placement.tensors)
    others = replace(placement, sites={t: r for t, r in placement.sites.items() if t != "y"})
    y = simulate(network, {}, others, synthetic, feeds())["y"]
    assert synthetic["y"].scale * 255 == pytest.approx(MARGIN * (y.max() - y.min()), rel=1e-3)


@pytest.mark.parametrize("method", ["moments", "udfc", "merge", "none"])
def test_every_method_quantizes_activations(method: str) -> None:
    result = compress(settled(scaled_model(CHAIN), feeds(64)), bits=8, activations=8, method=method)
    assert Counter(n.op_type for n in result.model.graph.node)["QuantizeLinear"] == 4
    assert (result.report.fidelity.sqnr_db or 0) > 10
