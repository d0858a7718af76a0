"""What is written: sizes, names, types, biases, notes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_udfc.emit.forms import SLICE_BYTES
from onnx_udfc.emit.writer import TARGETS, activation_tensors, emit
from onnx_udfc.errors import RequestError
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.grids import FORMATS, QuantParams
from onnx_udfc.numerics.words import codes_per_word
from onnx_udfc.runtime.kernels import check_runtime
from tests.quantized_graphs import (
    TWO,
    Values,
    fetch,
    image,
    nearest,
    network_of,
    quantized,
    ranges,
    run,
    simulate,
    two_convs,
)


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {t.name: t for t in model.graph.initializer}


def weights_of(network: Network, weights: dict[str, QuantParams]) -> Values:
    """What the codes stand for, by the name of the float tensor."""
    layers = network.layers
    return {layers[n].constant.name: layers[n].layout(p.dequantize()).astype(np.float32) for n, p in weights.items()}


def operators(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node))


@pytest.mark.parametrize(
    ("target", "bits", "stored", "nodes"),
    [
        ("cpu", 8, TensorProto.INT8, ["Cast", "Mul", "Conv"]),
        ("cpu", 7, TensorProto.INT8, ["Cast", "Mul", "Conv"]),
        ("portable", 5, TensorProto.INT8, ["DequantizeLinear", "Conv"]),
        ("cpu", 4, TensorProto.INT4, ["Cast", "Mul", "Conv"]),
        ("portable", 2, TensorProto.INT4, ["DequantizeLinear", "Conv"]),
        ("cuda", 3, TensorProto.INT4, ["Cast", "Mul", "Conv"]),
        ("portable", 8, TensorProto.INT8, ["DequantizeLinear", "Conv"]),
        ("portable", 4, TensorProto.INT4, ["DequantizeLinear", "Conv"]),
        ("tensorrt", 4, TensorProto.INT8, ["DequantizeLinear", "Conv"]),
    ],
)
def test_weights_only_forms(target: str, bits: int, stored: int, nodes: list[str]) -> None:
    network = two_convs()
    emitted = emit(network, nearest(network, bits), None, target)
    assert [node.op_type for node in emitted.model.graph.node] == [*nodes, "Relu", *nodes]
    tensors = initializers(emitted.model)
    assert tensors["w1.codes"].data_type == stored
    width = {int(TensorProto.INT8): 8, int(TensorProto.INT4): 4}[stored]
    assert len(tensors["w1.codes"].raw_data) == 16 * 8 * 9 * width // 8
    assert "w1" not in tensors


@pytest.mark.parametrize(
    ("target", "bits", "stored", "before_conv"),
    [
        ("cpu", 8, TensorProto.INT8, ["DequantizeLinear"]),
        ("cpu", 7, TensorProto.INT8, ["DequantizeLinear"]),
        ("cpu", 4, TensorProto.INT4, ["Cast", "DequantizeLinear"]),
        ("portable", 4, TensorProto.INT8, ["DequantizeLinear"]),
        ("tensorrt", 3, TensorProto.INT8, ["DequantizeLinear"]),
    ],
)
def test_forms_with_activations(target: str, bits: int, stored: int, before_conv: list[str]) -> None:
    emitted, placement = quantized(two_convs(), bits, target, image())
    pair = ["QuantizeLinear", "DequantizeLinear"]
    last = [] if target == "tensorrt" else pair
    types = [node.op_type for node in emitted.model.graph.node]
    assert types == [*pair, *before_conv, "Conv", "Relu", *pair, *before_conv, "Conv", *last]
    tensors = initializers(emitted.model)
    assert tensors["w1.codes"].data_type == stored
    code = TensorProto.INT8 if target == "tensorrt" else TensorProto.UINT8
    assert {tensors[f"{t}.zero_point"].data_type for t in placement.sites} == {code}
    assert tensors["b1"].data_type == TensorProto.FLOAT
    assert all(not np.any(numpy_helper.to_array(tensors[f"{w}.zero_point"])) for w in ("w1", "w2"))
    assert numpy_helper.to_array(tensors["r.zero_point"]) == 0


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize(("kind", "dtype", "op"), [
    ("float16", np.float16, "Conv"), ("float16", np.float16, "MatMul"), ("double", np.float64, "MatMul"),
])  # fmt: skip
def test_other_float_types_keep_theirs(kind: str, dtype: type, op: str, target: str) -> None:
    shape, weight = ((1, 8, 6, 6), (5, 8, 3, 3)) if op == "Conv" else ((3, 8), (8, 5))
    dims = ",".join(str(n) for n in shape)
    network = network_of(f"({kind}[{dims}] x) => ({kind} y) {{ y = {op} (x, w) }}", {"w": weight}, dtype)
    feeds: Values = {"x": np.random.default_rng(3).normal(size=shape).astype(dtype)}
    weights = nearest(network, 4)
    emitted = emit(network, weights, None, target)
    onnx.checker.check_model(emitted.model, full_check=True)
    (name,) = network.layers
    np.testing.assert_array_equal(
        fetch(emitted.model, "w", feeds), network.layers[name].layout(weights[name].dequantize()).astype(dtype)
    )
    assert run(emitted.model, feeds)[0].dtype == dtype


def test_a_scale_that_float16_cannot_hold_is_raised() -> None:
    network = network_of("(float16[1,8,6,6] x) => (float16 y) { y = Conv (x, w) }", {"w": (4, 8, 3, 3)}, np.float16)
    codes = np.full((1, 4, 72), 7, np.int8)
    weights = {"conv0": QuantParams(4, codes, np.array([[1e-12, 1e-5, 0.1, 1.0]]))}
    emitted = emit(network, weights, None, "cpu")
    scale = numpy_helper.to_array(initializers(emitted.model)["w.scale"]).reshape(-1)
    assert (scale > 0).all()
    weight = fetch(emitted.model, "w", {"x": np.zeros((1, 8, 6, 6), np.float16)})[:, 0, 0, 0]
    assert np.abs(weight - 7 * weights["conv0"].scale[0]).max() < 0.005
    np.testing.assert_array_equal(weight[:2], np.array([0.0, 6.1035e-05], np.float16))


@pytest.mark.parametrize("bits", [b for b, fmt in FORMATS.items() if fmt.packs])
@pytest.mark.parametrize("opset", [13, 21, 25])
def test_widths_without_a_type_are_packed_in_words(opset: int, bits: float) -> None:
    if opset == 25:
        pytest.importorskip("onnxruntime", minversion="1.24")
    network, feeds = two_convs(opset=opset), image()
    weights = nearest(network, bits)
    emitted = emit(network, weights, None, "cpu")
    words, levels = initializers(emitted.model)["w1.codes"], FORMATS[bits].levels
    assert words.data_type == TensorProto.INT64
    assert len(words.raw_data) <= 8 * -(-16 * 8 * 9 // codes_per_word(levels)) + SLICE_BYTES
    np.testing.assert_array_equal(fetch(emitted.model, "w1", feeds), weights_of(network, weights)["w1"])
    second = FORMATS[bits].storage == 4  # too few weights to be packed: int4, where there is
    assert emitted.onnxruntime_min == {13: "1.18", 21: "1.23" if second else "1.20", 25: "1.24"}[opset]
    assert any("packed in 64-bit words" in note for note in emitted.notes)
    integer, _ = quantized(network, bits, "cpu", feeds)
    assert check_runtime(integer.model).floating == ()


def test_what_unpacks_is_folded_when_the_model_is_loaded() -> None:
    network = two_convs()
    emitted = emit(network, nearest(network, 3), None, "cpu")
    assert set(check_runtime(emitted.model).operators) <= {"Conv", "FusedConv", "Relu"}


def test_four_bits_are_packed_where_the_opset_has_no_int4_and_few_weights_never() -> None:
    network = two_convs(opset=13)
    emitted = emit(network, nearest(network, 4), None, "cpu")
    assert len(initializers(emitted.model)["w1.codes"].raw_data) == 16 * 8 * 9 // 2
    small = network_of("(float[1,4,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (5, 4, 3, 3)})
    emitted = emit(small, nearest(small, 3), None, "cpu")
    assert initializers(emitted.model)["w.codes"].data_type == TensorProto.INT4
    assert any("3-bit weights take 4 bits" in note for note in emitted.notes)


def test_a_packed_file_is_known_as_compressed_when_it_comes_in_again() -> None:
    network = two_convs()
    emitted = emit(network, nearest(network, 3), None, "cpu")
    again = read(emitted.model)
    assert not again.layers
    assert [n.op_type for n in again.to_model().graph.node] == [n.op_type for n in emitted.model.graph.node]


@pytest.mark.parametrize("opset", [12, 13, 19, 20])
def test_older_opsets_store_all_codes_in_eight_bits(opset: int) -> None:
    network = two_convs(opset=opset)
    weights = nearest(network, 4)
    emitted = emit(network, weights, None, "portable")
    assert initializers(emitted.model)["w1.codes"].data_type == TensorProto.INT8
    assert ("Mul" in operators(emitted.model)) == (opset < 13)
    assert np.isfinite(run(emitted.model, image())[0]).all()
    if opset < 13:
        with pytest.raises(RequestError, match="opset 13"):
            emit(network, weights, {}, "cpu")


def test_memory_counts_what_is_there_after_loading() -> None:
    network = two_convs()
    count = 16 * 8 * 9 + 5 * 16
    assert emit(network, nearest(network, 4), None, "cpu").weight_memory == 4 * count
    assert emit(network, nearest(network, 4), None, "portable").weight_memory == count // 2
    assert quantized(network, 4, "cpu", image())[0].weight_memory == count
    one = {"conv2": nearest(network, 8)["conv2"]}
    assert emit(network, one, None, "portable").weight_memory == 4 * 16 * 8 * 9 + 5 * 16


def test_the_network_is_left_as_it_is_and_the_result_is_the_same_twice() -> None:
    network = two_convs()
    before = network.to_model().SerializeToString(deterministic=True)
    first = quantized(network, 4, "cpu", image())[0].model.SerializeToString(deterministic=True)
    assert network.to_model().SerializeToString(deterministic=True) == before
    assert quantized(network, 4, "cpu", image())[0].model.SerializeToString(deterministic=True) == first


def test_names_that_are_taken_are_not_used_again() -> None:
    body = "w1.codes = Relu (x) y.float = Conv (w1.codes, w1, b1) y = Relu (y.float)".replace(".", "_")
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", {"w1": (16, 8, 3, 3), "b1": (16,)})
    for node in network.graph.nodes:
        for tensor in [*node.inputs, *node.outputs]:
            tensor.name = tensor.name.replace("_", ".")
    feeds = image()
    emitted, _ = quantized(network, 4, "cpu", feeds)
    names = [name for node in emitted.model.graph.node for name in node.output] + list(initializers(emitted.model))
    assert len(names) == len(set(names))
    onnx.checker.check_model(emitted.model, full_check=True)
    assert check_runtime(emitted.model).floating == ()


def test_graph_inputs_and_outputs_keep_their_names() -> None:
    body = "r = Conv <pads=[1,1,1,1]> (x, w1, b1) y = Conv (r, w2, b2)"
    network = network_of(f"(float[1,8,6,6] x) => (float y, float r) {{ {body} }}", TWO)
    emitted, placement = quantized(network, 8, "cpu", image())
    assert [t.name for t in emitted.model.graph.input] == ["x"]
    assert [t.name for t in emitted.model.graph.output] == ["y", "r"]
    assert list(placement.sites) == ["x", "r", "y"]
    assert check_runtime(emitted.model).floating == ()


def test_a_tiny_channel_with_a_real_bias_does_not_overflow() -> None:
    network = two_convs()
    layer = network.layers["conv0"]
    matrix, bias = layer.matrix(), layer.bias.copy()
    matrix = np.array(matrix)
    matrix[0, 3], bias[3] = 1e-12 * matrix[0, 3], 2.0
    layer.set(matrix, bias)
    feeds = image()
    emitted, placement = quantized(network, 8, "cpu", feeds)
    scale = numpy_helper.to_array(initializers(emitted.model)["w1.scale"])
    grids = ranges(network, placement, feeds)
    assert 2.0 / (grids["x"].scale * scale[3]) <= 2**30
    weight = fetch(emitted.model, "w1", feeds)
    value = simulate(network, {"conv0": weight}, placement, grids, feeds)["y"]
    np.testing.assert_allclose(run(emitted.model, feeds)[0], value, atol=2 * grids["y"].scale)


def test_a_dead_channel_is_written_with_a_scale_above_zero() -> None:
    network = two_convs()
    layer = network.layers["conv0"]
    matrix = np.array(layer.matrix())
    matrix[0, 5] = 0.0
    layer.set(matrix, layer.bias)
    for target in ("cpu", "portable", "tensorrt"):
        emitted, _ = quantized(network, 4, target, image())
        assert (numpy_helper.to_array(initializers(emitted.model)["w1.scale"]) > 0).all()
        assert not fetch(emitted.model, "w1", image())[5].any()


def test_the_last_gemm_keeps_its_float_output() -> None:
    body = "p = GlobalAveragePool (x) f = Flatten (p) g = Gemm <transB=1> (f, wg, bg) y = Softmax (g)"
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", {"wg": (5, 8), "bg": (5,)})
    emitted, placement = quantized(network, 8, "cpu", image())
    assert placement.float_outputs == ("gemm2",)
    assert initializers(emitted.model)["bg.codes"].data_type == TensorProto.INT32
    assert check_runtime(emitted.model).integer == ("gemm2",)


def test_a_float_layer_between_integer_ones_stays_in_float() -> None:
    weights = {"w1": (8, 8, 1, 1), "w2": (8, 8, 2, 2), "w3": (8, 8, 1, 1)}
    body = "a = Conv (x, w1) b = ConvTranspose (a, w2) r = Relu (b) y = Conv (r, w3)"
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", weights)
    emitted, _ = quantized(network, 4, "cpu", image())
    checked = check_runtime(emitted.model)
    assert checked.integer == ("conv0", "conv3")
    assert [kernel.computes_weight for kernel in checked.kernels] == [False, False, False]
    assert emitted.forms["convtranspose1"] == "Cast(INT4→FLOAT)→Mul"
    assert any("no integer kernel for ConvTranspose: convtranspose1" in note for note in emitted.notes)


def test_layers_that_were_left_out_are_named_and_run_in_float() -> None:
    network = two_convs()
    feeds = image()
    weights = {"conv2": nearest(network, 8)["conv2"]}
    placement = activation_tensors(network, weights, "cpu")
    emitted = emit(network, weights, ranges(network, placement, feeds), "cpu", placement)
    assert check_runtime(emitted.model).integer == ("conv2",)
    assert any(note.endswith("activations: conv0") for note in emitted.notes)


def test_weights_can_be_quantized_where_activations_are_not() -> None:
    network = two_convs()
    feeds = image()
    placement = activation_tensors(network, ["conv2"], "cpu")
    emitted = emit(network, nearest(network, 8), ranges(network, placement, feeds), "cpu", placement)
    assert emitted.forms == {"conv0": "Cast(INT8→FLOAT)→Mul", "conv2": "DequantizeLinear(INT8)"}
    assert check_runtime(emitted.model).integer == ("conv2",)


def test_nothing_quantized_is_the_float_network() -> None:
    network = two_convs()
    emitted = emit(network, {}, None, "cpu")
    assert (emitted.form, emitted.notes, emitted.slower) == ("float", (), False)
    np.testing.assert_array_equal(run(emitted.model, image())[0], run(network.to_model(), image())[0])


def test_a_layer_of_zero_codes_gives_its_bias() -> None:
    network = two_convs()
    codes = np.zeros(network.layers["conv2"].matrix().shape, np.int8)
    zero = {"conv2": QuantParams(4, codes, np.ones(codes.shape[:2]))}
    value = run(emit(network, zero, None, "cpu").model, image())[0]
    np.testing.assert_array_equal(value[0, :, 0, 0], network.layers["conv2"].bias)
