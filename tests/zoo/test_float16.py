"""Float16 networks: weights in few bits are folded at load, so that a run computes what the original's does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from onnx_udfc.emit.writer import emit
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.kernels import optimized_graph
from onnx_udfc.runtime.latency import Latency
from tests.quantized_graphs import nearest
from tools.measure.half_latency import NETWORKS, Row, in_half, weight_operators


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda name: Path(name).stem)
def network(request: pytest.FixtureRequest, assets: Path) -> Network:
    found = read(load(in_half(assets / request.param)).model)
    assert {layer.constant.dtype for layer in found.layers.values()} == {np.dtype(np.float16)}
    return found


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_the_loaded_graph_is_the_original_s(network: Network, target: str, bits: int) -> None:
    emitted = emit(network, nearest(network, bits), None, target)
    assert weight_operators(emitted.model) == weight_operators(network.to_model())
    assert [n.op_type for n in optimized_graph(emitted.model).graph.node] == [
        n.op_type for n in optimized_graph(network.to_model()).graph.node
    ]


@pytest.mark.parametrize(("more", "ratio", "passes"), [({}, 1.03, True), ({}, 1.04, False), ({"Mul": 1}, 1.0, False)])
def test_the_table_fails_where_a_run_costs_more(more: dict[str, int], ratio: float, passes: bool) -> None:
    assert Row("n", "cpu", 8, 0.5, Counter(more), Latency(1, ratio, ratio, ratio, ratio, 12)).passes == passes
