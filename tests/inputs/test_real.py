"""Real inputs: several arrays, samples along any axis, and what Python gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

from onnx_udfc import compress, sweep, validate
from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_files import Preprocessing
from onnx_udfc.inputs.network_inputs import make_inputs, settle_sizes
from onnx_udfc.inputs.real import Real, gathered, real_inputs
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.network import Network
from onnx_udfc.options import Options
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model, small_network

RECURRENT = """g (float[batch,length] input, float[2,batch,6] state, int64 sr, float[6,4] W1, float[1,6] W2)
    => (float[batch,4] y) {
    h = Gather<axis = 0>(state, one) s = Cast<to = 1>(sr) f = Mul(h, s) m = ReduceMean<keepdims = 1>(input, one_axis)
    k = MatMul(m, W2) a = Add(f, k) y = MatMul(a, W1) }"""
RNG = np.random.default_rng(0)
INPUT = RNG.standard_normal((12, 9)).astype(np.float32)
STATE = RNG.standard_normal((2, 12, 6)).astype(np.float32)


def recurrent() -> Any:
    model = small_model(RECURRENT)
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one_axis"))
    return model


def network() -> Network:
    from onnx_udfc.model.network import read

    return read(recurrent())


def found(network: Network, data: Any, most: int | None = None) -> Real:
    settle_sizes(network, Options(calibrate=gathered(data) if not isinstance(data, str) else data))
    return real_inputs(wanted_inputs(network), data, Preprocessing(), most)


def test_an_npz_has_an_array_for_each_input_and_samples_lie_where_they_lie(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=INPUT, state=STATE, sr=np.array(3), unused=np.array([object]))
    real = found(network(), str(tmp_path / "x.npz"))
    assert (real.samples, real.missing) == (12, ())
    np.testing.assert_array_equal(real.values["state"], STATE)
    assert real.values["sr"] == 3
    options = Options(calibrate=tmp_path / "x.npz", seed=2)
    fitted, judged = (make_inputs(network(), options, offset).values for offset in (0, 1000))
    for values, number in ((fitted, 8), (judged, 4)):
        rows = [int(np.abs(INPUT - row).sum(1).argmin()) for row in values["input"]]
        assert len(rows) == number
        np.testing.assert_array_equal(values["state"], STATE[:, rows])
        assert values["sr"] == 3


FORMS: dict[str, Any] = {
    "arrays by name": {"input": INPUT, "state": STATE, "sr": np.array(3)},
    "a scalar for each": {"input": INPUT, "state": STATE, "sr": np.full(12, 3)},
    "feeds": [{"input": INPUT[i : i + 3], "state": STATE[:, i : i + 3], "sr": np.array(3)} for i in range(0, 12, 3)],
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """As onnxruntime has it."""

    def __init__(self, feeds: list[dict[str, NDArray[Any]]]) -> None:
        self.feeds: Iterator[dict[str, NDArray[Any]]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Give one feed after another."""
        return next(self.feeds, None)


@pytest.mark.parametrize("form", [*FORMS, "generator", "reader"])
def test_python_gives_the_same_in_any_form(form: str) -> None:
    data = {"generator": (f for f in FORMS["feeds"]), "reader": Reader(FORMS["feeds"])}.get(form, FORMS.get(form))
    real = found(network(), gathered(data))
    assert real.samples == 12
    np.testing.assert_array_equal(real.values["input"], INPUT)
    np.testing.assert_array_equal(real.values["state"], STATE)
    assert np.unique(real.values["sr"]).tolist() == [3]


def test_compress_takes_them_and_says_what_they_were() -> None:
    results = [compress(recurrent(), bits=8, threads=1, calibrate=FORMS[form]) for form in ("arrays by name", "feeds")]
    for result in results:
        assert (result.report.fidelity.inputs, result.report.fidelity.held_out) == ("calibration", 4)
        assert result.report.fidelity.sqnr_db is not None
        assert result.report.fidelity.sqnr_db > 30
        assert "sha256:" in result.report.to_dict()["options"]["calibrate"]
    a, b = ([t.raw_data for t in r.model.graph.initializer] for r in results)
    assert a == b


def test_one_input_takes_an_array_under_any_name_and_arrays_one_by_one() -> None:
    text = "g (float[N,5] x, float[5,3] W) => (float[N,3] y) { y = MatMul(x, W) }"
    x = RNG.standard_normal((9, 5)).astype(np.float32)
    for data in (x, {"anything": x, "y": np.arange(9)}, list(x), [{"x": row[None]} for row in x]):
        np.testing.assert_array_equal(found(small_network(text), gathered(data)).values["x"], x)
    assert found(small_network(text), gathered(x), most=4).samples == 4


def test_every_function_takes_inputs_from_memory_with_labels(tmp_path: Path) -> None:
    model = small_model("g (float[N,3,4,4] x, float[5,3,4,4] W) => (float[N,5] y) { c = Conv(x, W) y = Flatten(c) }")
    x = RNG.integers(0, 256, (24, 4, 4, 3), np.uint8)
    scaled = x.transpose(0, 3, 1, 2).astype(np.float32) / 255
    answers = open_session(model).run(None, {"x": scaled})[0].argmax(1)
    labels = np.where(np.arange(24) < 18, answers, (answers + 1) % 5)
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    told: Any = {"seconds": 0, "memory": False, "threads": 1}
    for data in (tmp_path / "x.npz", {"x": x, "y": labels}, (x, labels), (scaled, list(labels))):
        found = validate(model, model, images=data, **told)
        assert (found.count, found.inputs) == (24, "images")
        assert found.accuracy is not None
        assert found.accuracy.original == 0.75
    for unlabelled in (x, list(scaled), [{"x": part} for part in np.split(scaled, 4)]):
        found = validate(model, model, images=unlabelled, **told)
        assert (found.count, found.inputs, found.accuracy) == (24, "images", None)
    report = compress(model, bits=8, validate=(x, labels), threads=1).report
    assert report.accuracy is not None
    assert report.accuracy.original == 0.75
    assert "sha256:" in report.to_dict()["options"]["validate"]
    table = sweep(model, tmp_path / "out", bits=8, labelled=(x, labels), threads=1, jobs=1)
    assert table.accuracy == 0.75
    with pytest.raises(RequestError, match="no labels"):
        sweep(model, tmp_path / "out", bits=8, labelled=x, threads=1, jobs=1)
    with pytest.raises(RequestError, match=r"^images: float is no path"):
        validate(model, model, images=3.0)
    with pytest.raises(RequestError, match="24 images but labels of shape"):
        validate(model, model, images={"x": x, "y": labels[:3]})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"input": INPUT, "state": STATE[:, :7], "sr": np.array(1)}, "numbers of samples differ: input has 12"),
        ({"input": INPUT, "state": STATE[:1], "sr": np.array(1)}, "does not fit the input state (2, ?, 6)"),
        ({"other": INPUT}, "expected an array for input, state, sr"),
        ([], "not one feed"),
        ([{"input": INPUT}, {"state": STATE}], "differ in their inputs"),
        ({"input": np.array(["a"]), "state": STATE}, "cannot be fed"),
        (3.0, "no path, array"),
    ],
)
def test_what_does_not_fit_is_one_line(data: Any, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        compress(recurrent(), bits=8, calibrate=data)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_channels_on_the_other_side_are_said_to_be_turned() -> None:
    model = small_model("g (float[N,3,8,9] x, float[8,3,3,3] W) => (float[N,8,6,7] y) { y = Conv(x, W) }")
    with pytest.raises(RequestError, match=r"; turn its axes: array\.transpose\(0, 3, 1, 2\)$"):
        compress(model, bits=8, calibrate=np.zeros((40, 8, 9, 3), np.float32))


def test_inputs_that_were_not_given_are_made_up_and_that_is_said() -> None:
    made = make_inputs(network(), Options(calibrate=gathered({"input": INPUT, "state": STATE})))
    assert set(made.values) == {"input", "state", "sr"}
    assert "sr: not among the real inputs" in made.note


def test_pixels_of_any_layout_and_number_of_channels() -> None:
    text = "g (float[N,3,H,W] x, float[2,3,1,1] K) => (float[N,2,H,W] y) { y = Conv(x, K) }"
    pixels = RNG.integers(0, 256, (9, 6, 8, 3), np.uint8)
    expected = pixels.transpose(0, 3, 1, 2) / np.float32(255)
    for data in (pixels, pixels.transpose(0, 3, 1, 2)):
        np.testing.assert_allclose(found(small_network(text), gathered(data)).values["x"], expected, rtol=1e-6)
    with_alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)
    np.testing.assert_allclose(found(small_network(text), gathered(with_alpha)).values["x"], expected, rtol=1e-6)
    grey = found(small_network(text), gathered(pixels[..., :1])).values["x"]
    np.testing.assert_allclose(grey, np.repeat(expected[:, :1], 3, axis=1), rtol=1e-6)


def test_the_order_of_colours_alone_is_minded() -> None:
    text = "g (float[N,3,6,8] x, float[2,3,1,1] K) => (float[N,2,6,8] y) { y = Conv(x, K) }"
    pixels = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)
    plain, turned = (
        make_inputs(small_network(text), Options(calibrate=gathered(pixels), input_colour=colour)).values["x"]
        for colour in ("rgb", "bgr")
    )
    np.testing.assert_array_equal(turned[:4], plain[:4, ::-1])
    np.testing.assert_allclose(turned, plain[:, ::-1], rtol=0, atol=2**-22)  # variants of them are made by products


def test_whole_numbers_take_pixels_as_they_are_whatever_is_said_of_their_scale() -> None:
    text = "g (uint8[N,6,8,3] x) => (float[N,6,8,3] y) { y = Cast<to = 1>(x) }"
    pixels = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)
    for options in (Options(), Options(input_mean=0.5, input_std=0.2), Options(input_range=(-1, 1))):
        from dataclasses import replace

        real = make_inputs(small_network(text), replace(options, calibrate=gathered(pixels)))
        assert real.values["x"].dtype == np.uint8
        np.testing.assert_array_equal(real.values["x"][:4], pixels)
        made = make_inputs(small_network(text), options)
        assert made.values["x"].min() < 20
        assert made.values["x"].max() > 235
        assert ("not applied" in made.note) is (options != Options())


def test_two_networks_with_several_inputs_are_compared_on_real_ones(tmp_path: Path) -> None:
    from onnx_udfc import validate

    np.savez(tmp_path / "x.npz", input=INPUT, state=STATE, sr=np.array(3))
    model = recurrent()
    found = validate(model, model, images=tmp_path / "x.npz", seconds=0, memory=False, threads=1)
    assert (found.inputs, found.count) == ("images", 12)
    np.savez(tmp_path / "z.npz", other=INPUT)
    with pytest.raises(RequestError, match="expected an array for input, state, sr"):
        validate(model, model, images=tmp_path / "z.npz", seconds=0, memory=False)


def test_images_of_many_sizes_are_brought_to_one(tmp_path: Path) -> None:
    from PIL import Image

    from onnx_udfc import validate

    text = """g (float[N,3,H,W] x, float[4,3,3,3] K, float[5,4] L) => (float[N,5] y) {
        a = Conv(x, K) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB = 1>(f, L) }"""
    for i in range(9):
        Image.fromarray(RNG.integers(0, 256, (20 + i, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
    model = small_model(text)
    for shape in ((), ("1x3x24x24",)):
        found = validate(model, model, images=tmp_path, input_shape=shape, seconds=0, memory=False, threads=1)
        assert found.count == 9
        result = compress(model, bits=8, calibrate=tmp_path, input_shape=shape, threads=1)
        assert result.report.fidelity.held_out == 4
