"""Layers whose quantized activations ruin the outputs stay in float, and no others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from onnx_udfc.emit.placement import PAIR, Placement
from onnx_udfc.emit.sites import switchable
from onnx_udfc.emit.targets import activation_tensors
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.harm import HARMLESS, Choices, Trial, borders, columns, harms_of, lost, spared
from onnx_udfc.repair.ranges import measure_ranges
from tests.normed_graphs import CHAIN, scaled_model
from tests.quantized_graphs import Values, network_of, run, simulate

LOUD = {"w0": (4, 4, 1, 1), "w1": (16, 4, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (2, 16, 1, 1)}
BODY = """a = Conv (x, w0) m = Abs (a) s = Add (m, tiny) l = Log (s) c = Conv (l, w1, b1) r = Relu (c)
    d = Conv (r, w2, b2) t = Relu (d) y = Conv (t, w3)"""


def loudness(body: str = BODY) -> Network:
    """Three layers on the logarithm of what another one makes of an input whose values span many magnitudes."""
    return network_of(f"(float[N,4,16,16] x) => (float y) <float tiny = {{0.000001}}> {{ {body} }}", LOUD)


def sounds(count: int = 8) -> Values:
    rng = np.random.default_rng(1)
    levels = 10.0 ** rng.uniform(-5, 0, (count, 1, 4, 4)).repeat(4, 2).repeat(4, 3)
    return {"x": (levels * rng.normal(size=(count, 4, 16, 16))).astype(np.float32)}


def images(count: int = 8) -> Values:
    return {"x": np.random.default_rng(0).normal(size=(count, 3, 12, 12)).astype(np.float32)}


def placed(network: Network, feeds: Values, left: Collection[str] = frozenset()) -> tuple[Placement, Trial]:
    placement = activation_tensors(network, list(network.layers), "cpu", left)
    grids = measure_ranges(network, placement, feeds, likeness="real")
    return placement, Trial(network, placement, grids, feeds, samples=8)


def test_what_feeds_a_logarithm_stays_in_float_and_the_rest_does_not() -> None:
    network, feeds = loudness(), sounds()
    placement, trial = placed(network, feeds)
    assert placement.integer == ("conv0", "conv4", "conv6", "conv8")
    assert (trial.harm(placement.tensors) or 0) > 0.2
    grids = measure_ranges(network, placement, feeds, likeness="real")
    left = spared(network, list(network.layers), "cpu", placement, grids, feeds)
    assert left.kept == ("conv0",)
    assert left.integer == ("conv4", "conv6", "conv8")
    assert left.tensors == ("l", "r", "t", "y")
    assert (trial.harm(left.tensors) or 1) < 2 * HARMLESS


def test_where_nothing_is_ruined_the_placement_stays_as_it_is() -> None:
    network = read(scaled_model(CHAIN))
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids = measure_ranges(network, placement, images(), likeness="real")
    assert spared(network, list(network.layers), "cpu", placement, grids, images()) is placement


RARE = """a = Conv (x, w0) e = Exp (a) r = Relu (e) c = Conv (r, w1) y = GlobalMaxPool (c)"""


def test_nothing_is_clipped_where_clipping_ruins_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few values far above all others are all that the answers tell."""
    monkeypatch.setattr("onnx_udfc.repair.harm.RUINED", 0.05)
    shapes = {"w0": (8, 4, 1, 1), "w1": (8, 8, 1, 1)}
    network = network_of(f"(float[N,4,16,16] x) => (float y) {{ {RARE} }}", shapes)
    feeds = {"x": np.random.default_rng(3).normal(size=(8, 4, 16, 16)).astype(np.float32)}
    layers, asked = list(network.layers), list[tuple[bool, bool]]()
    placement = activation_tensors(network, layers, "cpu")

    def clipped(changed: Placement) -> dict[str, ActivationParams]:
        grids = measure_ranges(network, changed, feeds, likeness="real")
        narrower = {name: replace(grid, scale=grid.scale / 4) for name, grid in grids.items()}
        return grids if changed.whole else narrower

    def measure(changed: Placement, exact: bool) -> dict[str, ActivationParams]:
        asked.append((changed.whole, exact))
        return clipped(changed)

    left = spared(network, layers, "cpu", placement, clipped(placement), feeds, measure=measure)
    assert left.whole
    assert asked[0] == (True, False)
    trial, before = (Trial(network, p, clipped(p), feeds, 8) for p in (left, placement))
    assert (trial.harm(left.tensors) or 1) < 0.5 * (before.harm(placement.tensors) or 0)


def test_whole_ranges_hold_the_largest_value() -> None:
    network, feeds = read(scaled_model(CHAIN)), images()
    placement = activation_tensors(network, list(network.layers), "cpu")
    whole = measure_ranges(network, replace(placement, whole=True), feeds, likeness="alike", exact=True)
    clipped = measure_ranges(network, placement, feeds, likeness="alike", exact=True)
    low, high = ((grid.simulate(np.array([-1e9, 1e9]))) for grid in (whole["x"], clipped["x"]))
    assert low[1] >= feeds["x"].max() - whole["x"].scale
    assert np.ptp(low) >= np.ptp(high) / 1.25


def test_what_costs_more_than_it_saves_stays_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    network, feeds = loudness(), sounds()
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids = measure_ranges(network, placement, feeds, likeness="real")
    monkeypatch.setattr("onnx_udfc.repair.harm.PRICE", 1e4)
    assert spared(network, list(network.layers), "cpu", placement, grids, feeds) is placement


def test_the_report_names_what_is_kept_in_float_and_why() -> None:
    body = BODY.replace("Abs (a)", "Relu (a)")  # of which nobody knows without measuring that small values count
    result = compress(loudness(body).to_model(), bits=8, activations=8, calibrate=sounds(40))
    (note,) = (n for n in result.report.runtime.notes if n.startswith("kept in float"))
    assert note.startswith("kept in float: conv0; for the sake of the outputs: ")
    assert not any("left out of the quantization" in n for n in result.report.runtime.notes)
    quantized = {n.input[0] for n in result.model.graph.node if n.op_type == "QuantizeLinear"}
    assert not any(name.startswith(("x", "a")) for name in quantized)
    assert (result.report.fidelity.sqnr_db or 0) > 15


def test_a_product_that_gets_a_bias_on_the_way_stays_as_it_was_placed() -> None:
    body = BODY.replace("Abs (a)", "Relu (a)").replace("y = Conv (t, w3)", "g = GlobalAveragePool (t) f = Flatten (g)")
    text = f"(float[N,4,16,16] x) => (float[N,5] y) <float tiny = {{0.000001}}> {{ {body} y = MatMul (f, w4) }}"
    network = network_of(text, {k: v for k, v in LOUD.items() if k != "w3"} | {"w4": (16, 5)})
    result = compress(network.to_model(), bits=8, activations=8, calibrate=sounds(40))
    assert any(n.startswith("kept in float: conv0; for the sake") for n in result.report.runtime.notes)
    (product,) = (n for n in result.model.graph.node if n.op_type == "MatMul")
    assert any(n.op_type == "Add" and n.input[0] == product.output[0] for n in result.model.graph.node)


def test_what_the_graph_alone_shows_needs_no_measurement() -> None:
    result = compress(loudness().to_model(), bits=8, activations=8, calibrate=sounds(40))
    assert not any(n.startswith("kept in float") for n in result.report.runtime.notes)
    assert [layer.bits for layer in result.report.layers] == [12, 7, 7, 7]  # integer kernels: 7
    quantized = {n.input[0] for n in result.model.graph.node if n.op_type == "QuantizeLinear"}
    assert not any(name.startswith(("x", "a")) for name in quantized)
    assert (result.report.fidelity.sqnr_db or 0) > 15


class _Additive:
    """A trial whose harms are sums, which counts its runs."""

    def __init__(self, harms: Mapping[str, float]) -> None:
        self.harms, self.runs = harms, 0

    def harm(self, quantized: Iterable[str]) -> float:
        self.runs += 1
        return sum(self.harms[tensor] for tensor in quantized)


@pytest.mark.parametrize("runs", [8, 40, 1000])
def test_harms_are_found_in_few_runs(runs: int) -> None:
    true = {f"t{i}": 0.0 for i in range(64)} | {"t5": 0.3, "t40": 0.2}
    trial = _Additive(true)
    found = harms_of(cast("Trial", trial), list(true), 0.5, runs)
    assert list(found) == list(true)
    assert sum(found.values()) == pytest.approx(0.5)
    assert trial.runs <= min(runs, 24)  # two paths down 64 leaves, less what they share
    if runs >= 24:
        assert found == pytest.approx(true)
    else:
        assert found["t5"] > 0.03 > found["t20"]


@pytest.mark.parametrize("on", [(), ("x",), ("r1", "y"), ("x", "r1", "r2", "y")])
def test_a_tensor_goes_through_its_pair_where_its_switch_is_on(on: tuple[str, ...]) -> None:
    network, feeds = read(scaled_model(CHAIN)), images(3)
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids = measure_ranges(network, placement, feeds, likeness="real")
    model, flags = switchable(network, placement, grids)
    switches = np.array([tensor in on for tensor in placement.tensors])
    (found,) = run(model, feeds | {flags: switches}, optimize=False)
    only = Placement({t: None for t in placement.sites if t in on}, {}, {}, placement.integer)
    expected = simulate(network, {}, only, grids, feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_left_takes_what_writes_and_what_reads_it_along() -> None:
    network = loudness()
    placement = activation_tensors(network, list(network.layers), "cpu", ["r"])
    assert placement.kept == ("conv4", "conv6")
    assert placement.tensors == ("x", "a", "t", "y")
    residual = network_of(
        "(float[1,8,6,6] x) => (float y) { a = Conv (x, w1, b1) b = Relu (x) c = Conv (b, w2, b2) s = Add (a, c)"
        " y = Conv (s, w3) }",
        {"w1": (8, 8, 1, 1), "b1": (8,), "w2": (8, 8, 1, 1), "b2": (8,), "w3": (4, 8, 1, 1)},
    )
    without = activation_tensors(residual, list(residual.layers), "cpu", ["s"])
    assert without.kept == ("conv4",)
    assert without.tensors == ("x", "a", "b", "c")


def test_borders_are_what_stands_next_to_a_layer_in_float() -> None:
    network = loudness()
    for left, expected in ((), set()), (["r"], {"t"}), (["t"], {"r"}), (["a"], set()), (["l"], {"r"}):
        assert borders(network, activation_tensors(network, list(network.layers), "cpu", left)) == expected


def test_values_at_borders_have_their_price() -> None:
    network = loudness()
    names = list(network.layers)
    placement = activation_tensors(network, names, "cpu")
    harms = dict.fromkeys(placement.tensors, 0.0) | {"r": 0.5}
    macs = dict(zip(placement.integer, (1e3, 2e3, 3e3, 4e3), strict=True))
    values = dict.fromkeys(placement.sites, 7)
    (option,) = Choices(network, names, "cpu", placement, macs, values).growing(harms)
    assert option.placement.kept == ("conv4", "conv6")
    assert option.floated == 0.5
    assert option.price == 0.5 + PAIR * 7 / 1e4  # those of t


@pytest.mark.parametrize(("values", "left"), [
    ({"x": 1, "a": 1, "b": 1, "c": 1, "y": 1}, {"b"}),  # few values everywhere: it alone
    ({"x": 9, "a": 9, "b": 9, "c": 1, "y": 2}, {"a", "b"}),  # few behind, and the input is in float then
    ({"x": 9, "a": 1, "b": 9, "c": 30, "y": 2}, {"b", "c"}),  # few before, and the output comes in float
])  # fmt: skip
def test_what_stands_beside_leaves_too_where_fewer_values_are_at_the_borders(
    values: dict[str, int], left: set[str]
) -> None:
    network = network_of(
        "(float[1,4,6,6] x) => (float y) { a = Conv (x, w) b = Conv (a, w) c = Conv (b, w) y = Conv (c, w) }",
        {"w": (4, 4, 1, 1)},
    )
    names = list(network.layers)
    placement = activation_tensors(network, names, "cpu")
    macs = dict.fromkeys(names, 200.0)
    choices = Choices(network, names, "cpu", placement, macs, values)
    assert choices.option(["b"]).price == pytest.approx(0.5 + PAIR * (values["a"] + values["c"]) / 800)
    assert choices.closed(["b"]).left == left


def test_a_loss_is_the_error_beside_what_moves() -> None:
    y = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert lost(y, y) == 0
    assert lost(y, y + 1) == 4 / (4 + 2)
    assert lost(y, y * np.nan) == 1
    assert lost(np.ones((2, 2)), np.zeros((2, 2))) is None  # what does not move tells nothing
    assert lost(y[:1], y[:1]) is None
    boxes = np.stack([y, y[::-1]], axis=-1)[:, None].repeat(3, 1).reshape(2, 6, 2)
    units = np.array([1, 100])
    assert lost(boxes * units, (boxes + 1) * units) == pytest.approx(lost(boxes, boxes + 1) or 0, rel=1e-12)


def test_columns_are_the_shortest_axis_where_there_are_few() -> None:
    assert columns(np.zeros((2, 5))).shape == (2, 5, 1)
    assert columns(np.zeros((2, 4420, 4))).shape == (2, 4420, 4)
    assert columns(np.zeros((2, 84, 8400))).shape == (2, 8400, 84)
    assert columns(np.zeros((2, 3, 8, 9))).shape == (2, 72, 3)
    assert columns(np.zeros((2, 200, 300))).shape == (2, 60000, 1)
