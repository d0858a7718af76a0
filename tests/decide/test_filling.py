"""Channels that are added so that depthwise layers of integers leave none over."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc import compress
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import Pruned, may_widen, prune
from onnx_udfc.decide.filling import filled
from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.writer import activation_tensors, emit
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.grids import QuantParams
from tests.quantized_graphs import nearest, network_of, ranges, run

CHANNELS = 24
WEIGHTS = {
    "w1": (CHANNELS, 8, 1, 1), "b1": (CHANNELS,), "wd": (CHANNELS, 1, 3, 3), "bd": (CHANNELS,),
    "ws": (6, CHANNELS, 1, 1), "wt": (CHANNELS, 6, 1, 1), "w2": (8, CHANNELS, 1, 1), "b2": (8,),
}  # fmt: skip
DEPTHWISE = "Conv <group=24, pads=[1,1,1,1]> (h, wd, bd)"
PLAIN = f"a = Conv (x, w1, b1) h = HardSwish (a) d = {DEPTHWISE} r = Relu (d) y = Conv (r, w2, b2)"
GATED = (
    f"a = Conv (x, w1, b1) h = Relu (a) d = {DEPTHWISE} r = HardSwish (d) p = GlobalAveragePool (r) s = Conv (p, ws)"
    " t = Relu (s) u = Conv (t, wt) g = HardSigmoid (u) m = Mul (r, g) y = Conv (m, w2, b2)"
)
FEEDS = {"x": np.random.default_rng(3).normal(size=(1, 8, 12, 12)).astype(np.float32)}


def made(body: str, weights: dict[str, tuple[int, ...]] | None = None) -> Network:
    return network_of(f"(float[1,8,12,12] x) => (float y) {{ {body} }}", weights or WEIGHTS)


def whole(network: Network) -> Pruned:
    return prune(network, find_groups(network), {})


def placed(network: Network) -> tuple[dict[str, QuantParams], Placement]:
    weights = nearest(network, 8)
    return weights, activation_tensors(network, weights, "cpu")


@pytest.mark.parametrize("body", [PLAIN, GATED], ids=["plain", "gated"])
def test_what_is_filled_up_answers_the_same(body: str) -> None:
    network = made(body)
    weights, placement = placed(network)
    grids = ranges(network, placement, FEEDS)
    wide, codes, told = filled(whole(network), weights, placement, "cpu")
    layer = next(layer for layer in wide.network.layers.values() if layer.depthwise)
    assert layer.out_channels == layer.groups == 32
    assert told.startswith("8 channels were added")
    assert list(wide.kept_out[layer.name]) == [*range(24), *([23] * 8)]
    before, after = emit(network, weights, grids, "cpu", placement), emit(wide.network, codes, grids, "cpu", placement)
    assert np.array_equal(run(before.model, FEEDS)[0], run(after.model, FEEDS)[0])
    for x in (FEEDS, {"x": -FEEDS["x"]}):
        np.testing.assert_allclose(run(network.to_model(), x)[0], run(wide.network.to_model(), x)[0], rtol=0, atol=1e-5)


def test_nothing_is_added_where_nothing_is_left_over_or_another_runtime_runs_it() -> None:
    network = made(PLAIN.replace("24", "32"), {k: tuple(32 if n == 24 else n for n in v) for k, v in WEIGHTS.items()})
    pruned = whole(network)
    assert filled(pruned, *placed(network), "cpu")[0] is pruned
    other = whole(made(PLAIN))
    assert filled(other, *placed(other.network), "portable")[0] is other


def test_one_channel_too_many_does_not_pay_for_fifteen() -> None:
    weights = {k: tuple(17 if n == 24 else n for n in v) for k, v in WEIGHTS.items()}
    network = made(PLAIN.replace("24", "17"), weights)
    pruned = whole(network)
    assert filled(pruned, *placed(network), "cpu")[0] is pruned


@pytest.mark.parametrize(
    "end",
    ["f = Flatten (r) y = Gemm (f, wg)", "c = Concat <axis=1> (r, a) y = Conv (c, wc)", "y = Identity (r)"],
)
def test_channels_that_others_count_are_not_added_to(end: str) -> None:
    weights = {**WEIGHTS, "wg": (CHANNELS * 144, 5), "wc": (8, 2 * CHANNELS, 1, 1)}
    network = made(f"a = Conv (x, w1, b1) h = Relu (a) d = {DEPTHWISE} r = Relu (d) {end}", weights)
    channels = find_groups(network)
    assert not any(may_widen(network, channels, group) for group in channels.groups)


def test_what_is_to_be_left_alone_is_not_filled_up() -> None:
    network = made(PLAIN)
    pruned = whole(network)
    assert filled(pruned, *placed(network), "cpu", ["conv4"])[0] is pruned
    assert filled(pruned, *placed(network), "cpu", ["nothing"])[0] is not pruned


def test_a_report_attributes_what_was_lost_to_layers_that_were_filled_up() -> None:
    result = compress(made(GATED).to_model(), bits=8, activations=8, input_range=(0, 1), attribution=True, force=True)
    layer = next(layer for layer in result.report.layers if layer.name == "conv2")
    assert (layer.channels_before, layer.channels_after) == (24, 32)
    assert {loss.name for loss in result.report.attribution if loss.arriving_db} >= {"conv0", "conv2"}
