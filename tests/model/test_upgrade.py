from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnx_udfc.model.files import load
from onnx_udfc.model.upgrade import upgrade
from onnx_udfc.runtime.sessions import open_session

OLD = """<ir_version: 7, opset_import: ["" : 11, "my.domain": 3], producer_name: "maker", producer_version: "1", doc_string: "d">
g (float[N,3,8,8] x, bool c) => (float[N,4,8,8] y) <float[N,4,8,8] h>
{
  [conv] h = Conv(x, w)
  [un] u = Unsqueeze<axes = [0]>(h)
  [sq] s = Squeeze<axes = [0]>(u)
  [if] t = If(c) <then_branch = yes () => (float[N,4,8,8] a) { q = Unsqueeze<axes = [0]>(h) a = Squeeze<axes = [0]>(q) },
                  else_branch = no () => (float[N,4,8,8] b) { b = Identity(s) }>
  [add] y = Add(t, s)
}"""  # noqa: E501


def entry(key: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value=f"value of {key}")


def old_model() -> onnx.ModelProto:
    model = parser.parse_model(OLD)
    weights = np.random.default_rng(0).standard_normal((4, 3, 30, 30))[:, :, :1, :1].astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(9000, np.float32), "large and unused"))
    model.metadata_props.append(entry("model"))
    model.graph.metadata_props.append(entry("graph"))
    model.graph.doc_string = "graph doc"
    model.graph.input[0].doc_string = "input doc"
    model.graph.input[0].metadata_props.append(entry("input"))
    model.graph.value_info[0].doc_string = "value doc"
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        node.metadata_props.append(entry(node.name))
    return model


def test_everything_but_the_nodes_is_the_original() -> None:
    model = old_model()
    result, notes = upgrade(model)
    assert not notes
    assert (result.ir_version, {d.domain: d.version for d in result.opset_import}) == (10, {"": 21, "my.domain": 3})
    for name in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        assert getattr(result, name) == getattr(model, name)
    for name in ("name", "input", "output", "value_info", "initializer", "doc_string", "metadata_props"):
        assert getattr(result.graph, name) == getattr(model.graph, name)
    kept = {node.name: node for node in result.graph.node if node.name}
    assert list(kept) == ["conv", "un", "sq", "if", "add"]
    for node in model.graph.node:
        assert kept[node.name].doc_string == node.doc_string
        assert kept[node.name].metadata_props == node.metadata_props


def test_the_result_computes_the_same() -> None:
    model = old_model()
    result, _ = upgrade(model)
    rng = np.random.default_rng(0)
    for c in (True, False):
        feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32), "c": np.array(c)}
        (before,), (after,) = (open_session(m, threads=1).run(None, feeds) for m in (model, result))
        assert np.array_equal(before, after)


@pytest.mark.parametrize("version", range(7, 27))
def test_opsets(version: int) -> None:
    model = parser.parse_model(
        f'<ir_version: {10 if version > 20 else 7}, opset_import: ["": {version}]> '
        "g (float[1,3,4,4] x) => (float[1,3] y) { h = Relu(x) p = GlobalAveragePool(h) y = Flatten(p) }"
    )
    loaded = load(model)
    assert loaded.model.opset_import[0].version == max(version, 21)
    assert loaded.model.ir_version >= 10
    assert not loaded.notes


def test_newer_models_are_kept_as_they_are() -> None:
    model = parser.parse_model(
        '<ir_version: 11, opset_import: ["": 23]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    assert upgrade(model) == (model, [])


def test_what_the_converter_cannot_do_is_kept_and_said() -> None:
    model = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 7]> g (float[1,3,4,4] x) => (float[1,3,4,4] y) '
        "{ h = ImageScaler<scale = 2.0, bias = [0.0, 0.0, 0.0]>(x) y = Relu(h) }"
    )
    result, notes = upgrade(model)
    assert result.opset_import[0].version == 9  # onnxruntime has it no longer in the next one
    assert notes == [
        "converted from opset 7 to 9 only: conversion to opset 21 failed (ImageScaler is not a standard operator)"
    ]
    feeds = {"x": np.ones((1, 3, 4, 4), np.float32)}
    assert np.array_equal(open_session(result, threads=1).run(None, feeds)[0], np.full((1, 3, 4, 4), 2, np.float32))


def test_custom_domains_and_functions_survive() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 14, "my": 1, "other": 2]>
        g (float[2,3] x) => (float[2,3] y) { h = my.Twice(x) u = other.Foo<k = 3>(h) y = Relu(u) }
        <domain: "my", opset_import: ["": 14]> Twice (a) => (b) { b = Add(a, a) }""")
    result, _ = upgrade(model)
    assert result.functions == model.functions
    assert [(n.domain, n.op_type) for n in result.graph.node] == [("my", "Twice"), ("other", "Foo"), ("", "Relu")]
    assert result.graph.node[1].attribute[0].i == 3


def test_a_model_with_functions_still_runs() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 14, "my": 1]>
        g (float[2,3] x) => (float[2,3] y) { h = my.Twice(x) y = Relu(h) }
        <domain: "my", opset_import: ["": 14]> Twice (a) => (b) { b = Add(a, a) }""")
    result, _ = upgrade(model)
    assert np.array_equal(
        open_session(result, threads=1).run(None, {"x": np.ones((2, 3), np.float32)})[0], np.full((2, 3), 2)
    )


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("axis", "spelled"), [(2, 0), (1, 1)])
def test_a_softmax_over_the_last_of_axes_whose_number_is_computed_stays_one(op: str, axis: int, spelled: int) -> None:
    """A Flatten and a Reshape by computed sizes would hide from who loads the result how many classes there are."""
    model = parser.parse_model(
        '<ir_version: 6, opset_import: ["": 11]> g (float[N,2,H,W] x) => (float[N,K,C] y) '
        "{ t = Transpose<perm = [0, 2, 3, 1]>(x) s = Shape(t) n = Gather<axis = 0>(s, first) "
        "u = Unsqueeze<axes = [0]>(n) k = Concat<axis = 0>(u, less, two) r = Reshape(t, k) "
        f"c = Concat<axis = 1>(r, r) q = {op}<axis = {axis}>(c) y = Identity(q) }}"
    )
    for name, value in (("first", 0), ("less", [-1]), ("two", [2])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    result, notes = upgrade(model)
    assert not notes
    assert sum(n.op_type == "Flatten" for n in result.graph.node) == spelled
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)}
    before, after = (open_session(m, threads=1).run(None, feeds)[0] for m in (model, result))
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_only_custom_domains() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["my": 1]> g (float[2] x) => (float[2] y) { y = my.Foo(x) }'
    )
    result, notes = upgrade(model)
    assert (result.ir_version, notes) == (10, [])


def test_weights_listed_as_inputs_in_old_files() -> None:
    model = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 7]> '
        "g (float[1,3,4,4] x, float[4,3,1,1] w) => (float[1,4,4,4] y) { y = Conv(x, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    result, notes = upgrade(model)
    assert (result.opset_import[0].version, notes) == (21, [])
    assert result.graph.input == model.graph.input


def test_type_attributes_survive() -> None:
    kind = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 15]> g (float[2] x) => (bool y) { y = OptionalHasElement(o) }'
    )
    model.graph.node.insert(0, helper.make_node("Optional", [], ["o"], type=kind))
    result, _ = upgrade(model)
    assert result.graph.node[0].attribute[0].tp == kind


def test_an_operator_that_only_onnxruntime_has_in_this_opset_stays_in_the_standard_domain() -> None:
    """Its optimizer writes LayerNormalization into files of any opset."""
    shape = [2, 3]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "w", "b"], ["n"], "norm", axis=-1),
        helper.make_node("Softmax", ["n"], ["y"], "soft"),
    ]
    tensors = [numpy_helper.from_array(np.asarray([1, 2, 3], np.float32), name) for name in "wb"]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    result, notes = upgrade(model)
    assert not notes
    assert {d.domain: d.version for d in result.opset_import} == {"": 21}
    assert [(node.op_type, node.domain, node.name) for node in result.graph.node][:1] == [
        ("LayerNormalization", "", "norm")
    ]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before, after = (open_session(m).run(None, {"x": x})[0] for m in (model, result))
    np.testing.assert_allclose(after, before, rtol=1e-6)
