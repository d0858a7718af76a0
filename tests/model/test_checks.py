from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnx_udfc import compress
from onnx_udfc.errors import ModelError
from onnx_udfc.model.checks import BLOCKED, check
from onnx_udfc.model.values import CHUNK, all_finite, has_nan
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model

TEXT = """<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4] x) => (float[1,2] y) { h = Gemm(x, w) s = Add(h, mask) y = Relu(s) }"""


def model(w: NDArray[np.generic], mask: float = 0.0) -> onnx.ModelProto:
    proto = parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.full(2, mask, np.float32), "mask"))
    return proto


def refused(proto: onnx.ModelProto, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        check(proto)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_nan_and_infinity_in_weights(dtype: type) -> None:
    w: NDArray[np.floating] = np.ones((4, 2), dtype)
    check(model(w))
    w[3, 1] = np.nan
    refused(model(w), "'w' holds NaN")
    w[3, 1] = np.inf
    refused(model(w), "'w' holds infinite")


def test_what_is_no_weight_may_hold_anything() -> None:
    check(model(np.ones((4, 2), np.float32), -np.inf))
    check(model(np.ones((4, 2), np.float32), np.nan))


@pytest.mark.parametrize("stored", ["initializer", "Constant"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("body", "harm"),
    [
        ("y = MatMul(x, w)", True),
        ("h = MatMul(x, w) y = Relu(h)", True),
        ("y = Gemm(x, v, w)", True),
        ("y = Add(x, w)", False),
        ("m = IsNaN(w) y = Where(m, x, w)", False),
        ("d = MatMul(x, w) e = Relu(d) y = Relu(x)", False),
        ("y = Relu(x)", False),
    ],
)
def test_only_weights_that_an_output_depends_on_must_be_finite(
    body: str, harm: bool, value: float, stored: str
) -> None:
    proto = small_model(f"g (float[4,4] x, float[4,4] V) => (float[4,4] y) {{ {body.replace('v', 'V')} }}")
    tensor = numpy_helper.from_array(np.full((4, 4), value, np.float32), "w")
    if stored == "initializer":
        proto.graph.initializer.append(tensor)
    else:
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], "c", value=tensor))
    if harm:
        refused(proto, "'w' holds NaN" if np.isnan(value) else "'w' holds infinite")
    else:
        result = compress(proto, prune=0.5, bits=4).model
        assert [n.op_type for n in result.graph.node if n.op_type != "Constant"][-1] == "Relu" or "Relu" not in body
        x = np.ones((4, 4), np.float32)
        before, after = (open_session(m, threads=1).run(None, {"x": x})[0] for m in (proto, result))
        np.testing.assert_array_equal(before, after)


def test_values_that_do_not_fill_the_shape() -> None:
    proto = model(np.ones((4, 2), np.float32))
    proto.graph.initializer[0].raw_data = b"1234"
    refused(proto, "'w' is damaged")
    proto.graph.initializer[0].dims[0] = -4
    refused(proto, "negative dimension")
    proto.graph.initializer[0].dims[0] = 4
    proto.graph.initializer[0].data_type = 99
    refused(proto, "no known type")


def test_a_shape_of_more_than_all_memory() -> None:
    proto = model(np.ones((4, 2), np.float32))
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]
    refused(proto, "'w' is damaged")


def test_tensors_written_twice() -> None:
    proto = model(np.ones((4, 2), np.float32))
    proto.graph.node[1].output[0] = "h"
    refused(proto, "'h' is written twice")
    proto.graph.node[1].output[0] = "x"
    refused(proto, "'x' is written twice")
    proto = model(np.ones((4, 2), np.float32))
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, "same name")
    proto = model(np.ones((4, 2), np.float32))
    proto.graph.input.append(proto.graph.input[0])
    refused(proto, "same name")


def test_names_that_are_not_text() -> None:
    data = model(np.ones((4, 2), np.float32)).SerializeToString()
    broken = onnx.ModelProto()
    broken.ParseFromString(data.replace(b"mask", b"ma\xffk"))
    refused(broken, "not text")


def test_remarks_in_another_encoding_are_replaced() -> None:
    proto = model(np.ones((4, 2), np.float32))
    proto.doc_string = "remark"
    read = onnx.ModelProto()
    read.ParseFromString(proto.SerializeToString().replace(b"remark", b"rem\xe4rk"))
    check(read)
    assert read.doc_string == "rem\ufffdrk"


def test_the_last_piece_counts() -> None:
    array = np.zeros(CHUNK + 3, np.float32)
    assert not has_nan(array)
    assert all_finite(array)
    array[-1] = np.inf
    assert not has_nan(array)
    assert not all_finite(array)
    array[-1] = np.nan
    assert has_nan(array)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("y = ReduceSum<axes = 3>(x)", r"node 'y' \(ReduceSum\) has an attribute 'axes' of another type"),
        ("[n] y = Add(x)", r"node 'n' \(Add\) has 1 inputs"),
        ("y, z = Relu(x)", r"\(Relu\) has 2 outputs"),
        ("y = Cast(x)", r"no attribute 'to'"),
        ("c = Constant<value = bool {1}>() y = If(c) <then_branch = p () => (float[1] a) { a = Add(x) }, "
         "else_branch = q () => (float[1] b) { b = Neg(x) }>", r"node 'a' \(Add\) has 1 inputs"),
    ],
)  # fmt: skip
def test_nodes_that_are_not_as_their_operators_are_defined(body: str, text: str) -> None:
    header = '<ir_version: 8, opset_import: ["": 11]> g (float[1] x) => (float y)'
    refused(parser.parse_model(f"{header} {{ {body} }}"), text)


def test_operators_that_are_unknown_or_of_other_domains_are_not_judged() -> None:
    check(parser.parse_model('<ir_version: 8, opset_import: ["": 11, "my": 1]> g (float[1] x) => (float y) '
                             "{ a = ImageScaler<scale = 1.0>(x) b = my.Add(a) y = Upsample(b, x) }"))  # fmt: skip


def test_weights_in_the_blocks_of_a_processor(tmp_path: Path) -> None:
    """As onnxruntime writes a file where it optimizes as far as it can."""
    path = tmp_path / "blocked.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    text = "g (float[1,16,8,8] x, float[16,16,3,3] W) => (float[1,16,6,6] y) { c = Conv(x, W) y = Relu(c) }"
    ort.InferenceSession(small_model(text).SerializeToString(), options, providers=["CPUExecutionProvider"])
    if not any(node.domain == BLOCKED for node in onnx.load(path).graph.node):
        pytest.skip("onnxruntime has no blocks for this processor")
    with pytest.raises(ModelError, match="give the file that it was made from"):
        compress(path, prune=0.5)
