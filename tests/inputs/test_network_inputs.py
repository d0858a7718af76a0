from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.choice import Choice
from onnx_udfc.inputs.how_many import LEAST, MOST, image_count
from onnx_udfc.inputs.kinds import Wanted
from onnx_udfc.inputs.network_inputs import MATCHED_LINES, NetworkInputs, batch_of, hold_out, likeness, make_inputs
from onnx_udfc.inputs.scale import RAW, UNIT, guess_scaling, in_doubt
from onnx_udfc.inputs.sizes import input_specs_of, wanted_inputs
from onnx_udfc.inputs.stem import Stem, stem_of
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.images import InputScaling, synthetic_images
from onnx_udfc.options import Options
from tests.normed_graphs import norm, parameter, scaled_model, settled, with_parameters
from tests.small_graphs import small_network

FIRST = f"""g (float[N,3,32,32] x, float[16,3,3,3] W1, {norm("1", 16)}, float[4,16,1,1] W2) => (float[N,4,30,30] y) {{
    a = Conv(x, W1) b = BatchNormalization(a, S1, D1, M1, V1) r = Relu(b) y = Conv(r, W2) }}"""
PLAIN = """g (float[N,3,H,W] x, float[16,3,3,3] W1, float[16] B1) => (float[N,16,h,w] y) { y = Conv(x, W1, B1) }"""


def identity(declared: str) -> Network:
    """A network that does nothing with these inputs."""
    names = [part.split()[-1] for part in declared.split(", ")]
    body = " ".join(f"y{i} = Identity({name})" for i, name in enumerate(names))
    outputs = ", ".join(f"{part.split('[')[0].split()[0]}[] y{i}" for i, part in enumerate(declared.split(", ")))
    return small_network(f"g ({declared}) => ({outputs}) {{ {body} }}")


def test_specs_are_the_declared_inputs() -> None:
    specs = input_specs_of(identity("float[N,3,8,9] x, int64[2,5] i, uint8[1,4,4,3] p, float16[H] h"))
    assert [(s.name, s.shape, s.dtype) for s in specs] == [
        ("x", (None, 3, 8, 9), np.dtype(np.float32)),
        ("i", (2, 5), np.dtype(np.int64)),
        ("p", (1, 4, 4, 3), np.dtype(np.uint8)),
        ("h", (None,), np.dtype(np.float16)),
    ]


def test_text_cannot_be_made_up() -> None:
    with pytest.raises(RequestError, match="'words'") as caught:
        input_specs_of(identity("float[N,4] x, string[N] words"))
    assert "\n" not in str(caught.value)


KINDS = [
    ("float[N,3,20,24] x", (3, 20, 24), np.float32),
    ("float[2,3,20,24] x", (3, 20, 24), np.float32),
    ("float[N,3,H,W] x", (3, 224, 224), np.float32),
    ("float[N,20,24,3] x", (20, 24, 3), np.float32),
    ("float16[N,1,20,24] x", (1, 20, 24), np.float16),
    ("double[N,3,20,24] x", (3, 20, 24), np.float64),
    ("float[N,6,100] x", (6, 100), np.float32),
    ("float[N,2,6,7,8] x", (2, 6, 7, 8), np.float32),
    ("float[N,40] x", (40,), np.float32),
    ("int64[N,12] x", (12,), np.int64),
    ("bool[N,12] x", (12,), np.bool_),
    ("uint8[N,20,24,3] x", (20, 24, 3), np.uint8),
    ("uint8[N,3,20,24] x", (3, 20, 24), np.uint8),
]


@pytest.mark.parametrize(("declared", "shape", "dtype"), KINDS)
def test_every_kind_of_input_gets_values(declared: str, shape: tuple[int, ...], dtype: type) -> None:
    made = make_inputs(identity(declared), Options())
    (value,) = made.values.values()
    assert made.source == "synthetic"
    assert value.shape[1:] == shape
    assert value.dtype == dtype
    assert np.isfinite(value.astype(np.float64)).all()
    assert LEAST <= batch_of(identity(declared), made.values) <= MOST
    assert len(np.unique(value)) > 1


def test_several_inputs_have_the_same_number_of_samples() -> None:
    made = make_inputs(identity("float[N,3,16,16] x, float[N,5] z, int64[N] i"), Options())
    assert set(made.values) == {"x", "z", "i"}
    assert len({len(v) for v in made.values.values()}) == 1


def test_uint8_images_are_pixels() -> None:
    (value,) = make_inputs(identity("uint8[N,32,32,3] x"), Options()).values.values()
    assert 90 < value.mean() < 150
    assert value.min() < 20
    assert value.max() > 235


def test_large_images_are_few() -> None:
    few, many = (image_count(wanted_inputs(identity(f"float[N,3,{n},{n}] x"))) for n in (512, 32))
    assert LEAST <= few < many <= MOST
    assert image_count(wanted_inputs(identity("int64[N] i"))) == MOST


def test_the_seed_alone_decides() -> None:
    network = small_network(PLAIN)
    first, again = (make_inputs(network, Options(seed=3)).values["x"] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, make_inputs(network, Options(seed=4)).values["x"])
    assert not np.array_equal(first, make_inputs(network, Options(seed=3), 1000).values["x"])


def test_the_number_of_images_is_the_users() -> None:
    assert len(make_inputs(small_network(PLAIN), Options(images=5)).values["x"]) == 5


def test_what_was_assumed_is_said_and_what_was_told_is_not() -> None:
    network = small_network(PLAIN)
    assert "--input-mean" in make_inputs(network, Options()).note
    told = make_inputs(network, Options(input_mean=(0.5,), input_std=(0.25,)))
    assert told.note == ""


def test_told_preprocessing_is_that_of_pixels() -> None:
    """Values are (pixel / 255 - mean) / std of whole pixels."""
    options = Options(input_mean=(0.4, 0.5, 0.6), input_std=(0.2, 0.25, 0.5))
    x = make_inputs(small_network(PLAIN), options).values["x"].astype(np.float64)
    pixels = (x * np.reshape(options.input_std, (3, 1, 1)) + np.reshape(options.input_mean, (3, 1, 1))) * 255
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
    assert pixels.min() > -0.5
    assert pixels.max() < 255.5
    raw = make_inputs(small_network(PLAIN), Options(input_range=(0, 255))).values["x"]
    assert np.array_equal(raw, np.rint(raw))


def guessed(network: Network) -> tuple[InputScaling, str]:
    wanted = wanted_inputs(network)[0]
    return guess_scaling(network, wanted, stem_of(network, wanted))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.25), (118.0, 64.0), (-1.0, 3.0)])
def test_the_scale_is_read_off_the_first_batch_norm(mean: float, std: float) -> None:
    x = InputScaling((mean,), (std,)).apply(synthetic_images(64, 3, (32, 32), seed=77))
    network = read(settled(scaled_model(FIRST), {"x": x}))
    scaling, note = guessed(network)
    assert 0.7 * std < scaling.std[0] < 1.4 * std
    assert np.abs(np.subtract(scaling.mean, mean)).max() < std
    assert "batch norm" in note


@pytest.mark.parametrize(
    ("between", "told"),
    [
        ("q = Relu(a)", True),
        ("q = InstanceNormalization(a, S0, D0)", False),
        ("p = Mul(a, a) e = ReduceMean<keepdims = 1>(p) d = Sqrt(e) q = Div(a, d)", False),  # a norm in single steps
    ],
)
def test_a_batch_norm_behind_another_norm_tells_no_scale(between: str, told: bool) -> None:
    """As in the decoder behind a vision transformer: any scale gives about the same there."""
    given = (
        f"""float[N,3,32,32] x, float[16,3,3,3] W1, {norm("1", 16)}, float[16] S0, float[16] D0, float[4,16,1,1] W2"""
    )
    text = f"""g ({given}) => (float[N,4,30,30] y) {{
        a = Conv(x, W1) {between} b = BatchNormalization(q, S1, D1, M1, V1) r = Relu(b) y = Conv(r, W2) }}"""
    x = (64 * synthetic_images(64, 3, (32, 32), seed=77)).astype(np.float32)
    network = read(settled(scaled_model(text), {"x": x}))
    assert (network.first_norm() is not None) == told
    assert ("batch norm" in guessed(network)[1]) == told


HALF = "m = Constant<value = float[1,3,1,1] {0.48, 0.45, 0.4}>() d = Constant<value = float[1,3,1,1] {0.2, 0.2, 0.2}>()"
OWN = "d = Constant<value = float[1,3,1,1] {0.014, 0.019, 0.015}>() m = Constant<value = float[1,3,1,1] {-4, -2, -1}>()"
FULL = "m = Constant<value = float[1,3,1,1] {123, 116, 103}>() d = Constant<value = float[1,3,1,1] {58, 57, 57}>()"


@pytest.mark.parametrize(
    ("before", "words", "high"),
    [
        (HALF + " s = Sub(x, m) p = Div(s, d)", "pixels from 0 to 1", 1.0),
        (FULL + " s = Sub(x, m) p = Div(s, d)", "raw pixels", 255.0),
        ("c = Constant<value_float = 255.0>() p = Div(x, c)", "raw pixels", 255.0),
        (
            "c = Constant<value_float = 2.0>() o = Constant<value_float = 1.0>() t = Mul(x, c) p = Sub(t, o)",
            "from 0 to 1",
            1.0,
        ),
        (FULL + " p = Sub(x, m)", "raw pixels", 255.0),
        (OWN + " s = Mul(x, d) p = Add(s, m)", "raw pixels", 255.0),
        ("c = Constant<value_float = 1.0>() p = Mul(x, c)", "normalized", np.inf),
        ("c = Constant<value_float = 1e6>() p = Mul(x, c)", "normalized", np.inf),
    ],
)
def test_a_graph_that_scales_its_pictures_itself_says_what_it_expects(before: str, words: str, high: float) -> None:
    text = f"""g (float[N,3,32,32] x, float[16,3,3,3] W1, float[16] B1) => (float[N,16,30,30] y) {{
        {before} y = Conv(p, W1, B1) }}"""
    scaling, note = guessed(small_network(text))
    assert words in note
    assert scaling.high == high


def test_a_graph_that_scales_its_pictures_to_nothing_usual_leaves_the_scale_in_doubt() -> None:
    text = """g (float[N,3,32,32] x, float[16,3,3,3] W1, float[16] B1) => (float[N,16,30,30] y) {
        c = Constant<value_float = 1e6>() s = Constant<value_float = 5e6>()
        p = Mul(x, c) q = Conv(p, W1) y = Add(q, s) }"""
    network = small_network(text)
    wanted = wanted_inputs(network)[0]
    assert in_doubt(stem_of(network, wanted), wanted)


NHWC = FIRST.replace("float[N,3,32,32] x", "float[N,32,32,3] x").replace(
    "a = Conv(x, W1)", "t = Transpose<perm = [0,3,1,2]>(x) a = Conv(t, W1)"
)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.25), (118.0, 64.0)])
def test_the_scale_is_read_off_a_batch_norm_behind_a_change_of_layout(mean: float, std: float) -> None:
    x = InputScaling((mean,), (std,)).apply(synthetic_images(64, 3, (32, 32), seed=77))
    network = read(settled(scaled_model(NHWC), {"x": np.moveaxis(x, 1, -1)}))
    scaling, note = guessed(network)
    assert 0.7 * std < scaling.std[0] < 1.4 * std
    assert np.abs(np.subtract(scaling.mean, mean)).max() < std
    assert "batch norm" in note


@pytest.mark.parametrize("side", [(24, 20), (76, 32), (24, 1)])
def test_one_channel_that_a_reshape_brings_to_the_front_was_the_last(side: tuple[int, int]) -> None:
    height, width = side
    text = f"""g (float[N,{height},{width},1] x, float[8,1,1,1] W1) => (float[N,8,{height},{width}] y) {{
        s = Constant<value_ints = [-1,1,{height},{width}]>() t = Reshape(x, s) y = Conv(t, W1) }}"""
    (wanted,) = wanted_inputs(small_network(text))
    assert wanted.channels_last
    assert (wanted.channels, wanted.size) == (1, side)


def test_a_spectrum_that_a_convolution_of_two_axes_reads_is_a_picture_of_one_channel() -> None:
    text = """g (float[N,40,36] x, float[8,1,3,3] W1) => (float[N,8,38,34] y) {
        a = Constant<value_ints = [1]>() u = Unsqueeze(x, a) y = Conv(u, W1) }"""
    network = small_network(text)
    (wanted,) = wanted_inputs(network)
    assert (wanted.channels, wanted.size) == (1, (40, 36))
    values = make_inputs(network, Options()).values["x"]
    assert values.shape[1:] == (40, 36)
    rows, below = values[:, :-1].ravel(), values[:, 1:].ravel()
    assert np.corrcoef(rows, below)[0, 1] > 0.5


POOLED = f"""g (float[N,3,32,32] x, float[16,3,3,3] W1, {norm("1", 16)}, float[4,16,1,1] W2) => (float[N,4,15,15] y) {{
    a = Conv(x, W1) r = Relu(a) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
    n = BatchNormalization(p, S1, D1, M1, V1) y = Conv(n, W2) }}"""


@pytest.mark.parametrize(("mean", "std", "words"), [(0.46, 0.25, "from 0 to 1"), (118.0, 64.0, "raw"), (0.0, 1.0, "")])
def test_a_batch_norm_behind_activation_and_pooling_tells_the_usual_scale(mean: float, std: float, words: str) -> None:
    x = InputScaling((mean,), (std,)).apply(synthetic_images(32, 3, (32, 32), seed=77))
    network = read(settled(scaled_model(POOLED), {"x": x}))
    scaling, note = guessed(network)
    assert ("batch norm" in note) is bool(words)
    assert words in note
    assert scaling == {0.46: UNIT, 118.0: RAW, 0.0: InputScaling()}[mean]


def test_a_first_layer_behind_squares_of_pixels_may_drown_in_its_biases() -> None:
    ends = [(dy, dx) for dy in (0, 1) for dx in (0, 1)]
    slices = " ".join(
        f"b{i} = Constant<value_ints = [{dy}, {dx}]>() s{i} = Slice(x, b{i}, e, a, t)"
        for i, (dy, dx) in enumerate(ends)
    )
    text = f"""g (float[1,3,32,32] x, float[16,12,3,3] W1, float[16] B1) => (float[1,16,14,14] y) {{
        e = Constant<value_ints = [32, 32]>() a = Constant<value_ints = [2, 3]>() t = Constant<value_ints = [2, 2]>()
        {slices} p = Concat<axis = 1>(s0, s1, s2, s3) y = Conv(p, W1, B1) }}"""
    model = scaled_model(text)
    small = {"W1": parameter(model, "W1") / 200, "B1": np.linspace(-2, 2, 16)}
    assert guessed(read(model))[0].high == np.inf
    assert guessed(read(with_parameters(model, small)))[0].high == 255


DETECTOR = """g (float[1,3,64,64] x, float[16,3,3,3] W1, float[16] B1, float[7,16,1,1] W2) => (float[1,7,1024] y) {
    a = Conv<strides = [2,2], pads = [1,1,1,1]>(x, W1, B1) r = Relu(a) h = Conv(r, W2)
    n = Constant<value_ints = [1, 7, 1024]>() f = Reshape(h, n) k = Constant<value_ints = [4, 3]>()
    b, c = Split<axis = 1>(f, k) s = Sigmoid(c) g = Constant<value_float = 64.0>() u = Sigmoid(b) v = Mul(u, g)
    y = Concat<axis = 1>(v, s) }"""


@pytest.mark.parametrize(("bias", "unit"), [(0.05, True), (4.0, False)])
def test_a_detector_whose_first_biases_are_small_expects_pixels_from_0_to_1(bias: float, unit: bool) -> None:
    filters = parameter(scaled_model(DETECTOR), "W1")
    edges = filters - 0.7 * filters.mean((1, 2, 3), keepdims=True)  # as trained ones mostly are
    model = with_parameters(scaled_model(DETECTOR), {"W1": edges, "B1": np.full(16, bias)})
    scaling, note = guessed(read(model))
    assert ("pixels from 0 to 1" in note, scaling.high == 1) == (unit, unit)
    plain = with_parameters(scaled_model(PLAIN), {"B1": np.full(16, bias)})
    assert guessed(read(plain))[0] == InputScaling()  # it gives no boxes


def test_a_declared_input_of_other_channels_than_its_first_layer_has_no_scale_of_theirs() -> None:
    network = small_network(FIRST.replace("N,3,32,32", "N,7,32,32"))
    scaling, note = guessed(network)
    assert (scaling, note.split(" (")[0]) == (InputScaling(), "input assumed normalized")
    assert scaling.apply(np.zeros((1, 7, 32, 32), np.float32)).shape == (1, 7, 32, 32)


def test_batch_norm_that_says_nothing_gives_finite_values() -> None:
    model = scaled_model(FIRST)
    for silent in (("W1", "S1", "V1"), ("V1",)):
        values = {name: np.zeros(parameter(model, name).shape) for name in silent}
        made = make_inputs(read(with_parameters(model, values)), Options())
        assert np.isfinite(made.values["x"]).all()


def test_a_first_layer_that_drowns_in_its_biases_expects_pixels() -> None:
    model = scaled_model(PLAIN)
    small = with_parameters(model, {"W1": parameter(model, "W1") / 60, "B1": np.linspace(-2, 2, 16)})
    for candidate, pixels in ((model, False), (small, True)):
        made = make_inputs(read(candidate), Options())
        assert ("raw pixels" in made.note) is pixels
        assert bool(made.values["x"].max() > 100) is pixels


def test_of_two_first_layers_that_read_the_same_the_wider_one_tells_the_scale() -> None:
    text = """g (float[N,3,32,32] x, float[4,3,3,3] W0, float[16,3,3,3] W1, float[16] B1, float[4,16,1,1] W2)
        => (float[N,4,30,30] y) { p = Conv(x, W0) t = Tanh(p) a = Conv(x, W1, B1) r = Relu(a) b = Conv(r, W2)
        y = Add(t, b) }"""
    model = scaled_model(text)
    small = with_parameters(model, {"W1": parameter(model, "W1") / 60, "B1": np.linspace(-2, 2, 16)})
    assert "raw pixels" not in make_inputs(read(model), Options()).note
    assert "raw pixels" in make_inputs(read(small), Options()).note


def test_steps_count_whichever_axis_they_lie_on() -> None:
    """Four columns by 16,384 steps were taken for four pixels, and 640 such inputs made."""
    long = "float[N,16384,4] x) => (float[N,4,16384] y) { y = Transpose<perm = [0,2,1]>(x)"
    flat = "float[N,4,16384] x) => (float[N,16384,4] y) { y = Transpose<perm = [0,2,1]>(x)"
    counts = [image_count(wanted_inputs(small_network(f"g ({text} }}")), 640) for text in (long, flat)]
    assert counts == [97, 97]


def digits(folder: Path, count: int) -> Path:
    path = folder / "data.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8))
    return path


CLASSIFIER = """g (float[N,3,32,32] x, float[16,3,5,5] W1, float[10,16] W2) => (float[N,10] y) {
    a = Conv<strides = [4,4]>(x, W1) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) z = Gemm<transB = 1>(f, W2)
    y = Softmax(z) }"""


@pytest.mark.parametrize("batch", ["N", "1", "5"])  # two scales of 8 images do not fill batches of 5
@pytest.mark.parametrize(("gain", "pixels"), [(1.0, False), (1 / 64, True), (1e-9, False)])
def test_a_classifier_that_tells_only_pixels_apart_expects_pixels(gain: float, pixels: bool, batch: str) -> None:
    network = small_network(CLASSIFIER.replace("[N,", f"[{batch},"))
    first, last = network.layers.values()
    first.set(np.sign(first.matrix()) * gain, first.bias)
    last.set(np.sign(last.matrix()), last.bias)
    scaling, note = guessed(network)
    assert ("less their mean" in note) is pixels
    assert scaling.std == ((64.0,) if pixels else (1.0,))
    assert make_inputs(network, Options(image_count=8)).scale_is_assumed  # weights that were never trained look so, too


def test_real_images_take_the_place_of_synthetic_ones(tmp_path: Path) -> None:
    path = digits(tmp_path, 20)
    options = Options(calibrate=str(path), input_mean=(0.5,), input_std=(0.25,))
    fitted, judged = (make_inputs(small_network(PLAIN), options, offset) for offset in (0, 1000))
    assert (fitted.source, fitted.held_out) == ("calibration", 5)
    with np.load(path) as data:
        expected = ((data["x"].transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
    together = np.concatenate([fitted.values["x"][:15], judged.values["x"]])  # after them come variants
    assert len(together) == 20
    order = [int(np.abs(together - x).max((1, 2, 3)).argmin()) for x in expected]
    assert sorted(order) == list(range(20))
    np.testing.assert_allclose(together[order], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("samples", "held"), [(4, 0), (7, 0), (8, 4), (9, 4), (24, 6), (32, 8), (200, 50)])
def test_a_quarter_of_the_real_inputs_is_only_judged_on(samples: int, held: int) -> None:
    fit, judge = hold_out(samples, seed=3)
    assert len(judge) == held
    assert sorted([*fit, *judge]) == list(range(samples))
    assert len(fit) + len(judge) == samples
    if held >= 6:  # one of every few neighbours
        assert np.diff(judge).max() <= 2 * samples // held + 1


def test_too_few_real_inputs_are_fitted_and_judged_on_and_that_is_said(tmp_path: Path) -> None:
    options = Options(calibrate=str(digits(tmp_path, 7)))
    fitted, judged = (make_inputs(small_network(PLAIN), options, offset) for offset in (0, 1000))
    assert len(judged.values["x"]) == 7
    assert np.array_equal(fitted.values["x"][:7], judged.values["x"])
    assert judged.held_out == 0
    assert "too few" in judged.note


def test_real_inputs_are_as_many_as_are_asked_for_and_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(40, dtype=np.float32).reshape(40, 1, 1, 1) * np.ones((1, 3, 4, 4), np.float32))
    fitted, judged = (
        make_inputs(small_network(PLAIN), Options(calibrate=str(path), images=15), offset).values["x"][:, 0, 0, 0]
        for offset in (0, 1000)
    )
    assert (len(fitted), len(judged)) == (15, 5)
    assert max(*fitted, *judged) == 39
    assert min(*fitted, *judged) == 0


def test_arrays_of_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    made = make_inputs(small_network(PLAIN), Options(calibrate=str(tmp_path / "x.npy")))
    judged = make_inputs(small_network(PLAIN), Options(calibrate=str(tmp_path / "x.npy")), 1000)
    rows = {row.tobytes() for row in np.concatenate([made.values["x"][:5], judged.values["x"]])}
    assert rows == {row.tobytes() for row in x}


def test_real_images_fit_a_fixed_batch(tmp_path: Path) -> None:
    text = PLAIN.replace("[N,3,H,W]", "[4,3,32,32]").replace("[N,16,h,w]", "[4,16,30,30]")
    for number, judged in ((3, 4), (6, 6), (9, 4)):
        options = Options(calibrate=str(digits(tmp_path, number)))
        counts = [len(make_inputs(small_network(text), options, offset).values["x"]) for offset in (0, 1000)]
        assert counts == [160, judged]  # with variants


def test_no_images_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError) as caught:
        make_inputs(small_network(PLAIN), Options(calibrate=str(tmp_path / "empty")))
    assert "\n" not in str(caught.value)


def test_two_inputs_cannot_be_calibrated_with_images(tmp_path: Path) -> None:
    network = identity("float[N,3,32,32] left, float[N,3,32,32] right")
    with pytest.raises(RequestError, match="left, right"):
        make_inputs(network, Options(calibrate=str(digits(tmp_path, 4))))


def test_the_number_of_samples_is_that_of_the_inputs_with_axes() -> None:
    network = identity("float a, float[N,2] b, float[2,N,3] c")
    assert batch_of(network, {"a": np.zeros(()), "b": np.zeros((7, 2)), "c": np.zeros((2, 7, 3))}) == 7
    assert batch_of(identity("float a"), {"a": np.zeros(())}) == 1


def test_the_scale_is_guessed_once_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Network, tuple[int, ...]]] = []

    def guess(network: Network, wanted: Wanted, _stem: Stem | None) -> tuple[InputScaling, str]:
        asked.append((network, wanted.shape))
        return InputScaling((2.0,), (3.0,)), "a guess"

    monkeypatch.setattr("onnx_udfc.inputs.network_inputs.guess_scaling", guess)
    network, other = (small_network(PLAIN) for _ in range(2))
    first, second = make_inputs(network, Options()), make_inputs(network, Options(), 1)
    assert first.note == second.note == "a guess"
    sizes = len(asked)  # of those that were tried
    assert sizes == len(set(asked)) > 0
    make_inputs(other, Options())
    assert len(asked) == len(set(asked)) == 2 * sizes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_real_inputs_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    x = np.random.default_rng(0).standard_normal((10, 3, 4, 4)).astype(np.float32)
    x[3, 1, 2, 0] = value
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(RequestError, match="not finite"):
        make_inputs(small_network(PLAIN), Options(calibrate=str(tmp_path / "x.npy")))


SCORES = """g (float[N,3,32,32] x, float[16,3,3,3] W1, float[CLASSES,16] W2) => (float[N,CLASSES] y) {
    a = Conv(x, W1) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB = 1>(f, W2) }"""


def test_inputs_are_like_what_a_network_knows_where_its_norms_or_its_classes_say_so(tmp_path: Path) -> None:
    few, many = (small_network(SCORES.replace("CLASSES", str(classes))) for classes in (10, 200))
    asked = [(few, "alike"), (many, "foreign"), (small_network(FIRST), "alike"), (small_network(PLAIN), "foreign")]
    for network, expected in asked:
        assert likeness(network, make_inputs(network, Options(threads=1))) == expected
    real = make_inputs(few, Options(calibrate=str(digits(tmp_path, 20))))
    assert likeness(few, real) == "real"


@pytest.mark.parametrize(
    ("kinds", "shape", "source", "share"),
    [
        (("text", "Chinese text"), (4, 3, 48, 320), "synthetic", MATCHED_LINES),
        (("text",), (4, 48, 320, 3), "synthetic", MATCHED_LINES),
        (("text", "turned text"), (4, 3, 48, 192), "synthetic", 1.0),  # told apart, not read
        (("text",), (4, 3, 320, 320), "synthetic", 1.0),  # scenes
        (("photographs",), (4, 3, 48, 320), "synthetic", 1.0),
        (("text",), (4, 3, 48, 320), "calibration", 0.0),
    ],
)
def test_batch_norms_of_readers_are_matched_half_way(
    kinds: tuple[str, ...], shape: tuple[int, ...], source: Literal["synthetic", "calibration"], share: float
) -> None:
    values = {"x": np.zeros(shape, np.float32)}
    assert NetworkInputs(values, source, choices=(Choice("x", kinds, {}),)).matched == share
    assert NetworkInputs(values, source).matched == (0.0 if source == "calibration" else 1.0)
