from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.emit.draft import pack
from onnx_udfc.model.inventory import already_quantized, inventory, left_out
from tests.small_graphs import small_model

CODES = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)


def with_codes(body: str, kind: int, codes: np.ndarray, bits: int) -> onnx.ModelProto:
    """A MatMul of (8, 8) codes `q`, with a scale `s` and zero points `z`."""
    model = small_model(f"g (float[N,8] x) => (float[N,8] y) {{ {body} }}")
    raw = codes.tobytes() if bits == 8 else pack(codes)
    model.graph.initializer.append(TensorProto(name="q", data_type=kind, dims=(8, 8), raw_data=raw))
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, 0.5, np.float32), "s"))
    zeros = TensorProto(name="z", data_type=kind, dims=(8,), raw_data=bytes(bits))
    model.graph.initializer.append(zeros)
    return model


@pytest.mark.parametrize(
    ("body", "kind", "bits", "form", "used", "size"),
    [
        ("c = Cast<to = 1>(q) w = Mul(c, s) y = MatMul(x, w)", TensorProto.INT8, 8, "Cast(INT8→FLOAT)→Mul", 6, 96),
        ("w = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, w)", TensorProto.INT8, 8,
         "DequantizeLinear(INT8)", 6, 104),
        ("w = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, w)", TensorProto.UINT8, 8,
         "DequantizeLinear(UINT8)", 8, 104),
        ("w = DequantizeLinear<axis = 1>(q, s, z) y = MatMul(x, w)", TensorProto.UINT4, 4,
         "DequantizeLinear(UINT4)", 4, 68),
        ("c = Cast<to = 3>(q) w = DequantizeLinear<axis = 1>(c, s) y = MatMul(x, w)", TensorProto.INT4, 4,
         "Cast(INT4→INT8)→DequantizeLinear", 3, 64),
        ("y = MatMulInteger(x, q)", TensorProto.INT8, 8, "MatMulInteger(INT8)", 6, 64),
    ],
)  # fmt: skip
def test_forms_and_bits(body: str, kind: int, bits: int, form: str, used: float, size: int) -> None:
    codes = CODES if bits == 8 else CODES // 10
    (row,) = inventory(with_codes(body, kind, codes, bits))
    assert (row.form, row.bits, row.parameters, row.bytes) == (form, used, 64, size)
    assert row.op_type == ("MatMulInteger" if "Integer" in body else "MatMul")


def test_weights_of_a_blocked_kernel_of_onnxruntime() -> None:
    model = small_model("g (float[N,64] x) => (float[N,32] y) { y = Relu(x) }")
    del model.graph.node[:]
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], "mm", domain="com.microsoft", K=64, N=32, bits=4, block_size=32
    )
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((32, 2, 16), np.uint8), "b"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((32, 2), np.float32), "s"))
    (row,) = inventory(model)
    assert (row.parameters, row.bits, row.bytes) == (64 * 32, 4, 1024 + 256)
    assert left_out((row,), 2560) == (
        "MatMulNBits holds integers already and is not compressed further: mm (50 % of the file's bytes)",
    )


def test_what_is_not_compressed_is_named_with_its_share() -> None:
    text = """g (float[5,1,32] x, float[1,64,32] W, float[1,64,16] R, float[32,64] V, float[5,1,64] U, float[64,32] T,
               bool c) => (float[5,1,32] y) {
        h, l = LSTM<hidden_size = 16>(x, W, R) t = Identity(h)
        y = If(c)<
            then_branch = a () => (float[5,1,32] p) { m = MatMul(x, V) n = Add(m, U) s = Abs(V) p = MatMul(n, T) },
            else_branch = b () => (float[5,1,32] o) { o = Identity(x) }>
    }"""
    model = small_model(text)
    add = next(t for t in model.graph.initializer if t.name == "U")
    add.CopyFrom(numpy_helper.from_array(np.ones((16, 1, 64), np.float32), "U"))
    rows = inventory(model)
    found = [("LSTM", 2048, 12288), ("MatMul", 2048, 8192), ("Add", 1024, 4096), ("MatMul", 2048, 8192)]
    assert [(r.op_type, r.parameters, r.bytes) for r in rows] == found
    assert left_out(rows, 40960) == (
        "weights that other nodes inside of branches and loops need are not compressed: m (20 % of the file's bytes)",
        "constants of other operators are not compressed: n (10 % of the file's bytes)",
    )
    assert left_out(rows, 10**7) == ()
    assert already_quantized(rows, 40960) == ()


def test_weights_of_two_inner_graphs_by_one_name_are_counted_both() -> None:
    model = small_model("""g (float[N,32] x, bool c) => (float[N,32] y) {
        y = If(c)<then_branch = a () => (float[N,32] p) { p = MatMul(x, W) },
                  else_branch = b () => (float[N,32] o) { o = MatMul(x, W) }> }""")
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.append(numpy_helper.from_array(np.ones((32, 32), np.float32), "W"))
    assert [(r.node, r.bytes, r.left) for r in inventory(model)] == [("p", 4096, ""), ("o", 4096, "")]


def test_a_constant_of_two_nodes_is_counted_once() -> None:
    text = "g (float[N,32] x, float[32,32] W) => (float[N,32] y) { h = MatMul(x, W) y = MatMul(h, W) }"
    assert [r.bytes for r in inventory(small_model(text))] == [4096, 0]


def test_weights_inside_functions() -> None:
    text = '<ir_version: 10, opset_import: ["": 21, "f": 1]> g (float[N,64] x) => (float[N,64] y) { y = f.layer(x) }'
    model = onnx.parser.parse_model(text)
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32))
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["a", "w"], ["b"])]
    model.functions.append(helper.make_function("f", "layer", ["a"], ["b"], nodes, [helper.make_opsetid("", 21)]))
    (row,) = inventory(model)
    assert (row.parameters, row.bytes, row.left) == (4096, 16384, "weights inside a function are not compressed")


def test_what_onnxruntime_fused_counts_as_the_layer_that_it_is() -> None:
    model = small_model("g (float[1,4,9,9] x, float[8,4,3,3] W) => (float y) { y = com.microsoft.FusedConv(x, W) }")
    (row,) = inventory(model)
    assert (row.parameters, left_out((row,), row.bytes)) == (288, ())
