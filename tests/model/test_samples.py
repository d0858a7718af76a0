"""Networks that take one picture or sound without an axis of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc import compress, inspect, sweep, validate
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.network import read
from onnx_udfc.model.samples import as_given, load_with_samples, with_samples
from tests.small_graphs import small_model

PICTURE = """g (float[SIZES] x, float[16,3,3,3] W1, float[8,16,3,3] W2, float[8,5] W3) => (float[OUT] y) <
    int64[1] first = {0}> {
    t = Transpose<perm = [2, 0, 1]>(x) u = Unsqueeze(t, first) c = Conv(u, W1) r = Relu(c)
    d = Conv<strides = [2, 2]>(r, W2) s = Relu(d)
    m = ReduceMean<axes = [2, 3], keepdims = 0>(s) z = MatMul(m, W3) END }"""
ONE = {"SIZES": "16,16,3", "OUT": "5", "END": "y = Squeeze(z, first)"}
SOUND = """g (float[n] x, float[8,1,64] W1, float[4,8,3] W2) => (float[k] y) <
    int64[2] axes = {0, 1}, int64[1] two = {2}> {
    u = Unsqueeze(x, axes) c = Conv<strides = [16]>(u, W1) r = Relu(c) d = Conv(r, W2) s = Relu(d)
    m = ReduceMax<keepdims = 0>(s, two) y = Squeeze(m) }"""
SAMPLES = """g (float[n,7] x, float[8,7,3] W1) => (float[1,8,m] y) <int64[1] first = {0}> {
    u = Unsqueeze(x, first) t = Transpose<perm = [1, 2, 0]>(u) y = Conv<pads = [1, 1]>(t, W1) }"""
RNG = np.random.default_rng(0)
PICTURES = RNG.standard_normal((12, 16, 16, 3)).astype(np.float32)


def picture(opset: int = 17, **words: str) -> onnx.ModelProto:
    text = PICTURE
    for word, value in (ONE | words).items():
        text = text.replace(word, value)
    return small_model(text, opset=opset)


def sizes(model: onnx.ModelProto) -> dict[str, list[Any]]:
    ends = [*model.graph.input, *model.graph.output]
    return {i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in ends}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_an_axis_of_samples_is_put_on_and_taken_off_again() -> None:
    model = picture()
    apart = with_samples(model)
    assert isinstance(apart, onnx.ModelProto)
    assert sizes(apart) == {"x": [1, 16, 16, 3], "y": [1, 5]}
    assert sizes(model) == {"x": [16, 16, 3], "y": [5]}
    np.testing.assert_array_equal(run(apart, PICTURES[:1])[0], run(model, PICTURES[0]))
    back = as_given(apart, model)
    assert sizes(back) == sizes(model)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    assert {t.name for t in back.graph.initializer} == {t.name for t in model.graph.initializer}
    assert load_with_samples(model)[0].bytes == model.ByteSize()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (picture(SIZES="h,w,3"), (1, 224, 224, 3)),
        (picture(OUT="1,5", END="y = Identity(z)"), (1, 16, 16, 3)),
        (small_model(SOUND), (1, 16000)),
    ],
)
def test_what_the_graph_gives_an_axis_of_samples_is_one_input(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    loaded, apart = load_with_samples(model)
    assert apart is not None
    (wanted,) = wanted_inputs(read(loaded.model))
    assert (wanted.shape, wanted.spec.batch) == (shape, 1)
    assert wanted.kind == ("picture" if len(shape) == 4 else "signal")


def test_samples_that_are_turned_before_the_convolution_stay_what_they_are() -> None:
    model = small_model(SAMPLES)
    assert with_samples(model) is model


@pytest.mark.parametrize("keywords", [{"prune": 0.5, "bits": 4}, {"bits": 8, "activations": 8}, {"for_": "fast"}])
def test_a_result_takes_and_gives_what_the_file_does(keywords: dict[str, Any], tmp_path: Path) -> None:
    model = picture()
    result = compress(model, calibrate=[{"x": x} for x in PICTURES], **keywords)
    assert sizes(result.model) == sizes(model)
    assert (result.report.fidelity.inputs, result.report.fidelity.held_out) == ("calibration", 4)
    assert result.report.before.bytes == model.ByteSize()
    assert result.report.after.bytes == result.model.ByteSize()
    assert run(result.model, PICTURES[0]).shape == (5,)
    np.savez(tmp_path / "x.npz", PICTURES)
    found = validate(model, result.model, images=tmp_path / "x.npz", seconds=0, memory=False)
    assert (found.count, found.bytes.compressed) == (12, result.model.ByteSize())


def test_sizes_may_be_said_as_the_file_has_them(tmp_path: Path) -> None:
    model = picture(SIZES="h,w,3")
    asked = compress(model, bits=8, input_shape="x=16x16x3")
    assert asked.report.before.macs == inspect(picture()).size.macs
    table = sweep(model, tmp_path / "s", prune=[0.0, 0.25], bits=[8], input_shape="16x16x3")
    assert [row.error for row in table.rows] == ["", ""]


def test_files_of_older_opsets_name_their_axes_otherwise() -> None:
    older = small_model(
        """g (float[16,16,3] x, float[4,3,3,3] W) => (float[4,14,14] y) {
        t = Transpose<perm = [2, 0, 1]>(x) u = Unsqueeze<axes = [0]>(t) c = Conv(u, W) y = Squeeze<axes = [0]>(c) }""",
        opset=11,
    )
    apart = with_samples(older)
    assert isinstance(apart, onnx.ModelProto)
    np.testing.assert_array_equal(run(apart, PICTURES[:1])[0], run(older, PICTURES[0]))
    assert sizes(as_given(apart, older)) == sizes(older)


def test_columns_that_constants_tell_are_so_many() -> None:
    """Spectra that are divided by deviations of their bands, and read by a convolution of two axes."""
    model = small_model(
        """g (float[T,F] x, float[40] V1, float[4,1,3,3] W1) => (float[a,b,c] y) <int64[2] axes = {0, 1}> {
        d = Div(x, V1) u = Unsqueeze(d, axes) c = Conv(u, W1) y = Squeeze(c) }"""
    )
    (wanted,) = wanted_inputs(read(load_with_samples(model)[0].model))
    assert wanted.shape == (1, 64, 40)


def test_what_no_axes_are_is_not_read_as_such() -> None:
    odd = small_model(
        """g (float[16,16,3] x, float[4,3,3,3] W) => (float[1,4,14,14] y) <float[1] none = {nan}> {
        p = PRelu(x, none) t = Transpose<perm = [2, 0, 1]>(p) u = Unsqueeze<axes = [0]>(t) y = Conv(u, W) }""",
        opset=11,
    )
    assert with_samples(odd) is odd


def test_bands_of_which_only_some_numbers_run_are_found() -> None:
    """Spectra of 105 bands, which only a matrix behind the convolutions tells."""
    model = small_model(
        """g (float[T,F] x, float[4,1,3,3] W1, float[412,5] W2) => (float[a,b] y) <
            int64[2] axes = {0, 1}, int64[1] first = {0}, int64[2] shape = {-1, 412}> {
        u = Unsqueeze(x, axes) c = Conv(u, W1) t = Transpose<perm = [0, 2, 1, 3]>(c) s = Squeeze(t, first)
        f = Reshape(s, shape) y = MatMul(f, W2) }"""
    )
    network = read(load_with_samples(model)[0].model)
    assert wanted_inputs(network)[0].shape == (1, 64, 105)
    assert network.ran
