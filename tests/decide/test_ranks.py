"""What levels of rank save against networks that were really split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc import compress
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.channels.shapes import resolve
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.decide.ranks import Ranks, rank_levels, saved_macs, saved_weights
from onnx_udfc.model.counts import count, totals
from onnx_udfc.model.factored import factor
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.factors import Curve, splits
from tests.small_graphs import small_model, small_network

TEXT = """g (float[1, 8, 12, 10] x, float[32, 8, 3, 3] W0, float[32] B0, float[24, 32, 5, 3] W1, float[10, 24] W2)
=> (float[1, 10] y) {
  a = Conv<pads=[1, 1, 1, 1], strides=[2, 1]>(x, W0, B0)
  b = Relu(a)
  c = Conv<pads=[2, 1, 2, 1], strides=[1, 2]>(b, W1)
  d = Relu(c)
  e = GlobalAveragePool(d)
  f = Flatten(e)
  y = Gemm<transB=1>(f, W2)
}"""

ALONE = """g (float[1, 256, 10, 8] x, float[256, 256, 3, 1] W) => (float[1, 256, 8, 8] y) {
  y = Conv(x, W)
}"""


def falling(network: Network) -> dict[str, tuple[Curve, ...]]:
    """Made-up curves: of each layer another split is the best."""
    curves = {}
    for i, (name, layer) in enumerate(network.layers.items()):
        found = []
        for k, split in enumerate(splits(layer.kernel)):
            most = min(layer.in_channels * split.taps[0], layer.out_channels * split.taps[1])
            lost: NDArray[np.float64] = (1 - np.arange(most + 1) / most) ** (2 + 2 * (k == i)) * 0.5
            found.append(Curve(split, lost))
        curves[name] = tuple(found)
    return curves


def table(network: Network, unit: str) -> Ranks:
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    sizes = channels.shapes.sizes
    saving = saved_macs(network, sizes, size) if unit == "macs" else saved_weights(size)
    return rank_levels(network, sizes, size, falling(network), saving)


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_macs_and_weights_are_those_of_the_split_network(unit: str, share: float) -> None:
    network = small_network(TEXT)
    channels = find_groups(network)
    ranks = table(network, unit)
    kept = {g.name: np.arange(round(g.channels * share)) for g in channels.groups}
    counts = np.array([len(k) for k in kept.values()], np.float64)
    for number in range(1, 1 + max(len(f) for f in ranks.factors)):
        level = np.array([min(number, len(f)) for f in ranks.factors], np.float64)
        small = prune(network, channels, kept).network
        whole = {name: layer.matrix_shape for name, layer in small.layers.items()}
        chosen = ranks.chosen(level)
        wide = {
            n: f.parameters(whole[n][1], small.layers[n].in_channels) >= np.prod(whole[n]) for n, f in chosen.items()
        }
        factor(small, {n: f for n, f in chosen.items() if not wide[n]})  # the others stay whole
        sizes = resolve(small).sizes
        true = totals({name: count(layer, sizes) for name, layer in small.layers.items()})
        assert float(ranks.macs(counts, level)) == true.macs
        assert float(ranks.params(counts, level)) == true.parameters


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_levels_are_a_convex_hull(unit: str) -> None:
    network = small_network(TEXT)
    ranks = table(network, unit)
    kept = ranks.size.channels
    for i, damage in enumerate(ranks.damage):
        level = np.zeros((len(damage), len(ranks.damage)))
        level[:, i] = np.arange(len(damage))
        spent = ranks.macs(kept, level) if unit == "macs" else ranks.weights(kept, level).sum(-1)
        saved, harm = -np.diff(spent), np.diff(damage)
        assert (saved > 0).all()
        assert (np.diff(harm / saved) >= -1e-12).all()
    assert sum(map(len, ranks.factors)) > 8


def test_ranks_of_a_layer_that_counts_more_cost_more() -> None:
    network = small_network(TEXT)
    size, sizes = footprint(network, find_groups(network), ()), find_groups(network).shapes.sizes
    curves = falling(network)
    twice = {name: tuple(replace(c, weight=2.0) for c in found) for name, found in curves.items()}
    saving = saved_macs(network, sizes, size)
    once, more = (rank_levels(network, sizes, size, c, saving) for c in (curves, twice))
    assert once.factors == more.factors
    for a, b in zip(once.damage, more.damage, strict=True):
        np.testing.assert_allclose(b, 2 * a)


def test_narrow_layers_stay_whole() -> None:
    network = small_network(TEXT.replace("32", "4"))
    assert not any(table(network, "macs").factors[:2])


def test_where_one_layer_is_nearly_all_of_the_work_its_levels_are_finer() -> None:
    network = small_network(ALONE)
    channels = find_groups(network)
    size, sizes = footprint(network, channels, channels.groups), channels.shapes.sizes
    saving, whole = saved_macs(network, sizes, size), float(size.macs(size.channels))
    kept = size.channels
    steps = []
    for of in (whole, math.inf, 100 * whole):
        ranks = rank_levels(network, sizes, size, falling(network), saving, of)
        (damage,) = ranks.damage
        spent = ranks.macs(kept, np.arange(len(damage), dtype=np.float64)[:, None])
        steps.append(float(-np.diff(spent[1:]).min() / whole))
    assert steps[0] <= 0.5 * steps[1] + 1e-9
    assert steps[1] == steps[2]


HEAD = """g (float[4, 48] x, float[48, 96] A, float[96, 10] C) => (float[4, 10] y) {
  a = MatMul(x, A) r = Relu(a) y = MatMul(r, C)
}"""


def late(network: Network) -> dict[str, tuple[Curve, ...]]:
    """Curves that fall late: but for its last ranks, every step to fewer pays more than the one before."""
    layer = network.layers["n0"]
    most = min(layer.in_channels, layer.out_channels)
    return {"n0": (Curve(splits(())[0], 0.3 * (1 - np.arange(most + 1) / most) ** 0.5),)}


def test_levels_in_reserve_stand_in_front_of_a_large_step_by_rising_damage() -> None:
    network = small_network(HEAD)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    arguments = network, channels.shapes.sizes, size, late(network), saved_weights(size)
    alone, ranks = rank_levels(*arguments), rank_levels(*arguments, float(size.weights(size.channels).sum()))
    assert not alone.reserved[0].any()  # nothing tells what is large
    damage, reserved = ranks.damage[0], ranks.reserved[0]
    assert reserved.sum() >= 8
    assert not reserved[0]
    assert not reserved[-1]
    np.testing.assert_array_equal(damage[~reserved], alone.damage[0])
    assert (np.diff(damage) > 0).all()
    assert (np.diff([f.rank for f in ranks.factors[0]]) < 0).all()
    assert not ranks.reserved[1].any()


def test_a_budget_that_one_layer_meets_takes_no_more_of_it_than_that() -> None:
    """The hull of a layer may be one step to the least rank, which saved nine tenths where half was asked for."""
    report = compress(small_model(HEAD), budget={"macs": "0.7"}, factor="on", threads=1, force=True).report
    assert report.after.macs
    assert report.before.macs
    assert 0.6 < report.after.macs / report.before.macs <= 0.7
