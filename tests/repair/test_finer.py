"""Layers before a logarithm: their own weights in four bits more, and no bias, which would be heard in silence."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.loudness import before_logarithm
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.numerics.grids import FORMATS
from onnx_udfc.numerics.rounding import FINER, quantize_finely
from onnx_udfc.options import Options
from tests.emit.test_notes_against_the_loaded_graph import loaded
from tests.quantized_graphs import run
from tests.small_graphs import small_model, small_network

TAPS = 256
SPECTRUM = """g (float[1,1,4096] x, float[32,1,256] C, float[32,1,256] S) => (float[1,32,61] y)
    <float[1] e = {1e-12}> {
    a = Conv<strides = [64]>(x, C) b = Conv<strides = [64]>(x, S)
    p = Mul(a, a) q = Mul(b, b) s = Add(p, q) f = Add(s, e) y = Log(f) }"""


def spectrum() -> onnx.ModelProto:
    """The logarithm of 32 bands of a sound, through windows that keep out what is not theirs."""
    model = small_model(SPECTRUM)
    n = np.arange(TAPS)
    window = 0.35875 - 0.48829 * np.cos(2 * np.pi * n / TAPS) + 0.14128 * np.cos(4 * np.pi * n / TAPS)
    window -= 0.01168 * np.cos(6 * np.pi * n / TAPS)  # of Blackman and Harris: 92 dB
    phase = 2 * np.pi * (0.02 + 0.012 * np.arange(32))[:, None] * n
    for name, wave in (("C", np.cos(phase)), ("S", np.sin(phase))):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array((wave * window)[:, None].astype(np.float32), name))
    return model


def tone() -> dict[str, np.ndarray]:
    return {"x": np.sin(2 * np.pi * 0.02 * np.arange(4096)).astype(np.float32)[None, None]}


def floor(model: onnx.ModelProto) -> float:
    """What is heard of the lowest tone, in dB, in the bands that should not hear it."""
    heard = np.exp(run(model, tone())[0].astype(np.float64))
    return float(10 * np.log10(heard[:, 8:].mean() / heard.max()))


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights in 8 bits, to nearest."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        step = np.abs(values).max(-1, keepdims=True) / 127
        if values.size > 1:
            tensor.CopyFrom(numpy_helper.from_array((np.rint(values / step) * step).astype(np.float32), tensor.name))
    return copy


@pytest.mark.parametrize("method", ["none", "moments"])
@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
def test_the_silence_between_tones_stays_silent(target: str, method: str) -> None:
    model = spectrum()
    result = compress(model, Options(bits=8, target=target, method=method))
    assert floor(model) < -90.0
    assert -66.0 < floor(rounded(model)) < -58.0
    assert floor(result.model) < floor(rounded(model)) - 20.0
    after = run(result.model, tone())[0]
    np.testing.assert_allclose(after, run(result.model, tone(), optimize=False)[0], rtol=1e-3, atol=0.02)
    assert [(x.bits, x.form.count("→FLOAT") + x.form.count("DequantizeLinear")) for x in result.report.layers] == [
        (12, 2), (12, 2)
    ]  # fmt: skip
    assert any("12 bits, for a logarithm follows" in note for note in result.report.runtime.notes) or method == "none"
    assert model_bytes(result.model) < 0.48 * model_bytes(model)
    if target == "cpu":
        assert loaded(result.model) == loaded(model)


def test_its_own_file_is_inspected_and_compressed_again() -> None:
    first = compress(spectrum(), Options(bits=8, method="none")).model
    assert [(x.op_type, x.bits) for x in inspect_model(first).layers] == [("Conv", 8), ("Conv", 8)]
    again = compress(first, Options(bits=8, method="none", force=True)).model
    assert np.array_equal(run(first, tone())[0], run(again, tone())[0])


def test_they_do_not_run_as_integers() -> None:
    result = compress(spectrum(), Options(bits=8, activations=8, images=8, force=True))
    assert "QuantizeLinear" not in {n.op_type for n in result.model.graph.node}
    assert {x.bits for x in result.report.layers} == {12}


def test_two_steps_leave_a_fourteenth_of_the_error() -> None:
    weight = np.random.default_rng(0).normal(size=(2, 5, 40))
    found = quantize_finely(weight, 8, np.dtype(np.float32))
    assert found.finer is not None
    step = np.abs(weight).max(-1) / 127
    np.testing.assert_allclose(found.scale, step, rtol=1e-6)
    assert (found.bits, found.finer.bits, found.bits_in_all) == (8, FINER, 12)
    assert np.abs(found.finer.codes).max() == FORMATS[FINER].qmax
    assert np.all(np.abs(found.dequantize() - weight) <= step[..., None] / 28 * 1.0001)


CASES = {
    "spectrum": (SPECTRUM, {"n0", "n1"}),
    "clipped": (SPECTRUM.replace("f = Add(s, e)", "f = Max(s, e)"), {"n0", "n1"}),
    "square root": (SPECTRUM.replace("f = Add(s, e)", "f = Sqrt(s)"), {"n0", "n1"}),
    "a constant that is heard": (SPECTRUM.replace("1e-12", "1.0"), set()),
    "no logarithm": (SPECTRUM.replace("Log", "Sqrt"), set()),
    "a function between": (SPECTRUM.replace("f = Add(s, e)", "f = Sigmoid(s)"), set()),
    "joined": (SPECTRUM.replace("p = Mul(a, a) q = Mul(b, b) s = Add(p, q)",
                                "j = Concat<axis = 1>(a, b) k = Mul(j, j) s, t = Split<axis = 1, num_outputs = 2>(k)"),
               {"n0", "n1"}),
    "softmax": ("""g (float[N,16] x, float[16,8] W) => (float[N,8] y) {
        m = MatMul(x, W) s = Softmax(m) y = Log(s) }""", set()),
    "a bias": ("""g (float[1,4,9] x, float[8,4,3] W, float[8] B) => (float[1,8,7] y) {
        m = Conv(x, W, B) s = Mul(m, m) y = Log(s) }""", set()),
    "mel": ("""g (float[1,1,64] x, float[8,1,16] W, float[8,4] A) => (float[1,49,4] y) {
        c = Conv(x, W) s = Mul(c, c) t = Transpose<perm = [0, 2, 1]>(s) m = MatMul(t, A) y = Log(m) }""",
            {"n0", "n3"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_which_layers_stand_before_a_logarithm(case: str) -> None:
    text, expected = CASES[case]
    assert before_logarithm(small_network(text)) == expected
