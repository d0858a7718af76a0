"""Every number format × target × operator: the file computes what the codes and grids say, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.writer import TARGETS, Emitted, activation_tensors, emit
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.grids import FORMATS, QuantParams
from onnx_udfc.runtime.kernels import check_runtime
from tests.quantized_graphs import Values, fetch, nearest, network_of, ranges, run, simulate

IMAGE, FLAT, LINE = "(float[2,8,6,6] x)", "(float[3,8] x)", "(float[2,8,9] x)"
OPS: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "conv": (IMAGE, "Conv <pads=[1,1,1,1]> (x, w, b)", {"w": (5, 8, 3, 3), "b": (5,)}),
    "conv without bias": (IMAGE, "Conv <strides=[2,2]> (x, w)", {"w": (6, 8, 2, 2)}),
    "depthwise": (IMAGE, "Conv <group=8, pads=[1,1,1,1]> (x, w, b)", {"w": (8, 1, 3, 3), "b": (8,)}),
    "grouped": (IMAGE, "Conv <group=2, dilations=[2,2]> (x, w, b)", {"w": (6, 4, 2, 2), "b": (6,)}),
    "conv 1d": (LINE, "Conv (x, w, b)", {"w": (7, 8, 3), "b": (7,)}),
    "conv_transpose": (IMAGE, "ConvTranspose <strides=[2,2]> (x, w, b)", {"w": (8, 5, 3, 3), "b": (5,)}),
    "grouped conv_transpose": (IMAGE, "ConvTranspose <group=2> (x, w, b)", {"w": (8, 3, 2, 2), "b": (6,)}),
    "depthwise conv_transpose": (IMAGE, "ConvTranspose <group=8> (x, w, b)", {"w": (8, 1, 2, 2), "b": (8,)}),
    "gemm transposed": (FLAT, "Gemm <transB=1> (x, w, b)", {"w": (5, 8), "b": (5,)}),
    "gemm": (FLAT, "Gemm (x, w, b)", {"w": (8, 5), "b": (5,)}),
    "matmul": (FLAT, "MatMul (x, w)", {"w": (8, 5)}),
}  # fmt: skip
BITS = sorted(FORMATS)
EXACT_MATMUL = ("session.qdq_matmulnbits_accuracy_level", "0")
FOLDED = ("session.disable_quant_qdq", "1")


def layer_network(op: str, opset: int = 21) -> tuple[Network, Values]:
    inputs, call, shapes = OPS[op]
    network = network_of(f"{inputs} => (float y) {{ y = {call} }}", shapes, opset=opset)
    shape = [int(n) for n in network.graph.inputs[0].shape]
    return network, {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def written_weight(emitted: Emitted, network: Network, name: str, feeds: Values) -> np.ndarray:
    """The float weight that the file gives its layer; checked against the codes it was written from."""
    return fetch(emitted.model, network.layers[name].constant.name, feeds)


def expected_weight(network: Network, params: QuantParams, name: str) -> np.ndarray:
    layer = network.layers[name]
    return layer.layout(params.dequantize()).astype(layer.constant.values.dtype)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("op", sorted(OPS))
def test_weights_only(op: str, target: str, bits: int) -> None:
    network, feeds = layer_network(op)
    (name,) = network.layers
    weights = nearest(network, bits)
    emitted = emit(network, weights, None, target)
    onnx.checker.check_model(emitted.model, full_check=True)
    weight = written_weight(emitted, network, name, feeds)
    expected = expected_weight(network, weights[name], name)
    if target == "tensorrt" and "conv_transpose" in op:  # rounded once more, for each input channel
        step = np.abs(expected).max(axis=(1, 2, 3), keepdims=True) / 127
        assert (np.abs(weight - expected) <= step * 0.5001).all()
    else:
        np.testing.assert_array_equal(weight, expected)
    value = simulate(network, {name: weight}, Placement({}, {}, {}, ()), {}, feeds)["y"]
    np.testing.assert_allclose(run(emitted.model, feeds, config=EXACT_MATMUL)[0], value, rtol=1e-5, atol=1e-6)
    folded = run(emitted.model, feeds, config=FOLDED)[0]
    np.testing.assert_allclose(folded, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("target", ["cpu", "portable", "tensorrt"])
@pytest.mark.parametrize("op", sorted(OPS))
def test_with_activations(op: str, target: str, bits: int) -> None:
    network, feeds = layer_network(op)
    (name,) = network.layers
    weights = nearest(network, bits)
    placement = activation_tensors(network, weights, target)
    grids = ranges(network, placement, feeds)
    emitted = emit(network, weights, grids, target)
    onnx.checker.check_model(emitted.model, full_check=True)
    weight = written_weight(emitted, network, name, feeds)
    if name in placement.integer and target != "tensorrt":
        round_bias(network, name, grids["x"].scale, weights[name])
    value = simulate(network, {name: weight}, placement, grids, feeds)["y"]
    found = run(emitted.model, feeds)[0]
    if "y" in placement.sites:
        steps = np.abs(found - value) / grids["y"].scale
        assert steps.max() < 1.001
        assert (steps > 0.5).mean() < 0.02  # a tie in float32 here and there, not a shift
    else:
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)
    if target != "tensorrt":
        assert check_runtime(emitted.model).integer == (() if "conv_transpose" in op else (name,))


def round_bias(network: Network, name: str, input_scale: float, params: QuantParams) -> None:
    """Round a layer's bias as integer kernels have it, to steps of input scale · weight scale."""
    layer = network.layers[name]
    step = input_scale * params.scale.reshape(-1)
    layer.set(layer.matrix(), np.rint(layer.bias / step) * step)


BLOCKS = {
    "conv": "{o} = Conv <pads=[1,1,1,1]> ({i}, w{n}, b{n})",
    "depthwise": "{o} = Conv <group=8, pads=[1,1,1,1]> ({i}, w{n}, b{n})",
    "grouped": "{o} = Conv <group=2> ({i}, w{n}, b{n})",
    "conv_transpose": "{o} = ConvTranspose <pads=[1,1,1,1]> ({i}, w{n}, b{n})",
    "relu": "{o} = Relu ({i})",
    "relu6": "{o} = Clip ({i}, zero, six)",
    "leaky": "{o} = LeakyRelu <alpha=0.25> ({i})",
    "swish": "s{n} = Sigmoid ({i}) {o} = Mul ({i}, s{n})",
    "residual": "{o} = Add ({i}, {skip})",
    "sum": "{o} = Sum ({i}, {skip})",
    "concat": "c{n} = Concat <axis=1> ({i}, {skip}) {o} = Conv (c{n}, w{n}, b{n})",
    "max_pool": "{o} = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> ({i})",
    "average_pool": "{o} = AveragePool <kernel_shape=[2,2], pads=[0,0,1,1], count_include_pad=1> ({i})",
    "shuffle": "t{n} = Transpose <perm=[0,1,3,2]> ({i}) {o} = Pad (t{n}, nothing)",
    "negate": "{o} = Neg ({i})",
}
WEIGHTS = {
    "conv": (8, 8, 3, 3), "depthwise": (8, 1, 3, 3), "grouped": (8, 4, 1, 1), "conv_transpose": (8, 8, 3, 3),
    "concat": (8, 16, 1, 1),
}  # fmt: skip


def chain(blocks: list[str], ends_in_gemm: bool) -> Network:
    """A network of blocks on 8 channels of 8×8; every fourth tensor is kept as the next residual."""
    shapes: dict[str, tuple[int, ...]] = {}
    lines, tensor, skip = [], "x", "x"
    for n, block in enumerate(blocks):
        lines.append(BLOCKS[block].format(o=f"a{n}", i=tensor, n=n, skip=skip))
        if block in WEIGHTS:
            shapes |= {f"w{n}": WEIGHTS[block], f"b{n}": (8,)}
        tensor, skip = f"a{n}", f"a{n}" if n % 4 == 3 else skip
    if ends_in_gemm:
        lines.append(f"p = GlobalAveragePool ({tensor}) f = Flatten (p) y = Gemm <transB=1> (f, wg, bg)")
        shapes |= {"wg": (5, 8), "bg": (5,)}
    else:
        lines.append(f"y = Conv ({tensor}, wg, bg)")
        shapes |= {"wg": (5, 8, 1, 1), "bg": (5,)}
    constants = "<float zero = {0}, float six = {6}, int64[8] nothing = {0,0,0,0,0,0,0,0}>"
    return network_of(f"(float[1,8,8,8] x) => (float y) {constants} {{ {' '.join(lines)} }}", shapes)


def dyadic(network: Network, bits: int, rng: np.random.Generator) -> dict[str, QuantParams]:
    """Random codes with powers of two as scales, and biases that int32 holds exactly: all arithmetic is exact.

    Zero points must be even then: a pooling kernel rounds value/scale + zero_point where the standard says
    round(value/scale) + zero_point, so a tie at an odd zero point goes the other way.
    """
    weights = {}
    for name, layer in network.layers.items():
        shape, fmt = layer.matrix().shape, FORMATS[bits]
        codes = rng.integers(fmt.qmin, fmt.qmax + 1, shape).astype(np.int8)
        scale = np.ldexp(1.0, -rng.integers(bits - 1, bits + 2, shape[:2]))
        layer.set(codes * scale[..., None], rng.integers(-64, 65, layer.out_channels) / 16)
        weights[name] = QuantParams(bits, codes, scale)
    return weights


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=8),
    ends_in_gemm=st.booleans(),
    bits=st.sampled_from(BITS),
    target=st.sampled_from(["cpu", "portable", "tensorrt"]),
    seed=st.integers(0, 1000),
)
def test_random_graphs_on_dyadic_grids_are_exact(
    blocks: list[str], ends_in_gemm: bool, bits: int, target: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    network = chain(blocks, ends_in_gemm)
    weights = dyadic(network, bits, rng)
    feeds: Values = {"x": rng.normal(size=(1, 8, 8, 8)).astype(np.float32)}
    placement = activation_tensors(network, weights, target)
    grids = {
        t: ActivationParams(
            2.0**-6 if t in placement.caps else 2.0 ** -int(rng.integers(3, 6)),
            0 if placement.dtype == "int8" or not_negative(network, t) else 2 * int(rng.integers(50, 78)),
            placement.dtype,
        )
        for t in placement.tensors
    }
    emitted = emit(network, weights, grids, target)
    kept = {name: expected_weight(network, params, name) for name, params in weights.items()}
    if target == "tensorrt":
        kept = {name: written_weight(emitted, network, name, feeds) for name in weights}
    value = simulate(network, kept, placement, grids, feeds)["y"]
    np.testing.assert_array_equal(run(emitted.model, feeds, optimize=False)[0], value)
    if target != "tensorrt":
        np.testing.assert_array_equal(run(emitted.model, feeds)[0], value)
        checked = check_runtime(emitted.model)
        assert set(checked.integer) == set(placement.integer)


def not_negative(network: Network, tensor: str) -> bool:
    """Whether a tensor comes out of a Relu or a Clip(0, 6), so that a calibrated grid has zero point 0."""
    return any(t.name == tensor and node.op in ("Relu", "Clip") for node in network.graph.nodes for t in node.outputs)
