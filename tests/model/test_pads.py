"""Pads are folded where the numbers stay, and stay where they would not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

PADS = "p = Constant<value = int64[8] {0, 0, 1, 0, 0, 0, 2, 1}>()"
EVEN = "p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()"
MINUS = "v = Constant<value = float {-inf}>()"
FOLDED = {
    "conv": f"{PADS} a = Pad(x, p) y = Conv(a, W)",
    "conv that pads": f"{PADS} a = Pad(x, p) y = Conv<pads = [1,1,0,2], strides = [2,2]>(a, W)",
    "dilated conv": f"{PADS} a = Pad(x, p) y = Conv<dilations = [2,2]>(a, W)",
    "valid": f'{PADS} a = Pad(x, p) y = Conv<auto_pad = "VALID">(a, W)',
    "two readers": f"{PADS} a = Pad(x, p) b = Conv(a, W) c = Conv<pads = [0,0,0,0]>(a, W) y = Add(b, c)",
    "average": f"{EVEN} a = Pad(x, p) y = AveragePool<kernel_shape = [3,3]>(a)",
    "counting average": f"{PADS} a = Pad(x, p) y = AveragePool<kernel_shape = [4,4], pads = [1,2,0,1], "
    "count_include_pad = 1>(a)",
    "maximum of what is not negative": f"{PADS} r = Relu(x) a = Pad(r, p) y = MaxPool<kernel_shape = [3,3]>(a)",
    "maximum, nothing": f"{PADS} {MINUS} a = Pad(x, p, v) y = MaxPool<kernel_shape = [3,3], strides = [2,2]>(a)",
}
LEFT = {
    "uneven average": f"{PADS} a = Pad(x, p) y = AveragePool<kernel_shape = [3,3]>(a)",
    "maximum": f"{PADS} a = Pad(x, p) y = MaxPool<kernel_shape = [3,3]>(a)",
    "average that pads": f"{PADS} a = Pad(x, p) y = AveragePool<kernel_shape = [4,4], pads = [1,1,1,1]>(a)",
    "average, rounded up": f"{PADS} a = Pad(x, p) y = AveragePool<kernel_shape = [3,3], strides = [2,2], "
                           "ceil_mode = 1>(a)",
    "small kernel": f"{PADS} a = Pad(x, p) y = AveragePool<kernel_shape = [2,2]>(a)",
    "channels": "p = Constant<value = int64[8] {0,1,1,1,0,2,1,1}>() a = Pad(x, p) y = Conv(a, V)",
    "cropped": "p = Constant<value = int64[8] {0,0,1,-1,0,0,1,1}>() a = Pad(x, p) y = Conv(a, W)",
    "ones": f"{PADS} v = Constant<value = float {{1.0}}>() a = Pad(x, p, v) y = Conv(a, W)",
    "edge": f'{PADS} a = Pad<mode = "edge">(x, p) y = Conv(a, W)',
    "same": f'{PADS} a = Pad(x, p) y = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(a, W)',
    "another reader": f"{PADS} a = Pad(x, p) b = Conv<pads = [1,1,1,1]>(a, W) y = Add(b, a)",
    "sum over": f"{PADS} a = Pad(x, p) b = Conv(a, W) y = ReduceMax<keepdims = 0>(a)",
}  # fmt: skip


def model_of(body: str) -> onnx.ModelProto:
    model = small_model(
        f"g (float[2,4,9,8] x, float[4,4,3,3] W, float[4,7,3,3] V) => (float y) {{ {body} }}"
    )  # V takes padded channels
    model.graph.output[0].ClearField("type")
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("name", [*FOLDED, *LEFT])
def test_the_same_values(name: str) -> None:
    model = model_of({**FOLDED, **LEFT}[name])
    written = read(load(model).model).to_model()
    assert [n.op_type for n in written.graph.node].count("Pad") == (name in LEFT)
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype(np.float32)}
    before, after = run(model, x)[0], run(written, x)[0]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_no_pad_is_left_between_integer_kernels() -> None:
    model = model_of(f"c = Conv(x, W) r = Relu(c) {PADS} a = Pad(r, p) y = Conv<strides = [2,2]>(a, W)")
    result = compress(model, bits=8, activations=8).model
    assert "Pad" not in [n.op_type for n in result.graph.node]


def test_a_padded_tensor_that_is_an_output_stays() -> None:
    model = model_of(f"{PADS} a = Pad(x, p) y = Conv(a, W)")
    model.graph.output.append(onnx.ValueInfoProto(name="a"))
    assert [n.op_type for n in read(load(model).model).to_model().graph.node] == ["Pad", "Conv"]
