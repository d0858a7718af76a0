from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.cli.text import inspection, rendered
from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.options import Options
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model

FORMS = {"cpu": "Mul", "cuda": "Mul", "portable": "DequantizeLinear", "tensorrt": "DequantizeLinear"}
CHAIN = """g (float[N,8,8,8] x, float[32,8,3,3] W0, float[32] B0, float[16,32,3,3] W1, float[10,16] W2, float[10] B2)
=> (float[N,10] y) { a = Conv<pads = [1,1,1,1]>(x, W0, B0) r = Relu(a) c = Conv<pads = [1,1,1,1]>(r, W1)
p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB = 1>(f, W2, B2) }"""
WEIGHTS = 32 * 8 * 9 + 16 * 32 * 9 + 160
MACS = 64 * (32 * 8 * 9 + 16 * 32 * 9) + 160


def written(bits: int, target: str, activations: int | None = None, opset: int = 21) -> onnx.ModelProto:
    model = small_model(CHAIN, opset)
    options = Options(bits=bits, target=target, activations=activations, method="none")
    return compress(model, options).model


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_what_we_have_written_is_read(bits: int, target: str) -> None:
    found = inspect_model(written(bits, target).SerializeToString())
    assert [(layer.name, layer.bits) for layer in found.layers] == [("n0", bits), ("n2", bits), ("n5", bits)]
    assert all(FORMS[target] in layer.form for layer in found.layers)
    assert found.size.parameters in (WEIGHTS + 32 + 10, WEIGHTS + 32 + 16 + 10)
    assert found.size.macs == MACS
    assert found.groups == ()
    assert any("quantized already and left alone: the weights of 3 nodes" in note for note in found.notes)


@pytest.mark.parametrize("activations", [None, 8])
@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_second_compression_changes_nothing(bits: int, target: str, activations: int | None) -> None:
    if activations and target == "cuda":
        pytest.skip("refused: no integer kernels there")
    first = written(bits, target, activations)
    second = compress(first, Options(bits=4, prune=0.5, method="none"))
    assert len(inspect_model(first).layers) == 3
    x = {"x": np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)}
    before, after = (open_session(m, threads=1).run(None, x)[0] for m in (first, second.model))
    assert np.array_equal(before, after)
    assert any("quantized already" in note for note in second.report.runtime.notes)


def test_the_opset_is_the_files_own() -> None:
    model = small_model(CHAIN, 17)
    model.ir_version = 8
    found = inspect_model(model)
    assert (found.opset, found.ir_version) == (17, 8)


@pytest.mark.parametrize("kind", ["int4", "uint4", "int2", "uint2", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_narrow_constants_of_others(kind: str) -> None:
    import ml_dtypes

    opset = 25 if kind.endswith("int2") else 23
    model = small_model(CHAIN, opset)
    model.ir_version = 13 if opset == 25 else 11
    codes = np.ones((4, 3), np.float32).astype(getattr(ml_dtypes, kind))
    model.graph.initializer.append(numpy_helper.from_array(codes, "q"))
    model.graph.node.append(onnx.helper.make_node("Cast", ["q"], ["narrow"], "cast", to=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("narrow", 1, [4, 3]))
    assert [layer.bits for layer in inspect_model(model.SerializeToString()).layers] == [32, 32, 32]
    result = compress(model.SerializeToString(), Options(bits=8, prune=0.25, method="none")).model
    kept = next(t for t in result.graph.initializer if t.name == "q")
    assert kept == model.graph.initializer[-1]


def test_what_may_become_two_layers_is_said() -> None:
    text = """g (float[1,16,8,8] x, float[32,16,3,3] A, float[32,2,3,3] B, float[32,16,2,2] C, float[4,16,1,1] D)
    => (float[1,4,16,16] y) { a = Conv<pads = [1,1,1,1]>(x, A) b = Conv<pads = [1,1,1,1], group = 16>(a, B)
    c = ConvTranspose<strides = [2,2]>(b, C) y = Conv(c, D) }"""
    found = inspect_model(small_model(text))
    reasons = ["", "grouped channels", "transposed convolution", "fewer than 8 channels"]
    assert [layer.stays_one for layer in found.layers] == reasons
    text = " ".join(rendered(inspection(found)).split())  # lines are broken where the page ends
    assert "low rank: 1 of 4 layers may become two; 1 not (" in text
    assert all(f"1 not ({reason})" in text for reason in reasons[1:])
    quantized = inspect_model(written(4, "cpu"))
    assert {layer.stays_one for layer in quantized.layers} == {None}
    assert "low rank" not in rendered(inspection(quantized))


def test_a_network_that_reads_text_is_inspected() -> None:
    """No values can be made up for words, but what is in the file can be told."""
    model = small_model(
        "g (string[n] x, float[n,8] z, float[8,4] W1) => (float[n,4] y, string[n] s) {"
        " y = MatMul(z, W1) s = Identity(x) }"
    )
    assert inspect_model(model).size.parameters == 32
    with pytest.raises(RequestError, match="needs none"):
        compress(model, bits=8)
    assert compress(model, bits=8, method="udfc").report.after.parameters == 32
