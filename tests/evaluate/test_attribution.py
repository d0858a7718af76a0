"""Attribution against a naive computation in float64, and on networks damaged by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnx_udfc.evaluate.attribution import Changes, advice, attribute, histogram
from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.evaluate.report import LayerReport
from onnx_udfc.model.network import read
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.equalize import equalize
from tests.quantized_graphs import run
from tests.repair.test_equalize import feeds as uneven_feeds
from tests.repair.test_equalize import model as uneven

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x) => (float[N,4] y) {
   a = Conv <pads=[1,1,1,1]> (x, w1, b1)
   ra = Relu (a)
   b = Conv <pads=[1,1,1,1], strides=[2,2]> (ra, w2)
   rb = Relu (b)
   c = ConvTranspose (rb, w3)
   p = GlobalAveragePool (c)
   f = Flatten (p)
   m = MatMul (f, w4)
   y = Add (m, b4)
}
"""
SHAPES = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (5, 6, 3, 3), "w3": (5, 7, 2, 2), "w4": (7, 4), "b4": (4,)}
NAMES = {"Conv": ["first", "second"], "ConvTranspose": ["third"], "MatMul": ["last"]}


def network(weights: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    names = {k: list(v) for k, v in NAMES.items()}
    for node in model.graph.node:
        node.name = names[node.op_type].pop(0) if node.op_type in names else node.output[0]
    model.graph.initializer.extend(numpy_helper.from_array(w, k) for k, w in weights.items())
    return model


@pytest.fixture
def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}


@pytest.fixture
def feed() -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)}


def layer(name: str, bits: int = 32, after: int = 10) -> LayerReport:
    return LayerReport(name, "Conv", bits, 10, after, None)


LAYERS = tuple(layer(n) for n in ("first", "second", "third", "last"))


def two_bits(w: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = np.abs(w).max()
    rounded: NDArray[np.float32] = (np.clip(np.rint(w / scale), -1, 1) * scale).astype(np.float32)
    return rounded


def naive_conv(
    x: NDArray[np.float64], w: NDArray[np.float64], b: NDArray[np.float64] | None, stride: int = 1
) -> NDArray[np.float64]:
    """3x3 with padding 1, tap by tap."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = (x.shape[2] + stride - 1) // stride
    y = np.zeros((len(x), len(w), size, size))
    for i in range(size):
        for j in range(size):
            patch = padded[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3]
            y[:, :, i, j] = np.einsum("ncij,ocij->no", patch, w)
    return y if b is None else y + b[None, :, None, None]


def naive_db(y: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    return 10 * math.log10((y**2).sum() / ((y - z) ** 2).sum())


@pytest.mark.parametrize("victim", ["first", "second", "third", "last"])
def test_the_layer_in_two_bits_is_first(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]], victim: str
) -> None:
    tensor = {"first": "w1", "second": "w2", "third": "w3", "last": "w4"}[victim]
    damaged = {k: two_bits(w) if k == tensor else w + np.float32(1e-4) for k, w in weights.items()}
    rows = attribute(network(weights), network(damaged), [feed], LAYERS)
    assert rows[0].name == victim
    assert {r.name for r in rows} == {x.name for x in LAYERS}


def test_decibels_equal_a_naive_computation(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]]
) -> None:
    damaged = {k: two_bits(w) if k in ("w1", "w2") else w for k, w in weights.items()}
    rows = {r.name: r for r in attribute(network(weights), network(damaged), [feed], LAYERS)}
    w, d = ({k: v.astype(np.float64) for k, v in side.items()} for side in (weights, damaged))
    x = feed["x"].astype(np.float64)
    a, ad = naive_conv(x, w["w1"], w["b1"]), naive_conv(x, d["w1"], d["b1"])
    b, bd = naive_conv(np.maximum(a, 0), w["w2"], None, 2), naive_conv(np.maximum(ad, 0), d["w2"], None, 2)
    own = naive_conv(np.maximum(a, 0), d["w2"], None, 2)
    assert rows["first"].own_db == pytest.approx(naive_db(a, ad), rel=1e-5)
    assert rows["first"].arriving_db == pytest.approx(naive_db(a, ad), rel=1e-5)
    assert rows["second"].own_db == pytest.approx(naive_db(b, own), rel=1e-5)
    assert rows["second"].arriving_db == pytest.approx(naive_db(b, bd), rel=1e-5)
    assert rows["third"].own_db == MAX_DB
    assert rows["last"].own_db == MAX_DB


def test_a_pruned_network_is_compared_at_the_channels_that_are_left(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]]
) -> None:
    keep = np.array([0, 2, 3, 5])
    pruned = weights | {"w1": weights["w1"][keep], "b1": weights["b1"][keep], "w2": weights["w2"][:, keep]}
    changes = Changes(kept_in={"second": keep}, kept_out={"first": keep})
    rows = attribute(network(weights), network(pruned), [feed], LAYERS, changes)
    found = {r.name: r for r in rows}
    assert found["first"].own_db is not None
    assert found["first"].own_db > 120  # float32 rounding of kernels that add in another order
    assert found["first"].compared == "kept"
    w = {k: v.astype(np.float64) for k, v in weights.items()}
    ra = np.maximum(naive_conv(feed["x"].astype(np.float64), w["w1"], w["b1"]), 0)
    b, own = naive_conv(ra, w["w2"], None, 2), naive_conv(ra[:, keep], w["w2"][:, keep], None, 2)
    assert rows[0].name == "second"
    assert found["second"].own_db == pytest.approx(naive_db(b, own), rel=1e-5)
    assert found["second"].compared == "output"


def test_channels_that_nobody_named_are_not_compared(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]]
) -> None:
    keep = np.array([0, 2])
    pruned = weights | {"w1": weights["w1"][keep], "b1": weights["b1"][keep], "w2": weights["w2"][:, keep]}
    found = {r.name: r for r in attribute(network(weights), network(pruned), [feed], LAYERS)}
    assert found["first"].own_db is None
    assert found["second"].own_db is None
    assert found["second"].arriving_db is not None


def test_splitting_the_inputs_changes_nothing(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]]
) -> None:
    damaged = {k: two_bits(w) for k, w in weights.items()}
    whole = attribute(network(weights), network(damaged), [feed], LAYERS)
    parts = attribute(network(weights), network(damaged), [{"x": feed["x"][i : i + 1]} for i in range(4)], LAYERS)
    for one, other in zip(whole, parts, strict=True):
        assert one.name == other.name
        assert one.own_db == pytest.approx(other.own_db, rel=1e-5)


def test_advice_names_what_cost_more() -> None:
    assert advice(layer("a", bits=2)).startswith("more than 2 bits")
    assert "--skip 'a'" in advice(layer("a", bits=2))
    assert advice(layer("a", after=5)).startswith("fewer channels")
    assert advice(layer("a")) == ""
    assert "bits" in advice(layer("a", 4, 5))
    assert "fewer channels" in advice(layer("a", 4, 5))
    rounded = replace(layer("a", 4, 5), error_after=0.01, relative_error=0.5)
    assert "fewer channels" not in advice(rounded)
    assert "bits" not in advice(replace(rounded, error_after=0.4))


def test_nothing_is_advised_that_would_not_help(
    weights: dict[str, NDArray[np.float32]], feed: dict[str, NDArray[np.float32]]
) -> None:
    held = advice(layer("a", bits=7), asked=8)  # integer kernels take no more
    assert held == "--skip 'a' leaves it as it is"
    assert advice(layer("a", bits=4), asked=4).startswith("more than 4 bits")
    assert advice(layer("a", bits=4), asked="auto").startswith("more than 4 bits")
    near = {k: w * np.float32(1 + 1e-4) for k, w in weights.items()}  # 80 dB
    layers = tuple(replace(x, bits=4) for x in LAYERS)
    assert [r.advice for r in attribute(network(weights), network(near), [feed], layers)] == [""] * 4
    far = near | {"w2": two_bits(weights["w2"])}
    rows = attribute(network(weights), network(far), [feed], layers)
    assert [bool(r.advice) for r in rows] == [True, False, False, False]
    assert rows[0].name == "second"


def test_histogram_counts_every_weight_once() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal((8, 3)), rng.standard_normal((4, 3))
    found = histogram(before, after)
    assert sum(found.before) == 24
    assert sum(found.after) == 12
    assert found.low == min(before.min(), after.min())


def test_an_equalized_network_is_compared_in_the_units_of_the_original() -> None:
    network = read(uneven())
    equalize(network, uneven_feeds(), 8)
    compressed = network.copy()
    for each in compressed.layers.values():
        matrix = each.matrix()
        each.set(np.rint(matrix / np.abs(matrix).max() * 31) / 31 * np.abs(matrix).max(), each.bias)
    layers = tuple(LayerReport(n, "Conv", 6, 10, 10, None) for n in network.layers)
    changes = Changes(scale=dict(network.scale))
    rows = attribute(network.to_model(), compressed.to_model(), [uneven_feeds()], layers, changes)
    found = {r.name: r for r in rows}
    values = [run(m, uneven_feeds())[1:] for m in (all_outputs(uneven()), all_outputs(compressed.to_model()))]
    for (name, each), y, z in zip(network.layers.items(), *values, strict=True):
        unit = network.scale.get(each.node.outputs[0].name, np.ones(1)).reshape(1, -1, 1, 1)
        noise = (y.astype(np.float64) - z * unit) ** 2
        expected = 10 * math.log10((y.astype(np.float64) ** 2).sum() / noise.sum())
        assert found[name].arriving_db == pytest.approx(expected, abs=0.05)


def all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.extend(onnx.ValueInfoProto(name=n.output[0]) for n in model.graph.node if n.op_type == "Conv")
    return model


def test_no_layer_of_an_equalized_network_is_blamed_for_its_scale() -> None:
    report = compress(uneven(), Options(bits=8, activations=8, attribution=True, images=8, threads=1)).report
    assert len(report.attribution) == 3
    assert all(row.own_db is not None and row.own_db > 25 for row in report.attribution)
    assert all(row.arriving_db is not None and row.arriving_db > 20 for row in report.attribution)
