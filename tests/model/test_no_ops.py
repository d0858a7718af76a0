"""Nodes that change nothing are taken out, and what they kept apart comes together."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

NONE = [
    "h = Identity(c)",
    "h = Dropout(c)",
    "off = Constant<value = bool {0}>() r = Constant<value = float {0.5}>() h = Dropout(c, r, off)",
    "h, m = Dropout(c)",
    "one = Constant<value = float {1.0}>() h = Mul(one, c)",
    "one = Constant<value = float[1] {1.0}>() h = Div(c, one)",
    "none = Constant<value = float[1,1,1,1] {0.0}>() h = Add(c, none)",
    "none = Constant<value = float {0.0}>() h = Sub(c, none)",
    "h = Transpose<perm = [0,1,2,3]>(c)",
    "t = Transpose<perm = [0,2,3,1]>(c) h = Transpose<perm = [0,3,1,2]>(t)",
    "a = Constant<value = int64[1] {-1}>() t = Unsqueeze(c, a) h = Squeeze(t, a)",
    "h = Cast<to = 1>(c)",
    "h = Sum(c)",
    "h = Concat<axis = 1>(c)",
    "i = Identity(c) d = Dropout(i) h = Identity(d)",
]
SOME = [
    "h = Transpose<perm = [0,1,3,2]>(c)",
    "t = Transpose<perm = [0,2,3,1]>(c) h = Transpose<perm = [0,2,3,1]>(t)",
    "one = Constant<value = float {1.0}>() h = Sub(one, c)",
    "d = Cast<to = 11>(c) h = Cast<to = 1>(d)",
    "one = Constant<value = float {1.0}>() h = Div(one, c)",
]


def model_of(body: str) -> onnx.ModelProto:
    return small_model(f"""g (float[1,3,4,4] x, float[4,3,1,1] W, float[4] G, float[4] B, float[4] M, float[4] V)
        => (float[1,d1,d2,d3] y) {{ c = Conv(x, W) {body} y = BatchNormalization(h, G, B, M, V) }}""")


@pytest.mark.parametrize("body", NONE)
def test_a_batch_norm_behind_them_is_the_layer_s(body: str) -> None:
    model = model_of(body)
    network = read(load(model).model)
    assert [node.op for node in network.graph.nodes] == ["Conv"]
    assert network.has_batch_norms
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(network.to_model(), x)[0], run(model, x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("body", SOME)
def test_what_looks_alike_stays(body: str) -> None:
    model = model_of(body)
    network = read(load(model).model)
    assert len(network.graph.nodes) > 1
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(network.to_model(), x)[0], run(model, x)[0], rtol=1e-5, atol=1e-6)


def test_what_nothing_needs_keeps_no_batch_norm_apart() -> None:
    network = read(load(model_of("h = Identity(c) dead = Sigmoid(c)")).model)
    assert [node.op for node in network.graph.nodes] == ["Conv"]


def test_an_output_of_the_network_keeps_its_name_and_its_node() -> None:
    model = small_model("g (float[2,3] x) => (float[2,3] y) { h = Relu(x) y = Identity(h) }")
    network = read(load(model).model)
    assert [t.name for t in network.graph.outputs] == ["y"]
    x = {"x": np.array([[1, -1, 2], [0, 3, -4]], np.float32)}
    assert np.array_equal(run(network.to_model(), x)[0], np.maximum(x["x"], 0))


def test_what_gives_a_number_an_axis_stays() -> None:
    model = small_model(
        "g (float x) => (float[1] y) { one = Constant<value = float[1] {1.0}>() h = Mul(x, one) y = Relu(h) }"
    )
    assert [node.op for node in read(load(model).model).graph.nodes] == ["Mul", "Relu"]


def test_a_norm_of_halves_by_floats_gives_halves() -> None:
    model = small_model("""g (float[1,3,4,4] x, float[3] G, float[3] B, float[3] M, float[3] V) => (float[1,3,4,4] y) {
        h = Cast<to = 10>(x) n = BatchNormalization(h, G, B, M, V) c = Cast<to = 1>(n) y = Relu(c) }""")
    assert [node.op for node in read(load(model).model).graph.nodes] == ["Cast", "BatchNormalization", "Cast", "Relu"]
