"""What else made-up inputs may be, where nothing tells: scales and means of features, scales of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.evaluate.validate import validate
from onnx_udfc.inputs import network_inputs
from onnx_udfc.inputs.network_inputs import elsewhere, make_inputs
from onnx_udfc.model.network import read
from onnx_udfc.options import Judging, Options
from tests.normed_graphs import norm, parameter, scaled_model, with_parameters
from tests.quantized_graphs import fetch

HEAD = """g (float[N,8,12] x, float[32,96] W1, float[32] B1, float[5,32] W2, float[5] B2) => (float[N,5] y) {
    f = Flatten(x) a = Gemm<transB = 1>(f, W1, B1) r = Relu(a) y = Gemm<transB = 1>(r, W2, B2) }"""
PICTURE = """g (float[N,3,16,16] x, float[12,3,3,3] W1, float[12] B1, float[16,12,3,3] W2, float[16] B2,
    float[4,16,3,3] W3) => (float[N,4,10,10] y) {
    a = Conv(x, W1, B1) r = Relu(a) b = Conv(r, W2, B2) s = Relu(b) y = Conv(s, W3) }"""


def pictures(shift: float) -> onnx.ModelProto:
    """A network without batch norm whose first biases are as large as its response times this."""
    model = scaled_model(PICTURE)
    weight = parameter(model, "W1")
    response = np.sqrt(np.square(weight).sum((1, 2, 3)))
    signs = np.where(np.arange(12) % 2, 1.0, -1.0)
    return with_parameters(model, {"B1": (shift * signs * response).astype(np.float32)})


def test_features_are_also_larger_of_a_mean_and_of_means_of_their_own() -> None:
    network, options = read(scaled_model(HEAD)), Options()
    inputs = make_inputs(network, options, 1000)
    x = inputs.values["x"]
    larger, raised, profiled = (found.values["x"] for found in elsewhere(network, inputs, options))
    np.testing.assert_allclose(larger, 8 * x, rtol=1e-6)
    np.testing.assert_allclose(raised, x + 4, rtol=1e-5)
    means = (profiled - x).mean((0, 1))
    assert 1 < means.std() < 3
    np.testing.assert_allclose(profiled - x, np.broadcast_to(means, x.shape), atol=1e-3)


def test_a_network_that_is_right_on_noise_alone_is_not_called_good() -> None:
    """Made-up features hardly vary as one, so what a network makes of their mean does not count in the fit."""
    model = scaled_model(HEAD)
    found = compress(model, prune=0.5, bits=4, threads=1)
    x = np.random.default_rng(3).standard_normal((64, 8, 12)) + 2 * np.random.default_rng(4).standard_normal(12)
    y, z = (fetch(m, "y", {"x": x.astype(np.float32)}) for m in (model, found.model))
    assert 10 * np.log10(np.square(y - y.mean(0)).sum() / np.square(y - z).sum()) < 10
    assert found.report.verdict != "good"
    assert validate(model, found.model, Judging(seconds=0, memory=False)).verdict != "good"
    assert validate(model, model, Judging(seconds=0, memory=False)).verdict == "good"


def test_a_batch_norm_tells_the_scale_of_features() -> None:
    text = HEAD.replace("float[32] B1,", f"float[32] B1, {norm('1', 32)},")
    text = text.replace("r = Relu(a)", "n = BatchNormalization(a, S1, D1, M1, V1) r = Relu(n)")
    network, options = read(scaled_model(text)), Options()
    assert elsewhere(network, make_inputs(network, options, 1000), options) == ()


@pytest.mark.parametrize(("shift", "others"), [(0.1, 2), (1.0, 0)])
def test_pictures_of_a_scale_that_nothing_tells_are_pixels_too(shift: float, others: int) -> None:
    network, options = read(pictures(shift)), Options()
    judged = make_inputs(network, options, 1000)
    found = elsewhere(network, judged, options)
    assert len(found) == others
    x = judged.values["x"]
    for other, mean, std in zip(found, (118 / 255, 118 / 127.5 - 1), (64 / 255, 64 / 127.5), strict=False):
        np.testing.assert_allclose(other.values["x"], mean + std * x, rtol=1e-5, atol=1e-5)
    fitted = make_inputs(network, options).values["x"]
    spreads = [fitted[third::3].std() for third in range(3)]
    assert (spreads[1] < 0.5 * spreads[0]) == (others > 0)
    assert (spreads[2] < 0.8 * spreads[0]) == (others > 0)
    told = Options(input_mean=(0.0,), input_std=(1.0,))
    assert elsewhere(network, make_inputs(network, told, 1000), told) == ()


def test_real_inputs_are_what_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((32, 8, 12)).astype(np.float32))
    network, options = read(scaled_model(HEAD)), Options(calibrate=str(tmp_path / "x.npy"))
    assert elsewhere(network, make_inputs(network, options, 1000), options) == ()


def test_a_network_of_pixels_keeps_more_of_pictures_of_all_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted on normalized pictures alone it has seen nothing of its own."""
    model = pictures(0.1)
    x = (0.46 + 0.25 * make_inputs(read(model), Options(), 7).values["x"]).astype(np.float32)
    y, lost = fetch(model, "y", {"x": x}), []
    for doubted in (True, False):
        monkeypatch.setattr(network_inputs, "doubtful", lambda *_, told=doubted: told)
        z = fetch(compress(model, bits=4, threads=1, force=True).model, "y", {"x": x})
        lost.append(float(np.square(y - z).sum() / np.square(y - y.mean(0)).sum()))
    assert lost[0] < 0.9 * lost[1]
