"""Sizes as a function of what the groups keep, against networks that were really pruned."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import Channels, find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.channels.shapes import resolve
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.model.counts import count, totals
from onnx_udfc.model.network import Network
from tests.small_graphs import small_network

CHAIN = """g (float[1, 3, 8, 8] x, float[16, 3, 3, 3] W0, float[16] B0, float[12, 16, 1, 1] W1, float[4, 48] W2)
=> (float[N, 4] y) {
  a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, W0, B0)
  b = Relu(a)
  c = Conv<strides=[4, 4]>(b, W1)
  d = Flatten(c)
  y = Gemm<transB=1>(d, W2)
}"""
DEPTHWISE = """g (float[1, 3, 8, 8] x, float[8, 3, 1, 1] W0, float[8, 1, 3, 3] W1, float[8] B1, float[5, 8, 1, 1] W2)
=> (float[1, 5, 8, 8] y) {
  a = Conv(x, W0)
  b = Conv<group=8, pads=[1, 1, 1, 1]>(a, W1, B1)
  y = Conv(b, W2)
}"""
GROUPED = """g (float[1, 4, 8, 8] x, float[8, 4, 1, 1] W0, float[12, 4, 3, 3] W1, float[5, 12, 1, 1] W2)
=> (float[1, 5, 8, 8] y) {
  a = Conv(x, W0)
  b = Conv<group=2, pads=[1, 1, 1, 1]>(a, W1)
  y = Conv(b, W2)
}"""
TRANSPOSED = """g (float[1, 4, 8, 8] x, float[4, 6, 2, 2] W0, float[6, 3, 2, 2] W1) => (float[1, 3, 10, 10] y) {
  a = ConvTranspose(x, W0)
  y = ConvTranspose(a, W1)
}"""
CONCAT = """g (float[1, 4, 8, 8] x, float[6, 4, 1, 1] W0, float[8, 4, 1, 1] W1, float[3, 14, 1, 1] W2)
=> (float[1, 3, 8, 8] y) {
  a = Conv(x, W0)
  b = Conv(x, W1)
  c = Concat<axis=1>(a, b)
  y = Conv(c, W2)
}"""


def counted(network: Network) -> tuple[int, int]:
    sizes = resolve(network).sizes
    total = totals({name: count(layer, sizes) for name, layer in network.layers.items()})
    return total.macs, total.parameters


def some(channels: Channels, seed: int) -> dict[str, np.ndarray]:
    """Equally many channels of every cell, at random."""
    random = np.random.default_rng(seed)
    keep = {}
    for group in channels.groups:
        cells = [np.flatnonzero(group.cells == c) for c in range(int(group.cells.max()) + 1)]
        stay = int(random.integers(1, len(cells[0]) + 1))
        keep[group.name] = np.sort(np.concatenate([random.permutation(c)[:stay] for c in cells]))
    return keep


@pytest.mark.parametrize("text", [CHAIN, DEPTHWISE, GROUPED, TRANSPOSED, CONCAT])
@pytest.mark.parametrize("seed", range(3))
def test_sizes_are_those_of_the_pruned_network(text: str, seed: int) -> None:
    network = small_network(text)
    channels = find_groups(network)
    assert channels.groups
    keep = some(channels, seed)
    size = footprint(network, channels, channels.groups)
    kept = np.array([len(keep[name]) for name in size.groups], np.float64)
    macs, parameters = counted(prune(network, channels, keep).network)
    assert size.macs(kept) == macs
    assert size.params(kept) == parameters


def test_many_choices_at_once_are_counted_one_by_one() -> None:
    network = small_network(CHAIN)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    choices = np.random.default_rng(0).integers(1, 12, (5, len(size.groups))).astype(np.float64)
    assert size.macs(choices).tolist() == [float(size.macs(row)) for row in choices]
    assert size.params(choices).tolist() == [float(size.params(row)) for row in choices]


def test_nothing_removed_is_the_whole_network() -> None:
    network = small_network(GROUPED)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    macs, params = counted(network)
    assert float(size.macs(size.channels)) == macs
    assert float(size.params(size.channels)) == params


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_depthwise_layers_with_several_outputs_for_an_input(kind: str, times: int) -> None:
    shape = f"8,{times}" if kind == "ConvTranspose" else f"{8 * times},1"
    network = small_network(
        f"g (float[1,3,6,6] x, float[8,3,1,1] W, float[{shape},2,2] V, float[4,{8 * times},1,1] U)"
        f" => (float[1,4,a,b] y) {{ c = Conv(x, W) d = {kind}<group = 8>(c, V) y = Conv(d, U) }}"
    )
    channels = find_groups(network)
    (group,) = channels.groups
    size = footprint(network, channels, channels.groups)
    pruned = prune(network, channels, {group.name: np.arange(5)}).network
    found = [count(layer, resolve(pruned).sizes) for layer in pruned.layers.values()]
    kept = np.array([5.0])
    assert float(size.params(kept)) == sum(c.parameters for c in found)
    assert float(size.macs(kept)) == sum(c.macs for c in found)
