"""Branches that only scale: found, and told from heads and from what is added."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.onward import gates
from onnx_udfc.numerics.metric import Metric
from onnx_udfc.repair.ordering import Ordering
from tests.small_graphs import small_network

SCALED = """g (float[2, 3, 8, 8] x, float[24, 3, 3, 3] W, float[4, 24, 1, 1] U, float[24, 4, 1, 1] V,
           float[6, 24, 3, 3] Z) => (float[2, 6, 4, 4] y) {
  a = Conv(x, W)
  r = Relu(a)
  p = GlobalAveragePool(r)
  u = Conv(p, U)
  s = Relu(u)
  v = Conv(s, V)
  h = Sigmoid(v)
  m = Mul(r, h)
  y = Conv(m, Z)
}"""
HEAD = """g (float[2, 3, 8, 8] x, float[24, 3, 3, 3] W, float[24, 4] U, float[4, 5] V) => (float[2, 5] y) {
  a = Conv(x, W)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  u = MatMul(f, U)
  h = HardSigmoid(u)
  s = Mul(u, h)
  y = MatMul(s, V)
}"""
SHOWN = SCALED.replace("4, 4] y)", "4, 4] y, float[2, 24, 1, 1] h)")
ADDED = SCALED.replace("Mul(r, h)", "Add(r, h)")


@pytest.mark.parametrize(
    ("text", "count"), [(SCALED, 2), (HEAD, 0), (SHOWN, 0), (ADDED, 0)], ids=["scaled", "head", "shown", "added"]
)
def test_only_layers_that_do_nothing_but_scale_are_gates(text: str, count: int) -> None:
    network = small_network(text)
    found = gates(network, find_groups(network).shapes.sizes)
    single = [name for name, layer in network.layers.items() if layer.out_channels == 4 or layer.in_channels == 4]
    assert found == (set(single) if count else set())
    assert len(found) == count


def test_channels_that_a_gate_reads_are_no_dearer_for_few_samples() -> None:
    network = small_network(SCALED)
    first, _, _, last = network.layers.values()
    rng = np.random.default_rng(0)
    channels, costs = find_groups(network), []
    group = next(g for g in channels.groups if first.name in g.producers)
    for believed in (gates(network, channels.shapes.sizes), frozenset[str]()):
        found = Ordering((group,), few=True, gates=believed)
        for name in group.consumers:
            layer = network.layers[name]
            samples = 4000 if layer is last else 26
            matrix = layer.matrix()
            patches = rng.normal(size=(1, samples, matrix.shape[2])).astype(np.float32)
            found.see(layer, patches, matrix, Metric(np.full(layer.out_channels, 1.0)))
        costs.append(float(np.sum(found.removals[group.name].cost[:-1])))
    assert costs[1] > 10 * costs[0]
