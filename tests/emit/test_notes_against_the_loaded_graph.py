"""What is said of speed, memory and folding is looked up in the graph that onnxruntime makes of the file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc.emit.forms import SLICE_BYTES
from onnx_udfc.emit.writer import Emitted, emit
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.grids import FORMATS
from onnx_udfc.numerics.words import packed_bits
from tests.quantized_graphs import image, nearest, network_of, quantized, two_convs

LAYERS = {
    "conv": ("[1,8,12,12] x", "y = Conv (x, w, b)", {"w": (16, 8, 3, 3), "b": (16,)}),
    "depthwise": ("[1,16,12,12] x", "y = Conv<group = 16> (x, w, b)", {"w": (16, 1, 7, 7), "b": (16,)}),
    "transposed": ("[1,8,6,6] x", "y = ConvTranspose (x, w, b)", {"w": (8, 16, 3, 3), "b": (16,)}),
    "grouped": ("[1,8,6,6] x", "y = ConvTranspose<group = 2> (x, w, b)", {"w": (8, 16, 3, 3), "b": (32,)}),
    "gemm": ("[2,64] x", "y = Gemm<transB = 1> (x, w, b)", {"w": (16, 64), "b": (16,)}),
    "plain gemm": ("[2,64] x", "y = Gemm (x, w, b)", {"w": (64, 16), "b": (16,)}),
    "matmul": ("[2,64] x", "a = MatMul (x, w) y = Add (a, b)", {"w": (64, 16), "b": (16,)}),
}
TYPES = {"float16": np.float16, "float": np.float32, "double": np.float64}
TARGETS = ("cpu", "cuda", "portable", "tensorrt")
RELEASE = tuple(int(part) for part in ort.__version__.split(".")[:2])
DISABLED = ("session.disable_quant_qdq", "1")


def layer_of(kind: str, real: str, opset: int) -> Network:
    inputs, body, shapes = LAYERS[kind]
    return network_of(f"({real}{inputs}) => ({real} y) {{ {body} }}", shapes, TYPES[real], opset=opset)


def loaded(model: onnx.ModelProto, entry: tuple[str, str] | None = None) -> Counter[str]:
    """The operators of the graph that is run."""
    return Counter(node.op_type for node in loaded_graph(model, entry).node)


def loaded_graph(
    model: onnx.ModelProto,
    entry: tuple[str, str] | None = None,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnx.GraphProto:
    """The graph that is run."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    if entry:
        options.add_session_config_entry(*entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loaded.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path).graph


def said(emitted: Emitted, words: str) -> bool:
    return any(words in note for note in emitted.notes)


@pytest.fixture(params=[21, 13])
def opset(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[(kind, real) for kind in LAYERS for real in TYPES], ids="-".join)
def network(request: pytest.FixtureRequest, opset: int) -> Network:
    """A network of one layer, of every kind and type that onnxruntime has a kernel for."""
    kind, real = request.param
    if real == "double" and kind not in ("gemm", "plain gemm", "matmul"):
        pytest.skip("onnxruntime has no such kernel")
    return layer_of(kind, real, opset)


def test_weights_are_folded_where_it_is_said(network: Network, target: str) -> None:
    original = loaded(network.to_model())
    for bits in (8, 6, 4, 3):
        emitted = emit(network, nearest(network, bits), None, target)
        same = loaded(emitted.model) == original
        assert said(emitted, "weights are folded to float when the model is loaded") == same
        assert (emitted.slower or said(emitted, "slower than the float original on the CPU")) == (not same)
        assert emitted.slower == said(emitted, "unless the session option session.disable_quant_qdq=1 is set")
        name = next(iter(network.layers))
        noted = said(emitted, f"on the CPU onnxruntime from 1.25 on quantizes the inputs of {name} to int8")
        assert loaded(emitted.model)["MatMulNBits"] == (noted and RELEASE >= (1, 25))
        assert same or loaded(emitted.model, DISABLED) == original
        assert same == (target in ("cpu", "cuda") or not emitted.form.startswith("DequantizeLinear"))


def test_weights_take_the_memory_that_is_said(network: Network, target: str) -> None:
    for bits in (8, 6, 4, 3):
        emitted = emit(network, nearest(network, bits), None, target)
        graph = loaded_graph(emitted.model, level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        held = [t for t in graph.initializer if t.name in ("w", "w.codes", "w.codes_T")]
        assert [t.ByteSize() - len(t.name) > emitted.weight_memory for t in held] == [True]
        assert sum(len(t.raw_data) for t in held) == emitted.weight_memory


@pytest.mark.parametrize("real", TYPES)
def test_weights_take_the_bits_of_the_file_that_are_said(real: str, target: str, opset: int) -> None:
    network = layer_of("conv" if real != "double" else "gemm", real, opset)
    for bits in (8, 7, 6, 5, 4, 3, 2):
        emitted = emit(network, nearest(network, bits), None, target)
        (codes,) = (t for t in emitted.model.graph.initializer if t.name == "w.codes")
        (layer,) = network.layers.values()
        taken = 8 * len(codes.raw_data) / layer.constant.values.size
        words = codes.data_type == onnx.TensorProto.INT64
        packed = f"weights of {bits} bits are packed in 64-bit words, {packed_bits(FORMATS[bits].levels):.2f} bits each"
        assert said(emitted, packed) == words
        explained = taken == bits or words or (target == "tensorrt" and bits <= 4)
        for width in (4, 8):
            assert said(emitted, f"{bits}-bit weights take {width} bits each in the file") == (
                not explained and taken == width
            )
        assert said(emitted, "its opset has no int4") == (not explained and bits <= 4 and taken == 8)
        assert said(emitted, "the codes are stored as int8") == (target == "tensorrt" and bits <= 4)
        if words:
            ideal = layer.constant.values.size * packed_bits(FORMATS[bits].levels) / 8
            assert ideal <= len(codes.raw_data) <= ideal + SLICE_BYTES + 8
        else:
            assert taken in (4, 8)


def test_small_layers_beside_packed_ones_are_told() -> None:
    text = "(float[1,8,6,6] x) => (float y) { a = Conv (x, w1) y = Conv (a, w2) }"
    network = network_of(text, {"w1": (64, 8, 3, 3), "w2": (4, 64, 1, 1)})
    emitted = emit(network, nearest(network, 6), None, "cpu")
    assert [t.data_type for t in emitted.model.graph.initializer if t.name.endswith("codes")] == [
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT8,
    ]
    assert said(emitted, "6.40 bits each (but those of small layers, which take 8), and unpacked")


@pytest.mark.parametrize("target", ["cpu", "portable", "tensorrt"])
@pytest.mark.parametrize("bits", [8, 6, 4, 3])
def test_on_cuda_layers_between_pairs_stay_in_float(bits: int, target: str) -> None:
    emitted, *_ = quantized(two_convs(), bits, target, image())
    words = "on CUDA without TensorRT" if target == "tensorrt" else "on CUDA slower than the float original"
    assert said(emitted, words)
    # Below the extended level, integer kernels are not made, as they are not for CUDA at any.
    graph = loaded_graph(emitted.model, level=ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    assert Counter(n.op_type for n in graph.node)["Conv"] == 2
    made = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            assert [made[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_said_of_cuda_where_activations_stay(target: str) -> None:
    emitted = emit(two_convs(), nearest(two_convs(), 8), None, target)
    assert said(emitted, "CUDA") == (target == "tensorrt")


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
