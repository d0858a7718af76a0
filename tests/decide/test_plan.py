"""The plan: prices of groups in one unit, and what is said about what stays whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnx_udfc import compress
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.decide.allocate import damage_of
from onnx_udfc.decide.asked import factorable
from onnx_udfc.decide.counts_and_bits import make_plan
from onnx_udfc.decide.plan import removals
from onnx_udfc.model.files import load
from onnx_udfc.numerics.elimination import Removal
from onnx_udfc.options import Options
from tests.decide.test_file_size import WIDE
from tests.normed_graphs import RESIDUAL, scaled_model
from tests.small_graphs import small_network


@pytest.mark.parametrize("shares", [True, False])
def test_what_was_not_measured_is_priced_as_what_was(shares: bool) -> None:
    network = small_network(WIDE)
    channels = find_groups(network)
    first, second = channels.groups
    measured = {first.name: Removal(np.arange(64), np.r_[np.full(63, 0.01), np.inf], shares)}
    options = Options(prune=0.5)
    orders = removals(network, channels.groups, options, measured)
    assert orders[first.name] is measured[first.name]
    assert orders[second.name].shares is shares
    weights = np.square(network.layers[second.producers[0]].matrix()[0]).sum(1)
    part = np.sort(weights)[:48].sum() / weights.sum()  # of the variance, if nothing takes over
    half = damage_of(second, orders[second.name], np.array([48.0]))[0]
    assert half == pytest.approx(-np.log(1 - part) if shares else part, rel=1e-6)
    for layer in network.layers.values():  # the unit does not hang on how large weights are
        layer.set(layer.matrix() * 37, layer.bias)
    again = removals(network, channels.groups, options, measured)
    np.testing.assert_allclose(again[second.name].cost, orders[second.name].cost, rtol=1e-5)


def test_streams_that_nobody_asked_for_say_so() -> None:
    network = small_network(RESIDUAL)
    channels = find_groups(network)
    stream = next(g for g in channels.groups if g.kind == "stream")
    options = Options(prune=0.5, method="none")
    plan = make_plan(network, channels, load(network.to_model()), options)
    assert set(plan.why) == {g.name for g in channels.groups} - set(plan.keep)
    assert "--prune-stream on" in plan.why[stream.name]


def test_a_ratio_or_multiple_that_removes_nothing_is_said() -> None:
    report = compress(scaled_model(RESIDUAL), Options(prune=0.1, align=64, method="none")).report
    assert all(g.kept == g.channels for g in report.groups)
    assert any(w.startswith("nothing was pruned: ") for w in report.warnings)
    assert any("--align 64" in w and "too narrow" in w for w in report.warnings)


def test_a_ratio_that_takes_next_to_none_of_the_work_is_said() -> None:
    """Most of it is in a stream: a detector of spindles lost 1.5 % of its work at `--prune 0.5`."""
    text = """g (float[N,32,8,8] x, float[32,32,3,3] W1, float[32,32,3,3] W2, float[8,32,1,1] W3, float[4,8,1,1] W4)
        => (float[N,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, W1) ra = Relu(a) b = Conv<pads=[1,1,1,1]>(ra, W2) s = Add(ra, b)
        c = Conv(s, W3) rc = Relu(c) y = Conv(rc, W4) }"""
    (warning,) = compress(scaled_model(text), Options(prune=0.5, method="none")).report.warnings
    assert warning.startswith("--prune 0.5 saves 0.8% of the work: most of it is in residual streams")
    assert "--budget macs=0.5" in warning
    whole = compress(scaled_model(text), Options(prune=0.5, prune_stream="on", method="none")).report
    assert whole.warnings == ()


def test_a_network_that_nothing_can_go_from_is_not_run_for_the_repair() -> None:
    model = scaled_model("g (float[N,3,4,4] x, float[4,3,1,1] W) => (float[N,4,4,4] y) { y = Conv(x, W) }")
    assert "original network" not in compress(model, prune=0.5).report.timings
    assert "original network" in compress(model, prune=0.5, bits=8).report.timings


def test_a_network_without_anything_to_compress_says_so() -> None:
    model = scaled_model("g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }")
    warnings = compress(model, prune=0.5, bits=8).report.warnings
    assert any(w.startswith("nothing was pruned: no channels can go") for w in warnings)
    assert any(w.startswith("nothing was quantized: ") for w in warnings)
    (warning,) = compress(model, budget="macs=0.5").report.warnings  # half of no work is no work
    assert warning.startswith("nothing was done for --budget: ")
    assert not any(w.startswith("nothing was") for w in compress(model, bits=32).report.warnings)


@pytest.mark.parametrize(
    ("asked", "some"),
    [
        ({"target": "cpu"}, True),
        ({"target": "cuda"}, False),  # two kernels for one are no gain that the MACs would tell
        ({"target": "cuda", "provider": "cuda"}, False),
        ({"target": "cuda", "provider": "cuda", "budget": {"latency": "0.5"}}, True),  # that the clock tells
        ({"target": "cuda", "budget": {"latency": "0.5"}}, False),  # it is the processor's
        ({"target": "cuda", "factor": "on"}, True),
        ({"target": "cpu", "factor": "off"}, False),
        ({"budget": {"bytes": "0.1"}}, True),
        ({"budget": {"bytes": "0.1"}, "bits": "auto"}, False),  # narrow layers: bits alone do less harm
        ({"budget": {"bytes": "0.1"}, "bits": "auto", "factor": "on"}, True),
        ({"budget": {"bytes": "0.1", "macs": "0.5"}, "bits": "auto"}, True),
    ],
)
def test_layers_become_two_where_that_pays(asked: dict[str, Any], some: bool) -> None:
    network = small_network(WIDE)
    options = Options(**{"budget": {"macs": "0.5"}, **asked})
    assert bool(factorable(network, find_groups(network), options)) == some


@pytest.mark.parametrize(
    ("channels", "activations", "some"), [(64, None, True), (64, 8, True), (32, None, True), (32, 8, False)]
)
def test_for_a_ratio_narrow_integer_layers_stay_one(channels: int, activations: int | None, some: bool) -> None:
    weights = f"float[{channels},{channels},3,3] V, float[{channels},{channels},3,3] W"
    body = "h = Conv<pads=[1,1,1,1]>(x, V) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, W)"
    network = small_network(f"g (float[1,{channels},6,6] x, {weights}) => (float y) {{ {body} }}")
    groups, asked = find_groups(network), Options(prune=0.5, activations=activations)
    assert bool(factorable(network, groups, asked)) == some
    assert factorable(network, groups, replace(asked, factor="on"))
    assert factorable(network, groups, replace(asked, budget={"macs": "0.5"}))
    assert not factorable(
        network, find_groups(network, skip=("*",)), asked
    )  # no channel may go: nothing is left to reach


@pytest.mark.parametrize(("channels", "share", "some"), [(128, "0.05", True), (128, "0.1", False), (64, "0.05", False)])
def test_by_free_bits_wide_layers_become_two_where_few_bits_are_left(channels: int, share: str, some: bool) -> None:
    weights = f"float[{channels},{channels},3,3] V, float[{channels},{channels},1,1] W"
    body = "h = Conv(x, V) r = Relu(h) y = Conv(r, W)"
    network = small_network(f"g (float[1,{channels},6,6] x, {weights}) => (float y) {{ {body} }}")
    names = factorable(network, find_groups(network), Options(bits="auto", budget={"bytes": share}))
    assert [network.layers[name].kernel for name in names] == ([(3, 3)] if some else [])


def test_of_layers_that_never_become_two_no_curve_is_wanted() -> None:
    text = "g (float[1,3,6,6] x, float[32,3,3,3] V, float[32,32,3,3] W) => (float y) { h = Conv(x, V) y = Conv(h, W) }"
    network = small_network(text)
    asked = Options(budget={"macs": "0.5"}, factor="on")
    first, second = network.layers
    assert factorable(network, find_groups(network), asked) == (second,)
    assert factorable(network, find_groups(network), replace(asked, budget={}, rank_layer={first: 2})) == (first,)
