from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, parser

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.model.upgrade import upgrade
from onnx_udfc.runtime.sessions import open_session

HALVES, GROW = "float[4] {1, 1, 0.7, 0.4}", "float[4] {1, 1, 1.7, 2.3}"
CASES = [
    (7, 'y = Upsample<mode = "nearest", scales = [1.0, 1.0, 1.5, 2.5]>(x)'),
    (8, 'y = Upsample<mode = "linear", scales = [1.0, 1.0, 2.0, 3.0]>(x)'),
    (9, f"s = Constant<value = {GROW}>() y = Upsample(x, s)"),
    (9, f's = Constant<value = {GROW}>() y = Upsample<mode = "linear">(x, s)'),
    (10, f"s = Constant<value = {GROW}>() y = Resize(x, s)"),
    (10, f"s = Constant<value = {HALVES}>() y = Resize(x, s)"),
    (10, f's = Constant<value = {HALVES}>() y = Resize<mode = "linear">(x, s)'),
    (10, "h = Shape(x) f = Cast<to = 1>(h) s = Div(f, f) y = Resize(x, s)"),
    (11, 'r = Constant<value = float[0] {}>() s = Constant<value = float[4] {1, 1, 2, 2}>() '
         'y = Resize<mode = "cubic", coordinate_transformation_mode = "align_corners">(x, r, s)'),
    (7, "y = Softmax(x)"),
    (11, "y = Softmax<axis = 2>(x)"),
    (12, "y = LogSoftmax(x)"),
    (11, "y = Hardmax<axis = -1>(x)"),
    (7, "y = Clip<min = 0.0, max = 1.0>(x)"),
    (7, "y = Clip<max = 1.0>(x)"),
    (7, "y = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 2], value = 1.5>(x)"),
    (11, "y = AveragePool<kernel_shape = [3, 2], pads = [1, 0, 2, 1], count_include_pad = 1>(x)"),
    (18, "y = AveragePool<kernel_shape = [3, 1], pads = [1, 0, 1, 0], count_include_pad = 1>(x)"),
    (7, "y = Slice<starts = [1, 2], ends = [3, -1], axes = [2, 3]>(x)"),
    (7, "y = Dropout<ratio = 0.3>(x)"),
    (7, "a, b = Split<axis = 1, split = [1, 3]>(x) y = Concat<axis = 1>(b, a)"),
    (7, "a, b = Split<axis = 1>(x) y = Concat<axis = 1>(b, a)"),
    (7, "a = Unsqueeze<axes = [0]>(x) y = Squeeze<axes = [0]>(a)"),
    (7, "y = ReduceSum<axes = [1, 2], keepdims = 0>(x)"),
    (7, "y = ReduceMean<axes = [2, 3]>(x)"),
    (7, "v, y = TopK<k = 2, axis = 3>(x)"),
    (7, "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x)"),
    (10, "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)"),
    (7, "z = Constant<value = float[4] {0.1, 0.2, 0.3, 0.4}>() y = BatchNormalization<spatial = 1>(x, z, z, z, z)"),
    (7, "z = Constant<value = float[4] {0.1, 0.2, 0.3, 0.4}>() y = InstanceNormalization(x, z, z)"),
    (7, "z = Constant<value = float[4, 1, 1] {0.1, 0.2, 0.3, 0.4}>() y = PRelu(x, z)"),
    (11, "p = Constant<value = int64 {2}>() c = Constant<value = bool {1}>() y = Loop<body = g (int64 i, bool k, "
         "float[2, 4, 6, 8] a) => (bool l, float[2, 4, 6, 8] b) { l = Identity(k) q = Unsqueeze<axes = [0]>(a) "
         "r = Squeeze<axes = [0]>(q) b = Softmax(r) }>(p, c, x)"),
    (9, "y = Scan<body = g (float[4, 6, 8] a) => (float[4, 6, 8] b) { b = Neg(a) }, num_scan_inputs = 1>(x)"),
]  # fmt: skip


def build(opset: int, body: str) -> onnx.ModelProto:
    text = f'<ir_version: 7, opset_import: ["": {opset}]> g (float[2, 4, 6, 8] x) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.output[0].ClearField("type")
    return model


def assert_same(model: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)}
    before, after = (open_session(m, threads=1).run(None, feeds)[0] for m in (model, converted))
    assert before.shape == after.shape
    assert np.allclose(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("opset", "body"), CASES)
def test_nodes_mean_what_they_meant(opset: int, body: str) -> None:
    model = build(opset, body)
    loaded = load(model)
    assert loaded.notes == ()
    assert_same(model, loaded.model)
    assert_same(model, read(loaded.model).to_model())


@pytest.mark.parametrize(
    ("opset", "body", "reached"),
    [
        (11, "y = Hardmax(x)", 12),
        (10, "s = Constant<value = float[4] {1, 1, 0.7, 1.4}>() y = Resize(x, s)", 10),
        (18, "s = Constant<value = float[2] {1, 2}>() y = GroupNormalization<num_groups = 2>(x, s, s)", 20),
        (7, "y = Crop<border = [1, 1, 1, 1]>(x)", 9),
    ],
)
def test_where_that_is_impossible_the_opset_stays(opset: int, body: str, reached: int) -> None:
    model = build(opset, body)
    loaded = load(model)
    assert loaded.model.opset_import[0].version == reached
    assert len(loaded.notes) == 1
    assert_same(model, loaded.model)


@pytest.mark.parametrize(
    ("opset", "pads", "ops"),
    [
        (18, [1, 0, 1, 0], ["Constant", "Pad", "AveragePool"]),
        (18, [1] * 4, ["AveragePool"]),
        (19, [1, 0, 1, 0], ["AveragePool"]),
    ],
)
def test_an_average_that_counts_uneven_pads_is_right_in_older_onnxruntime(
    opset: int, pads: list[int], ops: list[str]
) -> None:
    model = build(opset, f"y = AveragePool<kernel_shape = [3, 3], pads = {pads}, count_include_pad = 1>(x)")
    loaded = load(model).model
    assert [node.op_type for node in loaded.graph.node] == ops
    assert [n.op_type for n in read(loaded).to_model().graph.node] == [op for op in ops if op != "Constant"]


def test_a_resize_in_a_subgraph() -> None:
    up = 'Upsample<mode = "linear", scales = [1.0, 1.0, 2.0, 3.0]>(x)'
    body = ("c = Constant<value = bool {1}>() y = If(c) <then_branch = p () => (float[2, 4, 12, 24] a) "
            f"{{ [u] a = {up} }}, else_branch = q () => (float[2, 4, 12, 24] b) {{ [n] b = {up} }}>")  # fmt: skip
    model = build(7, body)
    branches = {a.name: a.g for a in model.graph.node[1].attribute}
    branches["then_branch"].node[0].metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    converted, _ = upgrade(model)  # loaded, it is the branch alone
    assert_same(model, converted)
    node = next(n for n in converted.graph.node if n.op_type == "If")
    nodes = {n.name: n for a in node.attribute for n in a.g.node}
    assert {"u", "n"} <= set(nodes)
    assert nodes["u"].metadata_props == branches["then_branch"].node[0].metadata_props


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_a_node_that_becomes_several_keeps_its_name_and_remarks(op: str, axis: int) -> None:
    model = build(12, f"[sm] h = {op}<axis = {axis}>(x) [last] y = Neg(h)")
    model.graph.node[0].doc_string = "probabilities"
    model.graph.node[0].metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    loaded = load(model)
    assert loaded.notes == ()
    assert loaded.model.opset_import[0].version == 21
    node = next(n for n in loaded.model.graph.node if n.name == "sm")
    assert (node.op_type, node.doc_string, node.metadata_props[0].value) == (op, "probabilities", "v")
    assert [n.name for n in loaded.model.graph.node if n.name] == ["sm", "last"]
    assert [n.op_type for n in loaded.model.graph.node if n.doc_string] == [op]
    assert_same(model, loaded.model)


@pytest.mark.parametrize(("opset", "body"), CASES)
def test_named_nodes_mean_what_they_meant(opset: int, body: str) -> None:
    model = build(opset, body)
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    loaded = load(model)
    assert loaded.notes == ()
    names = [n.name for n in loaded.model.graph.node if n.name]
    assert len(set(names)) == len(names)
    assert_same(model, loaded.model)


@pytest.mark.parametrize("version", [7, 9, 10, 11, 12, 13])
@pytest.mark.parametrize("shown", [True, False])
def test_the_mask_of_a_dropout_stays_what_it_was(version: int, shown: bool) -> None:
    """Up to opset 11 onnxruntime gives 0, from 12 on 1."""
    kind = TensorProto.FLOAT if version < 10 else TensorProto.BOOL
    nodes = [
        helper.make_node("Dropout", ["x"], ["d", "m"], "drop"),
        helper.make_node("Cast", ["m"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["d", "f"], ["y"], "sub"),
    ]
    outputs = [("y", TensorProto.FLOAT), *([("m", kind)] if shown else [])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(name, element, [2, 3]) for name, element in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=6)
    x = {"x": np.asarray([[1, -2, np.inf], [0, 5, -np.inf]], np.float32)}
    before = ort.InferenceSession(model.SerializeToString()).run(None, x)
    after = ort.InferenceSession(load(model).model.SerializeToString()).run(None, x)
    assert [b.dtype for b in before] == [a.dtype for a in after]
    for b, a in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (before[0] == x["x"] - (version >= 12)).all()
