"""Transposes move on until they meet, and no others come."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

BETWEEN = {
    "r = Relu(l)": ["Relu"],
    "b = Add(l, B) s = Mul(b, G) r = Relu(s)": ["Relu"],
    "r = Celu(l)": ["Celu"],
    "s = Sigmoid(l) r = Mul(l, s)": ["Sigmoid", "Mul"],
    "q = Relu(l) r = Concat<axis = 3>(l, q)": ["Relu", "Concat"],
    "p = Constant<value = int64[8] {0,0,1,0,0,0,2,0}>() r = Pad(l, p)": ["Pad"],
    "r = Softmax<axis = 3>(l)": ["Softmax"],
    "n = Constant<value = int64[2] {1,3}>() a, b = Split<axis = -1>(l, n) r = Concat<axis = 3>(b, a)": [
        "Split", "Concat",
    ],
    "f = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {3}>() a = Constant<value = int64[1] {-1}>()"
    " r = Slice(l, f, e, a)": ["Slice"],
    "a = Constant<value = int64[2] {1,2}>() m = ReduceMean<keepdims = 1>(l, a) g = Sigmoid(m) r = Mul(l, g)": [
        "GlobalAveragePool", "Sigmoid", "Mul",
    ],
    "q = Relu(l) w = Sub(F, q) r = Max(w, q)": ["Relu", "Sub", "Max"],
}  # fmt: skip


@pytest.mark.parametrize("body", BETWEEN)
def test_two_around_what_works_value_by_value_go(body: str) -> None:
    model = small_model(f"""g (float[2,3,4,6] x, float[4,3,1,1] W, float[4] B, float[4] G, float[4,6,1] F)
        => (float y) {{
        c = Conv(x, W) l = Transpose<perm = [0,2,3,1]>(c) {body} y = Transpose<perm = [0,3,1,2]>(r) }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    network = read(load(model).model)
    ops = [node.op for node in network.graph.nodes]
    assert "Transpose" not in ops[:-1]  # the last one may write the network's output
    assert ops[1 : len(BETWEEN[body]) + 1] == BETWEEN[body]
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)}
    before, after = run(model, x)[0], run(network.to_model(), x)[0]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


STAY = [
    "l = Transpose<perm = [0,2,3,1]>(c) y = Relu(l)",
    "l = Transpose<perm = [0,2,3,1]>(c) a = Relu(l) b = Neg(l) y = Concat<axis = 0>(a, b)",
    "l = Transpose<perm = [0,2,3,1]>(c) k = Transpose<perm = [0,3,2,1]>(c) y = MatMul(l, k)",
]


@pytest.mark.parametrize("body", STAY)
def test_where_none_would_go_nothing_is_moved(body: str) -> None:
    model = small_model(f"g (float[2,3,4,4] x, float[4,3,1,1] W) => (float y) {{ c = Conv(x, W) {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    network = read(load(model).model)
    assert [node.op for node in network.graph.nodes] == [n.op_type for n in model.graph.node]


def test_a_residual_network_with_channels_last_is_one_with_channels_first() -> None:
    model = small_model("""g (float[2,4,5,5] x, float[4,4,3,3] W, float[4,4,1,1] V, float[4] B, float[4] C)
        => (float[2,4] y) {
        c = Conv<pads = [1,1,1,1]>(x, W) l = Transpose<perm = [0,2,3,1]>(c) b = Add(l, B) r = Relu(b)
        f = Transpose<perm = [0,3,1,2]>(r) d = Conv(f, V) m = Transpose<perm = [0,2,3,1]>(d) e = Add(m, C)
        s = Add(e, r) t = Relu(s) a = Constant<value = int64[2] {1,2}>() y = ReduceMean<keepdims = 0>(t, a) }""")
    network = read(load(model).model)
    assert [node.op for node in network.graph.nodes] == [
        "Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten",
    ]  # fmt: skip
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)}
    np.testing.assert_allclose(run(network.to_model(), x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)
