"""Orders of removal from what the consumers see, with all rows of a channel or with few."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.model.layers import Layer
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.metric import Metric
from onnx_udfc.repair import ordering
from onnx_udfc.repair.ordering import Ordering
from tests.small_graphs import small_network

# Two producers whose outputs are concatenated, so that one consumer reads two groups at different rows.
FORK = """g (float[1, 3, 8, 8] x, float[12, 3, 3, 3] W0, float[20, 3, 3, 3] W1, float[6, 32, 3, 3] W2)
=> (float[1, 6, 4, 4] y) {
  a = Conv(x, W0)
  r = Relu(a)
  b = Conv(x, W1)
  s = Relu(b)
  c = Concat<axis = 1>(r, s)
  y = Conv(c, W2)
}"""
# The same group read by two layers.
TWICE = (
    FORK.replace("[1, 6, 4, 4] y)", "[1, 6, 4, 4] y, float[1, 6, 4, 4] z)")
    .replace("3] W2)", "3] W2, float[6, 32, 3, 3] W3)")
    .replace("y = Conv(c, W2)", "y = Conv(c, W2)  z = Conv(c, W3)")
)
FLAT = """g (float[1, 3, 8, 8] x, float[24, 3, 3, 3] W0, float[864, 5] W1) => (float[1, 5] y) {
  a = Conv(x, W0)
  r = Relu(a)
  f = Flatten(r)
  y = MatMul(f, W1)
}"""


def units(layer: Layer, unit: float = 1.0) -> Metric:
    """An error of so much counts as one."""
    return Metric(np.full(layer.out_channels, unit))


def seen(
    network: Network, taps: int, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Patches and weights (1, d, o) of the last layer with independent channels, and how much each of them matters."""
    rng = np.random.default_rng(0)
    layer = list(network.layers.values())[-1]
    width, outputs = layer.matrix().shape[2], layer.out_channels
    channels = width // taps
    matters = rng.permutation(np.linspace(1, 4, channels))
    directions = rng.normal(size=(channels, taps, rank))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weight = directions @ np.linalg.qr(rng.normal(size=(channels, outputs, outputs)))[0][:, :rank]
    weight *= matters[:, None, None]
    patches = rng.normal(size=(1, 40 * width, width)).astype(np.float32)
    return patches, weight.reshape(1, width, outputs), matters


@pytest.mark.parametrize(("text", "taps"), [(FORK, 9), (FLAT, 36)], ids=["concat", "flatten"])
@pytest.mark.parametrize("narrow", [False, True])
def test_what_matters_most_goes_last(monkeypatch: pytest.MonkeyPatch, text: str, taps: int, narrow: bool) -> None:
    network = small_network(text)
    patches, weight, matters = seen(network, taps, rank=2)
    monkeypatch.setattr(ordering, "MOST_ROWS", 2 * len(matters) if narrow else 10**6)
    groups = find_groups(network).groups
    found = Ordering(groups, few=False)
    layer = list(network.layers.values())[-1]
    assert len(found.wanted(layer)) == len(groups)
    found.see(layer, patches, weight.swapaxes(1, 2) * 3, units(layer, 3.0))
    start = 0
    for group in sorted(groups, key=lambda g: int(g.inputs(layer.name).min())):
        removal = found.removals[group.name]
        mine = matters[start : start + group.channels]
        start += group.channels
        cost = np.square(mine[removal.order[:-1]]) * 2  # unit variance, two orthonormal directions of outputs
        np.testing.assert_allclose(removal.cost[:-1], cost, rtol=0.35)
        assert np.corrcoef(mine[removal.order], np.arange(group.channels))[0, 1] > 0.98
    assert start == len(matters)


def test_a_group_is_ordered_when_its_last_consumer_was_seen() -> None:
    network = small_network(TWICE)
    patches, weight, _ = seen(network, 9, rank=2)
    found = Ordering(find_groups(network).groups, few=False)
    first, second = list(network.layers.values())[-2:]
    found.see(first, patches, weight.swapaxes(1, 2), units(first))
    assert not found.removals
    found.see(second, patches, weight.swapaxes(1, 2), units(second))
    assert len(found.removals) == 2


def test_what_overflows_is_not_seen() -> None:
    network = small_network(FORK)
    patches, weight, _ = seen(network, 9, rank=2)
    patches[0, 0, 0] = 1e30
    found = Ordering(find_groups(network).groups, few=False)
    last = list(network.layers.values())[-1]
    found.see(last, patches, weight.swapaxes(1, 2), units(last))
    assert not found.removals
