"""One size for all that the file leaves open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnx_udfc import compress, inspect, validate
from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.network_inputs import make_inputs, settle_sizes
from onnx_udfc.inputs.real import gathered
from onnx_udfc.inputs.sizes import settle, take_singly, wanted_inputs
from onnx_udfc.model.network import Network, read
from onnx_udfc.options import OptionError, Options
from tests.small_graphs import small_model, small_network

CLASSIFIER = """g (float[N,3,H,W] x, float[8,3,3,3] K, float[5,8] L) => (float[N,5] y) {
    a = Conv<strides = [2,2]>(x, K) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB = 1>(f, L) }"""
FLATTENING = """g (float[N,1,H,W] x, float[4,1,1,1] K, float[5,3136] L) => (float[N,5] y) {
    a = Conv(x, K) f = Flatten(a) y = Gemm<transB = 1>(f, L) }"""
DETECTOR = """g (float[N,3,H,W] x, float[8,3,3,3] K1, float[8,8,3,3] K2, float[8,8,3,3] K3, float[6,8,1,1] K4)
    => (float[N,6,h,w] y) {
    a = Conv<strides = [4,4], pads = [1,1,1,1]>(x, K1) b = Conv<strides = [4,4], pads = [1,1,1,1]>(a, K2)
    c = Conv<strides = [3,3], pads = [1,1,1,1]>(b, K3) y = Conv(c, K4) }"""
LINES = """g (float[N,3,H,W] x, float[8,3,48,4] K) => (float[N,T,20] y) {
    a = Conv<strides = [1,4]>(x, K) s = Squeeze(a, two) t = Transpose<perm = [0,2,1]>(s) z = MatMul(t, M)
    y = Softmax<axis = -1>(z) }"""
SOUND = (
    """g (float[N,L] x, float[4,1,16] K) => (float[N,4,l] y) { u = Unsqueeze(x, one) y = Conv<strides = [8]>(u, K) }"""
)
LAST = """g (float[N,H,W,3] x, float[4,3,3,3] K) => (float[N,4,h,w] y) {
    t = Transpose<perm = [0,3,1,2]>(x) y = Conv(t, K) }"""


# A coarse map is enlarged, joined with a fine one, and made coarser again, as in a feature pyramid.
PYRAMID = """g (float[N,3,H,W] x, float[4,3,4,4] K1, float[4,4,8,8] K2, float[4,8,2,2] K3, float[4,4,2,2] K4)
    => (float[N,4,h,w] y) {
    a = Conv<strides = [4,4]>(x, K1) b = Conv<strides = [8,8]>(a, K2)
    s = Constant<value_floats = [1.0, 1.0, 8.0, 8.0]>() u = Resize(b, , s) c = Concat<axis = 1>(u, a)
    d = Conv<strides = [2,2]>(c, K3) y = Conv<strides = [2,2]>(d, K4) }"""


def network(text: str) -> Network:
    model = small_model(text)
    for name, value in (("two", [2]), ("one", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((8, 20)).astype(np.float32), "M"))
    return read(model)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (CLASSIFIER, (1, 3, 224, 224)),
        (FLATTENING, (1, 1, 28, 28)),
        (DETECTOR, (1, 3, 336, 336)),  # a multiple of 48
        (PYRAMID, (1, 3, 320, 320)),  # a multiple of 32; it was 256, of 128
        (LINES, (1, 3, 48, 320)),
        (LINES.replace("[N,3,H,W]", "[N,3,48,W]"), (1, 3, 48, 320)),
        (LINES.replace("[N,3,H,W]", "[N,3,24,W]").replace("48,4] K", "24,4] K"), (1, 3, 24, 160)),
        (SOUND, (1, 16000)),
        (LAST, (1, 224, 224, 3)),
        (CLASSIFIER.replace("[N,3,H,W]", "[N,3,96,W]"), (1, 3, 96, 224)),
        (CLASSIFIER.replace("[N,3,H,W]", "[2,3,96,128]"), (2, 3, 96, 128)),
    ],
)
def test_sizes_are_guessed_by_the_kind_of_network(text: str, sizes: tuple[int, ...]) -> None:
    found = network(text)
    settle(found)
    assert found.sizes == {"x": sizes}
    assert any("--input-shape" in note for note in found.notes) is any(c in text for c in ("H,", "W]", "L] x"))


@pytest.mark.parametrize(("told", "sides"), [("[640, 480]", (640, 480)), ("384", (384, 384)), ("[1]", (320, 320))])
def test_a_file_that_says_what_it_was_exported_for_is_believed(told: str, sides: tuple[int, int]) -> None:
    model = small_model(PYRAMID)
    model.metadata_props.add(key="imgsz", value=told)
    found = read(model)
    settle(found)
    assert found.sizes == {"x": (1, 3, *sides)}


def test_what_is_asked_for_holds_everywhere_and_the_file_keeps_its_open_axes() -> None:
    model = small_model(CLASSIFIER)
    for asked in ("1x3x40x64", "x=1x3x40x64", "x=7X3X40X64"):
        found = inspect(model, input_shape=asked)
        assert found.size.macs == 8 * 27 * 19 * 31 + 40
        assert not any("--input-shape" in note for note in found.notes)
        result = compress(model, bits=8, input_shape=asked, images=4, threads=1)
        assert result.report.before.macs == found.size.macs
        dims = result.model.graph.input[0].type.tensor_type.shape.dim
        assert [d.dim_value or d.dim_param for d in dims] == ["N", 3, "H", "W"]
    read_network = small_network(CLASSIFIER)
    assert make_inputs(read_network, Options(input_shape="1x3x40x64")).values["x"].shape[1:] == (3, 40, 64)


def test_inspection_and_runs_guess_the_same() -> None:
    model = small_model(DETECTOR)
    result = compress(model, bits=8, threads=1)
    assert result.report.before.macs == inspect(model).size.macs
    assert make_inputs(small_network(DETECTOR), Options()).values["x"].shape[2:] == (336, 336)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("1x3x40", "declares x as ?x3x?x?"),
        ("1x4x40x40", "declares x as"),
        ("z=1x3x40x40", "no input 'z'; there are x"),
        (["1x3x40x40", "x=1x3x40x40"], "given twice"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(asked: str | list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words.replace("?", "[?]")):
        compress(small_model(CLASSIFIER), bits=8, input_shape=asked)


@pytest.mark.parametrize("asked", ["x=", "x=1x3x0x4", "x=1x3x-4x4", "x=1x3xax4", "x=1x3x4.0x4", "1x" + "9" * 30])
def test_a_shape_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(OptionError, match="whole numbers above 0"):
        Options(input_shape=asked)


def test_a_name_is_needed_where_there_are_several_inputs_and_named_axes_are_shared() -> None:
    text = """g (float[N,3,H,W] x, float[N,1,H,W] m) => (float[N,3,H,W] y) { y = Mul(x, m) }"""
    with pytest.raises(RequestError, match="which input"):
        settle(small_network(text), ["1x3x40x40"])
    found = small_network(text)
    settle(found, ["x=1x3x40x48"])
    assert found.sizes == {"x": (1, 3, 40, 48), "m": (1, 1, 40, 48)}


def test_real_inputs_tell_their_size() -> None:
    found = small_network(CLASSIFIER)
    settle_sizes(found, Options(calibrate=gathered(np.zeros((9, 20, 30, 3), np.uint8))))
    assert found.sizes == {"x": (1, 3, 20, 30)}
    settle_sizes(found, Options(calibrate=gathered(np.zeros((9, 3, 24, 30), np.float32))))
    assert found.sizes == {"x": (1, 3, 24, 30)}


def test_channels_last_with_open_sides_are_counted_at_full_height_and_width(shared_cases: Path) -> None:
    assert inspect(shared_cases / "min_nhwc_dyn.onnx").size.macs == 12_644_352


@pytest.fixture
def shared_cases() -> Path:
    folder = Path(__file__).parents[3] / "shared/cases"
    if not folder.exists():
        pytest.skip("no folder of cases")
    return folder


def test_a_network_that_cannot_run_gets_the_first_guess() -> None:
    model = small_model(CLASSIFIER)
    model.graph.node.append(onnx.helper.make_node("Unknown", ["a"], ["b"], domain="custom", name="odd"))
    model.graph.output.append(onnx.ValueInfoProto(name="b"))
    found = read(model)
    settle(found)
    assert found.sizes["x"][0] == 1
    assert found.sizes["x"][2] == found.sizes["x"][3]


CELL = ", float[1,8,24] R, float[1,8,8] S) => (float[T,1,M,8] y)"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("g (float[N,W] x, float[24,8] K) => (float[N,8] y) { y = MatMul(x, K) }", (1, 24)),
        (
            "g (float[N,W] x, float[24] M, float[24,8] K) => (float[N,8] y) "
            "{ c = Sub(x, M) r = Relu(c) y = MatMul(r, K) }",
            (1, 24),
        ),
        ("g (float[N,W] x, float[8,24] K) => (float[N,8] y) { y = Gemm<transB = 1>(x, K) }", (1, 24)),
        ("g (float[N,T,W] x, float[24,8] K) => (float[N,T,8] y) { y = MatMul(x, K) }", (1, 64, 24)),
        # Steps by columns, of which context is cut off: a convolution of one axis as TensorFlow writes it.
        (
            """g (float[N,T,4] x, float[8,4,1,400] K) => (float[N,8,1,M] y) {
            s = Constant<value_ints = [2]>() u = Unsqueeze(x, s) t = Transpose<perm = [0,3,2,1]>(u) y = Conv(t, K) }""",
            (1, 1024, 4),
        ),
        (
            """g (float[N,T,4] x, float[2,4,1,10001] K) => (float[N,2,1,M] y) {
            s = Constant<value_ints = [2]>() u = Unsqueeze(x, s) t = Transpose<perm = [0,3,2,1]>(u) y = Conv(t, K) }""",
            (1, 16384, 4),
        ),
        ("g (float[2,W] x, float[24,8] K) => (float[2,8] y) { y = MatMul(x, K) }", (2, 24)),
        (
            f"g (float[N,T,W] x{CELL} {{ t = Transpose<perm = [1,0,2]>(x) y = RNN<hidden_size = 8>(t, R, S) }}",
            (1, 64, 24),
        ),
        (
            f"g (float[T,W] x{CELL} {{ k = Constant<value_ints = [1]>() u = Unsqueeze(x, k)"
            " y = RNN<hidden_size = 8>(u, R, S) }",
            (1, 24),
        ),
        (f"g (float[seq,batch,W] x{CELL} {{ y = RNN<hidden_size = 8>(x, R, S) }}", (64, 1, 24)),
        # As long as the widest convolution spans: taps 64 apart would meet nothing but padding in 64 steps.
        (
            """g (float[N,6,T] x, float[8,6,5] K, float[8,8,3] L) => (float[N,8,M] y) {
            a = Conv<dilations = [64], pads = [128, 128]>(x, K) y = Conv<pads = [1, 1]>(a, L) }""",
            (1, 6, 1024),
        ),
        (
            """g (float[N,6,T] x, float[8,6,5] K, float[8,8,3] L) => (float[N,8,M] y) {
            a = Conv<strides = [4], pads = [2, 2]>(x, K) y = Conv<dilations = [8], pads = [8, 8]>(a, L) }""",
            (1, 6, 256),
        ),
        (
            """g (float[N,6,T] x, float[8,6,5] K, float[8,8,3] L) => (float[N,8,M] y) {
            a = Conv<strides = [4], pads = [2, 2]>(x, K) y = Conv<pads = [1, 1]>(a, L) }""",
            (1, 6, 64),
        ),
        (
            """g (float[N,6,T] x, float[8,6,5] K, float[8,8,4] U, float[8,8,3] L) => (float[N,8,M] y) {
            a = Conv<strides = [4], pads = [2, 2]>(x, K) u = ConvTranspose<strides = [4]>(a, U)
            y = Conv<dilations = [10], pads = [10, 10]>(u, L) }""",
            (1, 6, 64),
        ),
    ],
)
def test_a_row_is_as_wide_as_what_reads_it(text: str, shape: tuple[int, ...]) -> None:
    found = small_network(text)
    settle(found)
    assert found.sizes == {"x": shape}


@pytest.mark.parametrize("declared", ["int32[N] n", "int64[N] n"])
@pytest.mark.parametrize("sizes", ["N,T,24", "N,40,24", "4,40,24", "N,T,W"])
def test_recurrent_layers_read_all_steps_of_sequences(declared: str, sizes: str) -> None:
    cell = CELL.replace(") =>", f", {declared}) =>").replace("N]", "4]" if sizes[0] == "4" else "N]")
    model = small_model(
        f"g (float[{sizes}] x{cell} {{ t = Transpose<perm = [1,0,2]>(x) c = Cast<to = 6>(n)"
        " y = RNN<hidden_size = 8>(t, R, S, , c) }"
    )
    (_, lengths), steps = wanted_inputs(read(model)), 40 if "40" in sizes else 64
    assert (lengths.kind, lengths.side) == ("length", (steps,))


def test_sequences_whose_samples_come_second_are_run_with_the_states_that_they_begin_with() -> None:
    model = small_model(
        "g (float[seq,batch,24] x, float[1,batch,8] h, float[1,8,24] R, float[1,8,8] S)"
        " => (float[seq,1,batch,8] y, float[1,batch,8] hn) { y, hn = RNN<hidden_size = 8>(x, R, S, , , h) }"
    )
    result = compress(model, bits=8, images=64, threads=1)
    assert any("x 64x1x24" in note for note in result.report.runtime.notes)
    assert any("h is what hn was" in note for note in result.report.runtime.notes)


def test_sizes_with_which_nothing_runs_are_refused_in_one_line() -> None:
    text = """g (float[N,W] x, float[8,4] K) => (float[N,4] y) {
        s = Constant<value = int64[2] {-1, 184}>() r = Reshape(x, s) c = Constant<value = int64[2] {-1, 8}>()
        t = Reshape(r, c) y = MatMul(t, K) }"""
    with pytest.raises(RequestError, match=r"not run with those that were tried \(x 1x64, ...\); say input_shape"):
        compress(small_model(text), prune=0.5, bits=4, force=True, threads=1)
    compress(small_model(text), bits=4, force=True, input_shape="1x184", threads=1)


BRANCHES = """g (float[N,L] x, int64 sr) => (float[N,M] y) {
    e = Equal(sr, rate16)
    y = If(e) <then_branch = t () => (float[N,M] p) { p = Reshape(x, shape16) },
               else_branch = f () => (float[N,M] q) { o = Equal(sr, rate8) c = Cast<to = 1>(o) q = Mul(x, c) }> }"""


def test_a_value_that_selects_a_branch_is_one_with_which_the_network_runs() -> None:
    model = small_model(BRANCHES.replace("[N,L]", "[N,20]"))
    for name, value in (("rate16", 16000), ("rate8", 8000), ("shape16", [-1, 16000])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    found = read(model)
    settle(found)
    made = make_inputs(found, Options(image_count=16)).values
    assert np.unique(made["sr"]).tolist() == [8000]


def test_a_row_that_only_branches_read_is_as_long_as_a_sound_if_a_short_one_does_not_run() -> None:
    model = small_model("""g (float[N,L] x, int64 sr) => (float[N,1,M] y) {
        e = Equal(sr, rate)
        y = If(e) <then_branch = t () => (float[N,1,M] p) { u = Unsqueeze(x, one) p = Conv(u, K) },
                   else_branch = f () => (float[N,1,M] q) { v = Unsqueeze(x, one) q = Conv(v, K) }> }""")
    kernel = np.ones((1, 1, 100), np.float32)
    for name, value in (("rate", np.array(16000)), ("one", np.array([1])), ("K", kernel)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    found = read(model)
    settle(found)
    assert found.sizes["x"] == (1, 16000)


@pytest.mark.parametrize(("name", "length"), [("audio", 16000), ("wav_in", 16000), ("rows", 64)])
def test_an_open_row_of_numbers_that_is_called_a_sound_is_a_second_of_it(name: str, length: int) -> None:
    found = small_network(f"g (float[N,L] {name}) => (float[N,1] y) {{ y = ReduceMean<keepdims = 1>({name}) }}")
    (wanted,) = wanted_inputs(found)
    assert (wanted.shape, wanted.kind) == ((1, length), "features" if length == 64 else "signal")


TRACED = """g (float[N,6] x, float[8,6] W1, float[8] B1, float[4,8] W2) => (float[N,4] y) {
    a = Gemm<transB = 1>(x, W1, B1) r = Relu(a) s = Constant<value_ints = [1,2,4]>() t = Reshape(r, s)
    n = Constant<value_ints = [1,8]>() u = Reshape(t, n) y = Gemm<transB = 1>(u, W2) }"""


def test_a_network_that_takes_one_input_at_a_time_is_run_so(tmp_path: Path) -> None:
    model = small_model(TRACED)
    onnx.save(model, tmp_path / "in.onnx")
    found = compress(model, bits=8, threads=1, force=True)
    assert any("one input at a time" in note for note in found.report.runtime.notes)
    assert found.report.fidelity.sqnr_db is not None
    assert found.report.fidelity.sqnr_db > 20
    assert found.model.graph.input[0] == model.graph.input[0]
    found.save(tmp_path / "out.onnx")
    validated = validate(tmp_path / "in.onnx", tmp_path / "out.onnx", seconds=0)
    assert validated.sqnr_db is not None
    network = small_network(TRACED)
    assert take_singly(network)
    assert not take_singly(network)
    assert not take_singly(small_network(CLASSIFIER))


SPECTRA = """g (float[T,F] x, float[8,1,5,3] W1, float[8] B1, float[12,8,3,3] W2, float[5,12,1,1] W3)
    => (float[a,b,c] y) {
    front = Constant<value = int64[2] {0, 1}>() first = Constant<value = int64[1] {0}>() p = Unsqueeze(x, front)
    a = Conv(p, W1, B1) r = Relu(a) b = Conv(r, W2) s = Relu(b) d = Conv(s, W3) y = Squeeze(d, first) }"""


def test_steps_of_which_the_graph_itself_makes_one_sample(tmp_path: Path) -> None:
    """A file without an axis of samples: of the first axis' one step at a time no convolution can be run."""
    model = small_model(SPECTRA)
    assert compress(model, prune=0.5).report.fidelity.unmeasured == ""
    result = compress(model, prune=0.5, input_shape="24x20")
    assert result.report.after.macs < 0.6 * result.report.before.macs
    assert result.model.graph.input[0] == model.graph.input[0]
    session = onnxruntime.InferenceSession(result.model.SerializeToString())
    assert session.run(None, {"x": np.ones((40, 30), np.float32)})[0].shape == (5, 34, 26)
    real = np.random.default_rng(0).normal(size=(16, 24, 20)).astype(np.float32)
    told = compress(model, bits=8, input_shape="24x20", calibrate=real)
    assert told.report.fidelity.inputs == "calibration"
    onnx.save(model, tmp_path / "in.onnx")
    told.save(tmp_path / "out.onnx")
    np.save(tmp_path / "x.npy", real)
    found = validate(
        tmp_path / "in.onnx", tmp_path / "out.onnx", images=tmp_path / "x.npy", input_shape="24x20", seconds=0
    )
    assert (found.count, (found.sqnr_db or 0) > 20) == (16, True)


def test_three_axes_that_the_graph_turns_into_a_picture_are_no_line_of_text() -> None:
    network = small_network("""g (float[T,F,C] x, float[8,3,1,1] W1) => (float[a,b,c,d] y) {
        front = Constant<value = int64[1] {0}>() p = Unsqueeze(x, front)
        t = Transpose<perm = [0,3,1,2]>(p) y = Conv(t, W1) }""")
    settle_sizes(network, Options())
    assert network.sizes
