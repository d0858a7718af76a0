"""Matrix products and fused layers in other words become layers with the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

DENSE = {
    "W (6,4), x": ("float[6,4] W", "float[4,3] x", "y = MatMul(W, x)"),
    "W (6,4), x of a batch": ("float[6,4] W", "float[2,4,3] x", "y = MatMul(W, x)"),
    "W (1,6,4), x of a batch": ("float[1,6,4] W", "float[2,4,3] x", "y = MatMul(W, x)"),
    "W (1,4,6) on the right": ("float[1,4,6] W", "float[2,3,4] x", "y = MatMul(x, W)"),
    "transA": ("float[4,6] W, float[6] B", "float[4,3] x", "y = Gemm<transA = 1>(x, W, B)"),
    "transA and transB": ("float[6,4] W", "float[4,3] x", "y = Gemm<transA = 1, transB = 1, alpha = 0.5>(x, W)"),
    "bi,oi->bo": ("float[6,4] W", "float[3,4] x", 'y = Einsum<equation = "bi,oi->bo">(x, W)'),
    "bti, io -> bto": ("float[4,6] W", "float[2,3,4] x", 'y = Einsum<equation = "bti, io -> bto">(x, W)'),
    "...i,oi->...o": ("float[6,4] W", "float[2,3,4] x", 'y = Einsum<equation = "...i,oi->...o">(x, W)'),
}
NO_LAYERS = {
    "bi,oi->ob": ("float[6,4] W", "float[3,4] x", 'y = Einsum<equation = "bi,oi->ob">(x, W)'),
    "bi,io->b": ("float[4,6] W", "float[3,4] x", 'y = Einsum<equation = "bi,io->b">(x, W)'),
    "W (2,4,6)": ("float[2,4,6] W", "float[2,3,4] x", "y = MatMul(x, W)"),
}


def dense(weights: str, given: str, body: str) -> onnx.ModelProto:
    model = small_model(f"g ({given}, {weights}) => (float y) {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def assert_same(model: onnx.ModelProto) -> None:
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    before, after = run(model, x)[0], run(read(load(model).model).to_model(), x)[0]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", DENSE)
def test_a_product_is_a_layer(case: str) -> None:
    model = dense(*DENSE[case])
    (layer,) = read(load(model).model).layers.values()
    assert (layer.in_channels, layer.out_channels) == (4, 6)
    assert_same(model)


@pytest.mark.parametrize("case", NO_LAYERS)
def test_others_stay(case: str) -> None:
    model = dense(*NO_LAYERS[case])
    assert not read(load(model).model).layers
    assert_same(model)


FUSED: dict[str, tuple[dict[str, Any], bool, list[str]]] = {
    "Relu": ({"activation": "Relu"}, False, ["Conv", "Relu"]),
    "none": ({}, False, ["Conv"]),
    "residual": ({"activation": "Relu"}, True, ["Conv", "Add", "Relu"]),
    "Clip": ({"activation": "Clip", "activation_params": [0.0, 0.5]}, False, ["Conv", "Clip"]),
    "LeakyRelu": ({"activation": "LeakyRelu", "activation_params": [0.2]}, False, ["Conv", "LeakyRelu"]),
    "HardSigmoid": ({"activation": "HardSigmoid", "activation_params": [0.2, 0.5]}, False, ["Conv", "HardSigmoid"]),
}


@pytest.mark.parametrize("case", FUSED)
def test_a_convolution_that_onnxruntime_fused(case: str) -> None:
    attributes, residual, ops = FUSED[case]
    model = small_model(
        "g (float[1,4,5,5] x, float[4,4,3,3] W, float[4] B) => (float[1,4,5,5] y) { y = Conv(x, W, B) }"
    )
    inputs = ["x", "W", "B", *(["x"] if residual else [])]
    node = helper.make_node("FusedConv", inputs, ["y"], "f", "com.microsoft", pads=[1, 1, 1, 1], **attributes)
    node.domain = "com.microsoft"
    del model.graph.node[:]
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    network = read(load(model).model)
    assert [n.op for n in network.graph.nodes] == ops
    assert list(network.layers) == ["f"]
    assert_same(model)


@pytest.mark.parametrize(
    ("op", "attributes", "ops"),
    [
        ("FusedGemm", {"activation": "Relu", "transB": 1}, ["Gemm", "Relu"]),
        ("FusedGemm", {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1}, ["Gemm", "LeakyRelu"]),
        ("FusedMatMul", {"alpha": 0.5, "transB": 1}, ["MatMul"]),
        ("FusedMatMul", {"transA": 1, "transB": 1}, ["Transpose", "MatMul"]),
    ],
)
def test_a_matrix_product_that_onnxruntime_fused(op: str, attributes: dict[str, Any], ops: list[str]) -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), "W")
    node = helper.make_node(op, ["x", "W"], ["y"], "f", domain="com.microsoft", **attributes)
    given = [4, 3] if "transA" in attributes else [3, 4]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", given), ("y", [3, 6]))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    assert [n.op for n in read(load(model).model).graph.nodes] == ops
    assert_same(model)


AROUND = {
    "QuickGelu": ("y = com.microsoft.QuickGelu<alpha = 1.0>(x)", ["Sigmoid", "Mul"]),
    "QuickGelu, α": ("y = com.microsoft.QuickGelu(x)", ["Mul", "Sigmoid", "Mul"]),
    "Gelu": ("y = com.microsoft.Gelu(x)", ["Gelu"]),
    "BiasGelu": ("y = com.microsoft.BiasGelu(x, B)", ["Add", "Gelu"]),
    "FastGelu": ("y = com.microsoft.FastGelu(x)", ["Gelu"]),
    "FastGelu, bias": ("y = com.microsoft.FastGelu(x, B)", ["Add", "Gelu"]),
    "SkipLayerNormalization": ("y = com.microsoft.SkipLayerNormalization(x, x, B, C)", ["Add", "LayerNormalization"]),
    "with a bias and the sum": (
        "n, , , s = com.microsoft.SkipLayerNormalization<epsilon = 0.1>(x, x, B, C, C) y = Add(n, s)",
        ["Add", "Add", "LayerNormalization", "Add"],
    ),
}


@pytest.mark.parametrize("case", AROUND)
def test_what_onnxruntime_fuses_around_layers(case: str) -> None:
    body, ops = AROUND[case]
    model = small_model(f"g (float[2,3,4] x, float[4] B, float[4] C) => (float[2,3,4] y) {{ {body} }}")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert [n.op for n in read(load(model).model).graph.nodes] == ops
    assert_same(model)


def test_a_weight_of_three_axes_behind_sizes_that_are_computed() -> None:
    model = small_model("""g (float[N,4,1,1] x, float[1,4,6] W) => (float y)
        <int64 first = {0}, int64 rest = {-1}, int64[1] front = {0}> {
        s = Shape(x) n = Gather(s, first) a = Unsqueeze(n, front) b = Unsqueeze(rest, front)
        t = Concat<axis = 0>(a, b) f = Reshape(x, t) u = Unsqueeze(f, front) y = MatMul(u, W) }""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    network = read(load(model).model)
    assert [layer.constant.shape for layer in network.layers.values()] == [(4, 6)]
    assert_same(model)


POINTWISE = {
    "alone": ("y = Transpose<perm = [0,3,1,2]>(m)", True),
    "with a bias": ("a = Add(m, B) y = Transpose<perm = [0,3,1,2]>(a)", True),
    "with a bias before it": ("a = Add(B, m) y = Transpose<perm = [0,3,1,2]>(a)", True),
    "read elsewhere": (
        "s = Transpose<perm = [0,3,1,2]>(m) n = MatMul(m, V) z = Transpose<perm = [0,3,1,2]>(n) y = Add(s, z)",
        False,
    ),
    "turned otherwise": ("y = Transpose<perm = [0,3,2,1]>(m)", False),
}


@pytest.mark.parametrize("case", POINTWISE)
def test_a_product_that_pictures_were_turned_for_is_a_convolution(case: str) -> None:
    body, convolves = POINTWISE[case]
    model = small_model(f"""g (float[2,4,5,5] x, float[4,6] W, float[6] B, float[6,6] V) => (float y) {{
        r = Relu(x) t = Transpose<perm = [0,2,3,1]>(r) m = MatMul(t, W) {body} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    ops = [node.op for node in read(load(model).model).graph.nodes]
    assert (ops == ["Relu", "Conv"]) == convolves
    assert_same(model)
