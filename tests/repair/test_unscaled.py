"""Inputs of numbers whose scale nothing tells: what follows it stays in float, what is normalized first does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress, validate
from tests.normed_graphs import scaled_model
from tests.quantized_graphs import fetch

GEMMS = "float[N,32] x, float[24,32] W1, float[24] B1, float[24,24] W2, float[24] B2, float[4,24] W3, float[4] B3"
PLAIN = f"""g ({GEMMS}) => (float[N,4] y) {{
    a = Gemm<transB = 1>(x, W1, B1) r = Relu(a) b = Gemm<transB = 1>(r, W2, B2) s = Relu(b)
    y = Gemm<transB = 1>(s, W3, B3) }}"""
NORMED = f"""g ({GEMMS}, float[24] G) => (float[N,4] y) {{
    a = Gemm<transB = 1>(x, W1, B1) n = LayerNormalization(a, G) r = Relu(n) b = Gemm<transB = 1>(r, W2, B2)
    s = Relu(b) y = Gemm<transB = 1>(s, W3, B3) }}"""
PICTURE = """g (float[N,3,16,16] x, float[8,3,3,3] W1, float[4,8,3,3] W2) => (float[N,4,12,12] y) {
    a = Conv(x, W1) r = Relu(a) y = Conv(r, W2) }"""

SPECTRUM = """g (float[N,1,16,20] x, float[8,1,3,3] W1, float[8] B1, float[4,8,3,3] W2, float[4] B2) =>
    (float[N,4,12,16] y) { a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2, B2) }"""


def integer_inputs(model: onnx.ModelProto) -> int:
    """How many layers read what was quantized."""
    quantized = {o for n in model.graph.node if n.op_type == "QuantizeLinear" for o in n.output}
    read = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in quantized}
    return sum(n.op_type in ("Gemm", "MatMul", "Conv") and n.input[0] in read for n in model.graph.node)


def lost_db(model: onnx.ModelProto, result: onnx.ModelProto, scale: float) -> float:
    x = (scale * np.random.default_rng(3).standard_normal((64, 32))).astype(np.float32)
    y, z = fetch(model, "y", {"x": x}), fetch(result, "y", {"x": x})
    return float(10 * np.log10(np.square(y - y.mean(0)).sum() / np.square(y - z).sum()))


@pytest.mark.parametrize(("text", "integer"), [(PLAIN, 0), (NORMED, 2)])
def test_what_follows_an_unknown_scale_stays_in_float(text: str, integer: int) -> None:
    model = scaled_model(text)
    found = compress(model, bits=8, activations=8, threads=1, force=True)
    assert integer_inputs(found.model) == integer
    assert any("scale of x" in note and "--calibrate" in note for note in found.report.runtime.notes)
    for scale in (0.1, 1.0, 16.0):
        assert lost_db(model, found.model, scale) > 25


ROWS = f"""g ({GEMMS}, float[64] T) => (float[N,4] y, float[N,32] z) {{
    a = Gemm<transB = 1>(x, W1, B1) r = Relu(a) b = Gemm<transB = 1>(r, W2, B2) s = Relu(b)
    y = Gemm<transB = 1>(s, W3, B3) k = Constant<value_floats = [8.0]>() p = Mul(x, k) c = Cast<to = 7>(p)
    z = Gather(T, c) }}"""


def test_a_scale_at_which_the_network_does_not_run_is_none_that_it_reads() -> None:
    """Rows of a table that eight times as large numbers go past."""
    model = scaled_model(ROWS)
    found = compress(model, bits=8, activations=8, threads=1, force=True)
    assert lost_db(model, found.model, 1.0) > 25
    validate(model, found.model, seconds=0, memory=False)


def test_real_inputs_and_pictures_have_their_scale() -> None:
    x = (16 * np.random.default_rng(0).standard_normal((64, 32))).astype(np.float32)
    model = scaled_model(PLAIN)
    found = compress(model, bits=8, activations=8, threads=1, force=True, calibrate=x)
    assert integer_inputs(found.model) == 3
    assert lost_db(model, found.model, 16.0) > 25
    picture = compress(scaled_model(PICTURE), bits=8, activations=8, threads=1, force=True)
    assert integer_inputs(picture.model) == 2
    assert not any("scale of x" in note for note in picture.report.runtime.notes)


@pytest.mark.parametrize(("bias", "integer"), [(0.5, 1), (4.0, 0)])
def test_what_reads_a_spectrum_of_any_mean_stays_in_float_and_what_is_behind_differences_does_not(
    bias: float, integer: int
) -> None:
    model = scaled_model(SPECTRUM)
    weights = {t.name: t for t in model.graph.initializer}
    taken = numpy_helper.to_array(weights["W1"])
    taken = taken - taken.mean((2, 3), keepdims=True)  # differences
    weights["W1"].CopyFrom(numpy_helper.from_array(taken / taken.std() / 3, "W1"))
    weights["B1"].CopyFrom(numpy_helper.from_array(np.full(8, bias, np.float32), "B1"))
    found = compress(model, bits=8, activations=8, threads=1, force=True)
    assert integer_inputs(found.model) == integer
    x = (8 + 1.7 * np.random.default_rng(3).standard_normal((64, 1, 16, 20))).astype(np.float32)
    y, z = fetch(model, "y", {"x": x}), fetch(found.model, "y", {"x": x})
    assert 10 * np.log10(np.square(y - y.mean(0)).sum() / np.square(y - z).sum()) > 15
    told = compress(model, bits=8, activations=8, threads=1, force=True, input_mean=(8.0,), input_std=(1.7,))
    assert integer_inputs(told.model) == 2


def test_a_square_picture_of_one_channel_is_grey() -> None:
    """Digits, not spectra: of these a mean of many deviations would leave nothing to integers."""
    found = compress(scaled_model(SPECTRUM.replace("1,16,20", "1,16,16")), bits=8, activations=8, threads=1, force=True)
    assert integer_inputs(found.model) == 2
