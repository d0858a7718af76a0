from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from onnx_udfc.runtime.sessions import open_session

TEXT = """<ir_version: 10, opset_import: ["": 21, "my": 4, "other": 2], producer_name: "maker", producer_version: "7",
    domain: "a.domain", model_version: 3, doc_string: "model doc">
g (float[N,3,H,W] x, bool c) => (float[N,4,H,W] y, float[N,4,H,W] z) <float[N,4,H,W] h, float[N,4,H,W] r>
{
  [conv] h = Conv<pads = [0, 0, 0, 0]>(x, w)
  [relu] r = Relu(h)
  [branch] y = If(c) <then_branch = yes () => (float[N,4,H,W] a) { [inner] q = Mul(r, unseen) [inner2] a = Neg(q) },
                      else_branch = no () => (float[N,4,H,W] b) { b = Identity(r) }>
  [twice] z = my.Twice(r)
}
<domain: "my", opset_import: ["": 21]> Twice (a) => (b) { b = Add(a, a) }"""


def entry(key: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value=f"value of {key}")


def normal(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def full_model() -> onnx.ModelProto:
    """A model with something in every field that graphsurgeon drops."""
    model = parser.parse_model(TEXT)
    graph = model.graph
    for name, array in (("w", normal(4, 3, 1, 1)), ("unseen", normal(4, 1, 1)), ("unused", normal(5))):
        graph.initializer.append(numpy_helper.from_array(array, name))
        graph.initializer[-1].doc_string = f"doc of {name}"
        graph.initializer[-1].metadata_props.append(entry(name))
    model.metadata_props.extend([entry("model"), entry("more")])
    graph.metadata_props.append(entry("graph"))
    graph.doc_string = "graph doc"
    for info in [*graph.input, *graph.output, *graph.value_info]:
        info.doc_string = f"doc of {info.name}"
        info.metadata_props.append(entry(info.name))
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    for node in [*graph.node, graph.node[2].attribute[0].g.node[0]]:
        node.doc_string = f"doc of {node.name}"
        node.metadata_props.append(entry(node.name))
    graph.node[0].attribute[0].doc_string = "attribute doc"
    graph.quantization_annotation.add(tensor_name="h", quant_parameter_tensor_names=[entry("s")])
    return model


def test_an_unchanged_model_comes_back_field_by_field() -> None:
    model = full_model()
    assert read(model).to_model() == model


def test_nor_is_anything_lost_by_a_copy() -> None:
    model = full_model()
    assert read(model).copy().copy().to_model() == model


def test_loading_loses_nothing_either() -> None:
    model = full_model()
    del model.functions[:]  # which are written out, see test_written_out
    assert read(load(model).model).to_model() == model


def test_a_changed_weight_keeps_its_remarks() -> None:
    model = full_model()
    network = read(model)
    (layer,) = network.layers.values()
    layer.set(layer.matrix() * 2, np.zeros(4))
    result = network.to_model()
    changed = next(t for t in result.graph.initializer if t.name == "w")
    assert np.array_equal(numpy_helper.to_array(changed), normal(4, 3, 1, 1) * 2)
    assert changed.HasField("raw_data")
    changed.CopyFrom(model.graph.initializer[0])
    assert result == model


def test_a_changed_attribute_is_written_and_the_others_stay() -> None:
    model = full_model()
    network = read(model)
    conv = network.graph.nodes[0]
    conv.attrs["pads"][1] = 1
    conv.attrs["group"] = 1
    node = network.to_model().graph.node[0]
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {"pads": [0, 1, 0, 0], "group": 1}
    assert node.doc_string == "doc of conv"
    del conv.attrs["pads"]
    assert [a.name for a in network.to_model().graph.node[0].attribute] == ["group"]


@pytest.mark.parametrize(
    "attribute",
    [
        helper.make_attribute("s", b"\xff\xfe not text"),
        helper.make_attribute("t", helper.make_tensor_type_proto(TensorProto.FLOAT, [2])),
        helper.make_attribute("tensors", [numpy_helper.from_array(normal(2)), numpy_helper.from_array(normal(3))]),
        helper.make_attribute("v", numpy_helper.from_array(np.ones(3).astype(ml_dtypes.int4), "named")),
        helper.make_attribute("v", numpy_helper.from_array(np.ones(3).astype(ml_dtypes.float8_e5m2), "named")),
        helper.make_attribute("f", 0.1),
        helper.make_attribute("fs", [0.1, 0.7]),
        helper.make_attribute("strings", ["a", "ü"]),
        helper.make_attribute("i", -(1 << 62)),
        helper.make_attribute("empty", [], attr_type=onnx.AttributeProto.INTS),
        helper.make_attribute("g", helper.make_graph([], "two", [], [])),
    ],
)
def test_every_type_of_attribute(attribute: onnx.AttributeProto) -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21, "my": 1]> g (float[2] x) => (float[2] y) '
                               "{ [n] y = my.Foo(x) }")  # fmt: skip
    model.graph.node[0].attribute.append(attribute)
    assert read(model).copy().to_model() == model


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.bfloat16,
                                   ml_dtypes.float8_e4m3fn, np.float16, np.bool_, np.int8, np.object_])  # fmt: skip
def test_every_type_of_weight_is_read_and_written(dtype: type) -> None:
    if dtype is ml_dtypes.int2 and "INT2" not in TensorProto.DataType.keys():  # noqa: SIM118
        pytest.skip("this onnx knows no numbers of two bits")
    array = np.array(["a", "b", "c"], object) if dtype is np.object_ else np.array([1, 0, 1]).astype(dtype)
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21, "my": 1]> g (float[2] x) => (float[2] y) '
                               "{ [n] y = my.Foo(x, k) }")  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(array, "k"))
    network = read(model)
    constant = network.graph.nodes[0].inputs[1]
    assert np.array_equal(constant.values, array.astype(constant.values.dtype))
    assert network.to_model() == model
    constant.values = constant.values.copy()
    assert np.array_equal(numpy_helper.to_array(network.to_model().graph.initializer[0]), constant.values)


def test_sparse_weights_sequences_and_optionals() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (seq(float[N]) x, optional(float[2]) o) => (seq(int64[M]) y) <seq(float[N]) h>
        { [n] h = my.Foo(x, o, k) [m] y = my.Bar(h) }""")
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "k")
    indices = numpy_helper.from_array(np.array([0, 3]), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    assert read(model).copy().to_model() == model


def test_names_of_any_kind() -> None:
    model = full_model()
    model.graph.node[0].name = "卷积 ü/1:0"
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "веса"
    assert read(model).to_model() == model


def test_missing_and_repeated_node_names_become_unique() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y)
        { [n] a = Relu(x) [n] b = Neg(a) d = Relu(b) [n_2] e = Neg(d) y = Relu(e) }""")
    names = [node.name for node in read(model).to_model().graph.node]
    assert names == ["n", "n_3", "Relu_d", "n_2", "Relu_y"]


def test_weights_that_were_inputs_are_plain_weights() -> None:
    model = parser.parse_model("""<ir_version: 3, opset_import: ["": 7]>
        g (float[1,3,4,4] x, float[4,3,1,1] w, float[9] u, float[1,4,4,4] r) => (float[1,4,4,4] y)
        { h = Conv(x, w) y = Add(h, r) }""")
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 3, 1, 1), "w"))
    model.graph.initializer.append(numpy_helper.from_array(normal(9), "u"))
    network = read(model)
    result = network.to_model()
    assert [i.name for i in result.graph.input] == ["x", "r"]
    assert result.graph.initializer == model.graph.initializer
    assert result.ir_version == 4
    assert network.notes == ["2 weights were graph inputs too (an old form of ONNX); they are plain weights now"]
    open_session(result, threads=1)


def test_nodes_added_anywhere_are_sorted() -> None:
    network = read(full_model())
    graph = network.graph
    relu = graph.nodes[1]
    inner = gs.Variable("inner", np.float32)
    graph.nodes.append(gs.Node("Neg", "negated", {}, [relu.inputs[0]], [inner]))
    relu.inputs[0] = inner
    names = [node.name for node in network.to_model().graph.node]
    assert names == ["conv", "negated", "relu", "branch", "twice"]


def test_a_node_of_a_new_domain_declares_it() -> None:
    network = read(full_model())
    network.graph.nodes.append(gs.Node("New", "new", {"k": 3}, [network.graph.inputs[0]], [gs.Variable("n")], "fresh"))
    model = network.to_model()
    assert {d.domain: d.version for d in model.opset_import} == {"": 21, "my": 4, "other": 2, "fresh": 1}
    assert model.graph.node[-1].attribute[0].i == 3


def test_a_new_constant_does_not_take_the_place_of_one_that_a_subgraph_uses() -> None:
    model = full_model()
    network = read(model)
    relu = network.graph.nodes[1]
    for name in ("unseen", "unused"):
        out = gs.Variable(f"with {name}", np.float32)
        constant = gs.Constant(name, np.full((4, 1, 1), 2, np.float32))
        network.graph.nodes.append(gs.Node("Mul", f"by {name}", {}, [relu.inputs[0], constant], [out]))
        relu.inputs[0] = out
    result = network.to_model()
    tensors = {t.name: t for t in result.graph.initializer}
    assert list(tensors) == ["w", "unseen", "unused", "unseen_2", "unused_2"]
    assert [tensors[n] for n in ("unseen", "unused")] == list(model.graph.initializer)[1:]
    assert [list(n.input)[1:] for n in result.graph.node if n.op_type == "Mul"] == [["unseen_2"], ["unused_2"]]


def test_shapes_are_inferred_anew_where_channels_are_gone() -> None:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[N,3,H,W] x) => (float[N,2,H,W] y) <float[N,4,H,W] h, float[N,4,H,W] r, float[N,2,H,W] s>
        { [a] h = Conv(x, w) [b] r = Relu(h) [c] s = Conv(r, v) [d] y = Relu(s) }""")
    model.graph.value_info[1].doc_string = "doc"
    for name, array in (("w", normal(4, 3, 1, 1)), ("v", normal(2, 4, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    network = read(model)
    first, second = network.layers.values()
    first.constant.values = first.constant.values[:3]
    second.constant.values = second.constant.values[:, :3]
    result = network.to_model()
    for info in model.graph.value_info[:2]:
        info.type.tensor_type.shape.dim[1].dim_value = 3
    assert result.graph.value_info == model.graph.value_info
    onnx.checker.check_model(result, full_check=True)


def test_the_exporter_of_graphsurgeon_does_no_harm() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g (float[N,4] x) => (float[N,4] y) '
                               "{ [a] h = MatMul(x, w) [b] y = MatMul(h, w) }")  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 4), "w"))
    network = read(model)
    gs.export_onnx(network.graph.copy(), do_type_check=False)
    assert network.to_model() == model
