"""Where Q/DQ pairs go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.targets import activation_tensors
from onnx_udfc.errors import RequestError
from onnx_udfc.model.network import Network
from tests.quantized_graphs import network_of

CONV = {"w1": (8, 8, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,)}


def image_network(body: str, weights: Mapping[str, tuple[int, ...]] | None = None, constants: str = "") -> Network:
    """A network from x (1, 8, 6, 6) to y."""
    return network_of(f"(float[1,8,6,6] x) => (float y) {constants} {{ {body} }}", CONV if weights is None else weights)


def place(network: Network, target: str = "cpu") -> Placement:
    return activation_tensors(network, network.layers, target)


def test_the_activation_between_two_layers_is_absorbed() -> None:
    placement = place(image_network("a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2, b2)"))
    assert list(placement.sites) == ["x", "r", "y"]
    assert placement.tensors == ("x", "r", "y")
    assert placement.integer == ("conv0", "conv2")


def test_an_activation_that_others_bypass_is_not_absorbed() -> None:
    placement = place(image_network("a = Conv (x, w1, b1) r = Relu (a) s = Add (r, a) y = Conv (s, w2, b2)"))
    assert list(placement.sites) == ["x", "a", "r", "s", "y"]


@pytest.mark.parametrize("op", ["LeakyRelu", "HardSwish", "Tanh"])
def test_other_activations_read_and_write_quantized_tensors(op: str) -> None:
    placement = place(image_network(f"a = Conv (x, w1, b1) r = {op} (a) y = Conv (r, w2, b2)"))
    assert list(placement.sites) == ["x", "a", "r", "y"]


def test_a_clip_from_zero_is_absorbed_with_its_cap() -> None:
    body = "a = Conv (x, w1, b1) r = Clip (a, low, high) y = Conv (r, w2, b2)"
    placement = place(image_network(body, constants="<float low = {0}, float high = {6}>"))
    assert list(placement.sites) == ["x", "r", "y"]
    assert placement.caps == {"r": 6.0}
    other = place(image_network(body, constants="<float low = {-1}, float high = {6}>"))
    assert list(other.sites) == ["x", "a", "r", "y"]
    assert other.caps == {}


def test_a_residual_stream_is_integer_throughout() -> None:
    placement = place(image_network(
        "a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w2, b2)"
        " s = Add (c, r) t = Relu (s) y = Conv (t, w3)",
        {**CONV, "w3": (4, 8, 1, 1)},
    ))  # fmt: skip
    assert list(placement.sites) == ["x", "r", "c", "t", "y"]


@pytest.mark.parametrize(
    "op",
    [
        "MaxPool <kernel_shape=[2,2]> (r)",
        "Transpose <perm=[0,1,3,2]> (r)",
        "Slice (r, ones, twos)",
        "Pad <mode='reflect'> (r, pads)".replace("'", '"'),  # one of zeros would go into the convolution
        "Reshape (r, shape)",
        "Resize <mode='nearest'> (r, none, scales)".replace("'", '"'),
    ],
)
def test_what_only_moves_values_shares_the_grid(op: str) -> None:
    constants = (
        "<int64[1] ones = {0}, int64[1] twos = {1}, int64[8] pads = {0,0,1,1,0,0,1,1}, int64[4] shape = {0,8,-1,4},"
        " float[0] none = {}, float[4] scales = {1,1,2,2}>"
    )
    placement = place(
        image_network(f"r = Conv (x, w1, b1) m = {op} y = Conv <pads=[1,1,1,1]> (m, w2, b2)", None, constants)
    )
    assert placement.tied == {"m": "r"}
    assert placement.tensors == ("x", "r", "y")
    assert placement.grid_of("m") == "r"
    assert placement.grid_of("nowhere") is None


def test_a_chain_of_moves_is_tied_to_its_beginning() -> None:
    body = "t = Transpose <perm=[0,1,3,2]> (x) m = MaxPool <kernel_shape=[2,2]> (t) y = Conv (m, w1, b1)"
    placement = place(image_network(body))
    assert placement.tied == {"t": "x", "m": "x"}


@pytest.mark.parametrize("op", ["Pad (r, pads, one)", 'Resize <mode="cubic"> (r, none, scales)', "Exp (r)"])
def test_what_makes_new_values_has_its_own_grid(op: str) -> None:
    constants = "<int64[8] pads = {0,0,1,1,0,0,1,1}, float one = {1}, float[0] none = {}, float[4] scales = {1,1,2,2}>"
    placement = place(image_network(f"r = Conv (x, w1, b1) m = {op} y = Conv (m, w2, b2)", None, constants))
    assert placement.tied == {}
    assert placement.tensors == ("x", "r", "m", "y")


def test_what_follows_the_last_layer_stays_in_float() -> None:
    placement = place(image_network(
        "a = Conv (x, w1, b1) r = Relu (a) p = GlobalAveragePool (r) f = Flatten (p) g = Gemm <transB=1> (f, wg, bg)"
        " s = Softmax (g) y = Mul (s, s)",
        {**CONV, "wg": (5, 8), "bg": (5,)},
    ))  # fmt: skip
    assert list(placement.sites) == ["x", "r", "p", "f"]
    assert placement.tied == {"f": "p"}
    assert placement.float_outputs == ("gemm4",)


def test_a_matmul_and_its_bias_are_one_kernel() -> None:
    body = "m = MatMul (x, w1) a = Add (m, b1) r = Relu (a) n = MatMul (r, w2) y = Softmax (n)"
    network = network_of(f"(float[3,8] x) => (float y) {{ {body} }}", {"w1": (8, 6), "b1": (6,), "w2": (6, 4)})
    placement = place(network)
    assert list(placement.sites) == ["x", "r"]
    assert placement.float_outputs == ("matmul3",)


def test_constants_keep_an_operator_in_float() -> None:
    body = "a = Conv (x, w1, b1) r = Relu (a) m = Mul (r, half) y = Conv (m, w2, b2)"
    placement = place(image_network(body, constants="<float half = {0.5}>"))
    assert list(placement.sites) == ["x", "r", "m", "y"]


def test_sums_are_integer_adds() -> None:
    three = place(image_network("a = Conv <pads=[1,1,1,1]> (x, w1, b1) s = Sum (a, x, x) y = Conv (s, w2, b2)"))
    assert {"a", "s", "sum1.add.out"} <= set(three.sites)


def test_layers_left_out_have_no_pairs_of_their_own() -> None:
    network = image_network("a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2, b2)")
    last = activation_tensors(network, ["conv0"], "cpu")
    assert list(last.sites) == ["x", "r"]
    assert last.barriers == ()
    first = activation_tensors(network, ["conv2"], "cpu")
    assert list(first.sites) == ["r", "y"]
    assert first.barriers == ()


def test_a_float_layer_between_two_integer_ones_is_shielded() -> None:
    weights = {"w1": (8, 8, 1, 1), "w2": (8, 8, 2, 2), "w3": (8, 8, 1, 1)}
    body = "a = Conv (x, w1) b = ConvTranspose (a, w2) r = Relu (b) y = Conv (r, w3)"
    placement = place(image_network(body, weights))
    assert placement.integer == ("conv0", "conv3")
    assert list(placement.sites) == ["x", "a", "r", "y"]
    assert placement.barriers == ("convtranspose1",)


def test_tensorrt_wants_layer_inputs_and_the_residual_input() -> None:
    placement = place(image_network(
        "a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w2, b2)"
        " s = Add (c, r) t = Relu (s) m = MaxPool <kernel_shape=[2,2]> (t) y = ConvTranspose (m, w3)",
        {**CONV, "w3": (8, 4, 1, 1)},
    ), "tensorrt")  # fmt: skip
    assert placement.dtype == "int8"
    assert placement.sites == {"x": ("conv0",), "r": ("conv2", "add3"), "m": ("convtranspose6",)}
    assert placement.tied == {}


def test_tensorrt_quantizes_one_of_two_branches_that_end_in_layers() -> None:
    body = "r = Relu (x) a = Conv (x, w1, b1) c = Conv (r, w2, b2) y = Add (a, c)"
    assert place(image_network(body), "tensorrt").sites == {"x": ("conv1",), "r": ("conv2",), "c": ("add3",)}


def test_cuda_is_refused_with_the_reason() -> None:
    with pytest.raises(RequestError, match="no integer convolution on CUDA"):
        place(image_network("y = Conv (x, w1, b1)"), "cuda")


def test_networks_in_other_types_are_refused_with_the_reason() -> None:
    network = network_of("(float16[1,8,6,6] x) => (float16 y) { y = Conv (x, w1, b1) }", CONV, np.float16)
    with pytest.raises(RequestError, match="computes in float16"):
        place(network)


def test_gates_between_quantized_tensors_run_as_integers() -> None:
    body = "a = Conv (x, w1, b1) s = HardSigmoid <alpha=0.25, beta=0.375> (a) r = HardSwish (a) m = Mul (s, r)"
    placement = place(image_network(f"{body} y = Conv (m, w2, b2)"))
    assert placement.gates == {"hardsigmoid1": (0.25, 0.375), "hardswish2": (1 / 6, 0.5)}
    assert list(placement.sites) == ["x", "a", "s", "r", "m", "y"]
    assert placement.caps == {"s": 1.0}


@pytest.mark.parametrize("nodes", ["HardSigmoid <alpha=-0.25> (a)", "HardSigmoid (a) t = Relu (s)"])
def test_a_gate_that_an_addition_cannot_stand_for_stays_in_float(nodes: str) -> None:
    read = "t" if "t =" in nodes else "s"
    placement = place(image_network(f"a = Conv (x, w1, b1) s = {nodes} y = Conv ({read}, w2, b2)"))
    assert placement.gates == {}
    assert read in placement.sites


POOL = "m = MaxPool <kernel_shape=[2,2], strides=[2,2]>"


@pytest.mark.parametrize(
    ("body", "pooled_in_float"),
    [
        (f"a = Conv (x, w1, b1) h = HardSwish (a) {POOL} (h) f = Flatten (m) y = Gemm <transB=1> (f, wg)", True),
        (f"a = Conv (x, w1, b1) h = Relu (a) {POOL} (h) f = Flatten (m) y = Gemm <transB=1> (f, wg)", False),
        (f"a = Conv (x, w1, b1) h = HardSwish (a) {POOL} (h) y = Conv (m, w3)", False),
    ],
)
def test_a_pool_for_whose_codes_there_is_no_quick_kernel_stays_in_float(body: str, pooled_in_float: bool) -> None:
    placement = place(image_network(body, {**CONV, "wg": (5, 32), "w3": (8, 8, 1, 1)}))
    assert placement.barriers == (("maxpool2",) if pooled_in_float else ())
    assert ("h" in placement.sites) == (not pooled_in_float)
