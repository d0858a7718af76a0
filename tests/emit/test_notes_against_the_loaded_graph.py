"""What is said of speed, memory and folding is looked up in the graph that onnxruntime makes of the file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc.emit.writer import Emitted, emit
from onnx_udfc.model.network import Network
from tests.quantized_graphs import image, nearest, network_of, quantized, two_convs

LAYERS = {
    "conv": ("[1,8,12,12] x", "y = Conv (x, w, b)", {"w": (16, 8, 3, 3), "b": (16,)}),
    "depthwise": ("[1,16,12,12] x", "y = Conv<group = 16> (x, w, b)", {"w": (16, 1, 7, 7), "b": (16,)}),
    "transposed": ("[1,8,6,6] x", "y = ConvTranspose (x, w, b)", {"w": (8, 16, 3, 3), "b": (16,)}),
    "grouped": ("[1,8,6,6] x", "y = ConvTranspose<group = 2> (x, w, b)", {"w": (8, 16, 3, 3), "b": (32,)}),
    "gemm": ("[2,64] x", "y = Gemm<transB = 1> (x, w, b)", {"w": (16, 64), "b": (16,)}),
    "matmul": ("[2,64] x", "a = MatMul (x, w) y = Add (a, b)", {"w": (64, 16), "b": (16,)}),
}
TYPES = {"float16": np.float16, "float": np.float32, "double": np.float64}
DISABLED = ("session.disable_quant_qdq", "1")


def layer_of(kind: str, real: str, opset: int) -> Network:
    inputs, body, shapes = LAYERS[kind]
    return network_of(f"({real}{inputs}) => ({real} y) {{ {body} }}", shapes, TYPES[real], opset=opset)


def loaded(model: onnx.ModelProto, entry: tuple[str, str] | None = None) -> Counter[str]:
    """The operators of the graph that is run."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if entry:
        options.add_session_config_entry(*entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loaded.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def said(emitted: Emitted, words: str) -> bool:
    return any(words in note for note in emitted.notes)


@pytest.mark.parametrize("opset", [21, 13])
@pytest.mark.parametrize("target", ["cpu", "cuda", "portable", "tensorrt"])
@pytest.mark.parametrize("real", TYPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_folded_where_it_is_said(kind: str, real: str, target: str, opset: int) -> None:
    network = layer_of(kind, real, opset)
    if real == "double" and kind not in ("gemm", "matmul"):
        pytest.skip("onnxruntime has no such kernel")
    original = loaded(network.to_model())
    for bits in (8, 6, 4, 3):
        emitted = emit(network, nearest(network, bits), None, target)
        same = loaded(emitted.model) == original
        assert said(emitted, "weights are folded to float when the model is loaded") == same
        assert (emitted.slower or said(emitted, "slower than the float original on the CPU")) == (
            not same or target == "tensorrt"
        )
        assert same or loaded(emitted.model, DISABLED) == original
        assert same == (target in ("cpu", "cuda") or not emitted.form.startswith("DequantizeLinear"))


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("bits", [8, 6, 4, 3])
def test_integer_kernels_where_nothing_else_is_said(target: str, bits: int) -> None:
    emitted, *_ = quantized(two_convs(), bits, target, image())
    operators = loaded(emitted.model)
    assert operators["QLinearConv"] == 2
    assert not set(operators) - {"QLinearConv", "QuantizeLinear", "DequantizeLinear", "Transpose"}
    assert not emitted.slower
    assert not said(emitted, "runs in float")


def test_a_float_layer_is_named() -> None:
    text = "(float[1,8,6,6] x) => (float y) { a = Conv (x, w1) y = ConvTranspose (a, w2) }"
    network = network_of(text, {"w1": (8, 8, 3, 3), "w2": (8, 4, 3, 3)})
    emitted, *_ = quantized(network, 8, "cpu", image())
    assert loaded(emitted.model)["ConvTranspose"] == 1
    assert said(emitted, "runs in float, there is no integer kernel for ConvTranspose: convtranspose1")
