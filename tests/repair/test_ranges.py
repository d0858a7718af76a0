from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_udfc.emit.writer import activation_tensors
from onnx_udfc.model.network import read
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.ranges import CERTAIN, MARGIN, last_tensors, measure_ranges, read_of, watchers
from tests.normed_graphs import CHAIN, RESIDUAL, scaled_model, settled
from tests.quantized_graphs import Values, network_of, simulate

READ = {"w1": (8, 8, 1, 1), "w2": (4, 8, 1, 1)}


def feeds(count: int = 4) -> Values:
    return {"x": np.random.default_rng(0).normal(size=(count, 3, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL], ids=["chain", "residual"])
def test_each_range_is_that_of_what_the_quantized_network_computes(text: str, target: str) -> None:
    network = read(scaled_model(text))
    placement = activation_tensors(network, list(network.layers), target)
    grids = measure_ranges(network, placement, feeds(), likeness="real")
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
    watch = watchers(network, placement, grids, likeness="real")["x"]
    x = feeds()["x"]
    seen = watch(x)[...]
    assert seen.dtype == x.dtype
    assert len(np.unique(seen)) <= 256
    assert np.array_equal(watch(seen)[...], seen)
    assert list(grids) == ["x"]


MOVING = """(float[N,3,12,12] x) => (float[N,4,12,12] y) {
    s = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()
    a = Conv(x, w1) r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    t = Transpose<perm=[0,1,3,2]>(p) u = Resize<mode="linear">(t, , s) y = Conv(u, w2) }"""


def test_what_only_moves_values_that_are_on_a_grid_is_not_rounded_again() -> None:
    network = network_of(MOVING, {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1)})
    placement = activation_tensors(network, list(network.layers), "cpu")
    assert {"r", "p", "t", "u"} <= set(placement.sites)
    watched = watchers(network, placement, {}, likeness="real")
    assert "r" in watched
    assert not {"p", "t"} & set(watched)
    assert "u" in watched  # between its pixels are values that no code stands for


def test_synthetic_ranges_have_headroom_and_the_last_one_a_margin() -> None:
    network = read(scaled_model(CHAIN))
    placement = activation_tensors(network, list(network.layers), "cpu")
    assert last_tensors(network, placement) == {"y", "r2"}
    real = measure_ranges(network, placement, feeds(), likeness="real")
    synthetic = measure_ranges(network, placement, feeds(), likeness="alike")
    assert all(synthetic[t].scale >= real[t].scale * 0.999 for t in placement.tensors)
    for last in ("y", "r2"):
        others = replace(placement, sites={t: r for t, r in placement.sites.items() if t != last})
        seen = simulate(network, {}, others, synthetic, feeds())[last]
        assert synthetic[last].scale * 255 == pytest.approx(MARGIN * (seen.max() - min(seen.min(), 0)), rel=1e-3)


SCORED = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[8] B1, float[4,8,1,1] W2, float[4] B2) =>
    (float[N,400] y) {{
    a = Conv(x, W1, B1) r = Relu(a) l = Conv(r, W2, B2) f = Flatten(l) y = {}(f) }}"""


@pytest.mark.parametrize(("last", "sides"), [("Sigmoid", 2), ("Tanh", 1)])
@pytest.mark.parametrize("bias", [-9.0, 9.0])
def test_scores_can_go_where_no_made_up_input_took_them(last: str, sides: int, bias: float) -> None:
    """A face detector saw no face: its logits ended at 0, and every face was worth 0.5."""
    model = scaled_model(SCORED.format(last))
    parameters = {t.name: t for t in model.graph.initializer}
    parameters["W2"].CopyFrom(numpy_helper.from_array(np.full((4, 8, 1, 1), 1e-3, np.float32), "W2"))
    parameters["B2"].CopyFrom(numpy_helper.from_array(np.full(4, bias, np.float32), "B2"))
    network = read(model)
    placement = activation_tensors(network, list(network.layers), "cpu")
    grid = measure_ranges(network, placement, feeds(), likeness="alike")["l"]
    ends = sorted(grid.scale * (np.array([0, 255]) - grid.zero_point))
    assert ends[0 if bias < 0 else 1] == pytest.approx(MARGIN * bias, rel=0.02)
    assert abs(ends[1 if bias < 0 else 0]) == pytest.approx(MARGIN * CERTAIN if sides == 2 else 0, abs=0.1)
    real = measure_ranges(network, placement, feeds(), likeness="real")["l"]
    assert real.zero_point in (0, 255)


def test_ranges_of_inputs_like_nothing_known_go_beyond_what_they_reach() -> None:
    network = read(scaled_model(CHAIN))
    placement = activation_tensors(network, list(network.layers), "cpu")
    alike, foreign = (measure_ranges(network, placement, feeds(), likeness=like) for like in ("alike", "foreign"))
    inner = sorted(set(placement.tensors) - last_tensors(network, placement))
    assert inner
    assert all(foreign[t].scale > alike[t].scale for t in inner)


@pytest.mark.parametrize("method", ["moments", "udfc", "merge", "none"])
def test_every_method_quantizes_activations(method: str) -> None:
    result = compress(settled(scaled_model(CHAIN), feeds(64)), bits=8, activations=8, method=method)
    assert Counter(n.op_type for n in result.model.graph.node)["QuantizeLinear"] == 4
    assert (result.report.fidelity.sqnr_db or 0) > 10


@pytest.mark.parametrize(
    ("nodes", "value", "expected"),
    [
        ("h = HardSwish (a)", 3.0, 3.0),
        ("h = HardSigmoid <alpha = 0.5, beta = 0.25> (a)", 0.5, 0.5),
        ("h = Sigmoid (a)", 0.0, 0.5),
        ("g = Sigmoid (a) h = Mul (a, g)", 0.0, 0.0),
        ("g = Sigmoid (a) h = Mul (g, a)", -800.0, 0.0),
        ("h = Tanh (a)", 0.0, 0.0),
        ("h = LeakyRelu (a)", -7.0, -7.0),
        ("g = Sigmoid (a) h = Add (a, g)", 5.0, 5.0),
        ("g = HardSwish (a) h = Add (a, g)", 5.0, 5.0),
    ],
)
def test_errors_count_as_the_reader_sees_them(nodes: str, value: float, expected: float) -> None:
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ a = Conv (x, w1) {nodes} y = Conv (h, w2) }}", READ)
    assert read_of(network, "a")(np.array([value]))[0] == pytest.approx(expected, abs=1e-12)


def test_a_range_before_a_hard_swish_ends_where_that_is_flat() -> None:
    network = network_of(
        "(float[N,8,6,6] x) => (float y) { a = Conv (x, w1) h = HardSwish (a) y = Conv (h, w2) }", READ
    )
    x = {"x": 40 * np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32)}
    placement = activation_tensors(network, list(network.layers), "cpu")
    grid = measure_ranges(network, placement, x, likeness="real")["a"]
    low, high = -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale
    assert -20 < low < -2
    assert high > 60


CONCAT = {"w1": (8, 8, 1, 1), "w2": (8, 8, 1, 1), "w3": (4, 16, 1, 1), "b1": (8,)}


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        ("a = Conv (x, w1, b1) r = Relu (a) b = Conv (x, w2) t = Relu (b)", ["r", "t"]),
        ("a = Conv (x, w1, b1) r = Identity (a) b = Conv (x, w2) t = Identity (b)", []),  # on the grids of a and b
        ("r = Conv (x, w1, b1) t = Conv (x, w2)", ["r", "t"]),
        ("a = Conv (x, w1, b1) r = Relu (a) t = Conv (x, w2)", ["t"]),  # below its zero point a Relu would not clip
        (
            "a = Conv (x, w1) r = Sigmoid (a) b = Relu (r) d = Conv (x, w2) t = Add (b, d)",
            ["t"],
        ),  # another reads it, too
    ],
)
def test_what_only_a_concat_reads_is_on_the_grid_of_its_result(body: str, joined: list[str]) -> None:
    network = network_of(
        f"(float[N,8,6,6] x) => (float y) {{ {body} c = Concat <axis=1> (r, t) y = Conv (c, w3) }}", CONCAT
    )
    placement = activation_tensors(network, list(network.layers), "cpu")
    x = {"x": np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32) * 3}
    grids = measure_ranges(network, placement, x, likeness="real")
    assert [t for t in ("r", "t") if grids.get(t) == grids["c"]] == joined


def test_a_concat_on_one_grid_keeps_to_the_caps_of_what_it_reads() -> None:
    body = "a = Conv (x, w1, b1) r = Clip (a, low, high) t = Conv (x, w2) s = Relu (t) c = Concat <axis=1> (r, s)"
    constants = "<float low = {0}, float high = {0.5}>"
    network = network_of(f"(float[N,8,6,6] x) => (float y) {constants} {{ {body} y = Conv (c, w3) }}", CONCAT)
    placement = activation_tensors(network, list(network.layers), "cpu")
    x = {"x": np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32) * 3}
    grids = measure_ranges(network, placement, x, likeness="real")
    assert grids["c"].scale * 255 > 1 > 2 * grids["r"].scale * 255 * 0.999
    assert grids["s"] == grids["c"]
