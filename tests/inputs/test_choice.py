"""The network chooses which made-up inputs it is run on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_udfc import inspect
from onnx_udfc.inputs.choice import LEAST, _thinned, best, choose, fitting
from onnx_udfc.inputs.how_many import image_count
from onnx_udfc.inputs.kinds import Wanted, _shares, made
from onnx_udfc.inputs.network_inputs import make_inputs, settle_sizes
from onnx_udfc.inputs.photographs import stored
from onnx_udfc.inputs.reaction import Symbols, symbols
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.inputs.sources import CODES, GROUPS, PICTURES, SCRIPTS, SIGNALS, fitting_codes, fitting_pictures
from onnx_udfc.inputs.uses import Use
from onnx_udfc.model.network import read
from onnx_udfc.numerics.images import synthetic_images
from onnx_udfc.options import Options
from onnx_udfc.runtime.runs import InputSpec
from tests.flavours import FLAVOURS


def _sure(count: int, classes: int, share: float) -> list[np.ndarray]:
    """Answers that name `classes` classes in turn, each with a share of certainty."""
    p = np.full((count, 8), (1 - share) / 8)
    p[np.arange(count), np.arange(count) % classes] += share
    return [p]


def test_photographs_stay_unless_another_kind_moves_the_network_clearly_more() -> None:
    photographs = _sure(16, 4, 0.6)
    chosen, rated = best({"photographs": photographs, "text": _sure(16, 4, 0.7)})
    assert chosen == ("photographs",)
    assert rated["text"] > rated["photographs"]
    assert best({"photographs": _sure(16, 2, 0.3), "text": _sure(16, 8, 0.95)})[0] == ("text",)


def test_two_kinds_are_mixed_where_only_both_together_show_all_answers() -> None:
    upright, turned = np.tile([0.98, 0.02], (16, 1)), np.tile([0.02, 0.98], (16, 1))
    unsure = np.random.default_rng(0).dirichlet([9, 9], 16)
    chosen, rated = best({"photographs": [unsure], "text": [upright], "turned text": [turned]})
    assert chosen == ("text", "turned text")
    assert rated["text + turned text"] == 1


def _read(symbols: int, seed: int, sureness: float = 0.97) -> list[np.ndarray]:
    """Answers (16, 20, 64) of a reader that names so many symbols, with the blank between them."""
    named = np.random.default_rng(seed).integers(1, 1 + symbols, (16, 20)) * (np.arange(20) % 3 % 2)
    return [sureness * np.eye(64)[named] + (1 - sureness) / 64]


@pytest.mark.parametrize(
    ("latin", "chinese", "japanese", "wanted"),
    [
        (10, (40, 0.98), (5, 0.99), ("text", "Chinese text")),
        (10, (40, 0.98), (30, 0.98), ("text", "Chinese text", "Japanese text")),
        (10, (40, 0.96), (30, 0.98), ("text", "Japanese text")),
        (30, (20, 0.98), (10, 0.98), ("text",)),
    ],
)
def test_lines_of_scripts_stand_beside_text_where_more_symbols_are_read_in_them_as_surely(
    latin: int,
    chinese: tuple[int, float],
    japanese: tuple[int, float],
    wanted: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 17]> g (float[n, 1, 32, 96] x) => (float[n, 1, 32, 96] y) { y = Relu(x) }
    """
    answers = {
        "photographs": _read(1, 0), "text": _read(latin, 1), "Chinese text": _read(chinese[0], 2, chinese[1]),
        "Japanese text": _read(japanese[0], 3, japanese[1]),
    }  # fmt: skip

    def answered(*_: object, kinds: list[str], **__: object) -> dict[str, list[np.ndarray]]:
        return {kind: answers[kind] for kind in kinds if kind in answers}

    monkeypatch.setattr("onnx_udfc.inputs.choice._answers", answered)
    network = read(onnx.parser.parse_model(text))
    settle_sizes(network, Options())
    (chosen,) = choose(network, wanted_inputs(network), "auto", {}, 1)
    assert chosen.kinds == wanted


def test_what_is_no_score_of_symbols_is_no_reading() -> None:
    five = symbols(_read(5, 0, 0.96)[0])
    assert five.different == 5  # without the blank
    assert five.sureness == pytest.approx(0.96, abs=0.01)
    assert symbols(_read(5, 0, 0.9)[0]).different == 0  # not sure of any
    assert symbols(np.random.default_rng(0).normal(0, 50, (8, 20, 4))) == Symbols()
    assert symbols(np.full((8, 20, 16), 1 / 16)) == Symbols()


def test_lines_of_other_scripts_are_together_as_many_as_those_of_text() -> None:
    shares = dict(_shares(("text", "Chinese text", "Japanese text", "Korean text"), 60))
    assert shares == {"text": 30, "Chinese text": 10, "Japanese text": 10, "Korean text": 10}
    assert dict(_shares(("text", "Greek text"), 7)) == {"text": 4, "Greek text": 3}
    assert dict(_shares(("Chinese text", "Greek text"), 4)) == {"Chinese text": 2, "Greek text": 2}
    assert dict(_shares(("text", "Chinese text", "Japanese text"), 2)) == {"text": 1, "Chinese text": 1}


def test_where_no_answer_can_be_rated_the_preferred_kind_is_taken() -> None:
    boxes = [np.random.default_rng(0).normal(0, 50, (8, 20, 4))]
    assert best({"photographs": boxes, "formula": boxes}) == (("photographs",), {})
    sounds = dict.fromkeys(SIGNALS, boxes)
    assert best(sounds)[0] == tuple(k for k in SIGNALS if k != "formula")


def test_maps_before_their_sigmoid_are_rated_channel_by_channel() -> None:
    """Sharp edges are above 0 in one channel, all is in the other: of a detector of text 0.6 % of its cells stayed."""
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[n, 1, 96, 96] x) => (float[n, 2, 96, 96] y)
        <float top = {12.0}, float steep = {24.0}> {
        m = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 0>(x) d = Sub(x, m) a = Abs(d)
        s = Mul(a, steep) edges = Sub(s, top) e = Abs(m) all = Add(e, top) y = Concat<axis = 1>(edges, all) }"""
    network = read(onnx.parser.parse_model(text))
    settle_sizes(network, Options())
    (chosen,) = choose(network, wanted_inputs(network), "auto", {}, 1)
    assert "photographs" not in chosen.kinds
    assert chosen.reaction["text"] > 2 * chosen.reaction["photographs"]


def test_kinds_fit_the_input() -> None:
    assert fitting_pictures(3, (224, 224)) == ("photographs", "formula", "text", "turned text")
    assert fitting_pictures(3, (48, 320)) == ("photographs", "formula", "text", "turned text", *SCRIPTS)
    assert fitting_pictures(1, (28, 28))[-2:] == ("letters", "sound")
    assert fitting_pictures(3, (8, 16, 16)) == fitting_pictures(3, (2, 64)) == ("formula",)
    assert fitting_codes(257) == ("files", "formula")
    assert fitting_codes(30_000) == ("formula",)
    known = {*PICTURES, *SIGNALS, *CODES}
    assert {k for kinds in GROUPS.values() for k in kinds} == known


def _network(channels: int, size: int, weight: np.ndarray) -> onnx.ModelProto:
    """A convolution, its mean over the picture, two classes."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        main (float[N, {channels}, {size}, {size}] x) => (float[N, 2] y) <float[2, {channels}, 3, 3] w = {{0}}> {{
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = Relu (c)
            m = GlobalAveragePool (r)
            f = Flatten (m)
            y = Softmax <axis = 1> (f)
        }}"""
    )
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "w"))
    return model


def test_formula_is_the_pure_mode_and_says_what_it_made() -> None:
    network = read(_network(3, 32, np.random.default_rng(0).normal(size=(2, 3, 3, 3))))
    made = make_inputs(network, Options(images="formula", image_count=10, input_range=(0, 1), threads=1))
    (choice,) = made.choices
    assert choice.kinds == ("formula",)
    pixels = np.clip(synthetic_images(10, 3, (32, 32), 0) * 64 + 118, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(made.values["x"], pixels.astype(np.float32) * np.float32(1 / 255))


def test_what_the_user_names_is_taken_and_all_kinds_where_it_does_not_fit() -> None:
    network = read(_network(3, 64, np.random.default_rng(0).normal(size=(2, 3, 3, 3))))
    settle_sizes(network, Options())
    wanted = wanted_inputs(network)
    (choice,) = choose(network, wanted, "photographs", {}, 1)
    assert choice.kinds == ("photographs",)
    assert not choice.reaction
    (choice,) = choose(network, wanted, "text", {}, 1)
    assert set(choice.kinds) <= {"text", "turned text", "letters"}
    (choice,) = choose(network, wanted, "sound", {}, 1)  # three channels are no spectrogram
    assert choice.reaction


def test_the_same_kinds_are_made_for_the_repair_and_for_the_check() -> None:
    network = read(_network(1, 24, np.random.default_rng(1).normal(size=(2, 1, 3, 3)) * 3))
    options = Options(image_count=12, threads=1)
    first, other = make_inputs(network, options), make_inputs(network, options, 1000)
    assert first.choices is other.choices
    assert not np.array_equal(first.values["x"], other.values["x"])
    assert first.choices[0].reaction
    assert max(first.choices[0].reaction.values()) == pytest.approx(1)


@pytest.mark.parametrize("images", [16, "16"])
def test_a_number_of_images_still_is_their_number(images: object) -> None:
    options = Options(images=images)  # type: ignore[arg-type]
    assert (options.number, options.kinds) == (16, "auto")
    assert Options(images="text", image_count=4).counted(9).number == 9
    assert Options(images=16).counted(9).kinds == "auto"


def test_whole_numbers_that_are_compared_with_all_from_nought_on_are_codes() -> None:
    spec = InputSpec("bytes", (None, 64), np.dtype(np.int32))
    counted = Wanted(spec, (1, 64), Use(choices=tuple(map(float, range(257)))))
    assert counted.codes == 257
    assert fitting(counted, "auto") == ("files", "formula")
    assert Wanted(spec, (1, 64), Use(choices=(0.0, 3.0))).codes == 0
    assert Wanted(spec, (1, 64), Use(rows=300)).codes == 300
    assert Wanted(spec, (1, 64), Use(rows=300, first=1)).codes == 0
    values = made((replace(counted, among=("files",)),), 6, 0, {})["bytes"]
    np.testing.assert_array_equal(values, CODES["files"](6, 64, 257, 0))


@pytest.mark.parametrize("slow", [False, True])
def test_a_reader_of_lines_that_gives_scores_of_each_step_is_rated(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores (steps, samples, symbols) of any size, by what is in each row; few runs are affordable if `slow`."""
    weight = np.zeros((9, 1, 16, 3), np.float32)
    for row in range(8):
        weight[row + 1, 0, 2 * row : 2 * row + 2] = -8
    bias = np.array([25] + [0] * 8, np.float32)  # the first is the blank
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,1,16,64] x) => (float[62,N,9] y)
        <float[9,1,16,3] w = {0}, float[9] b = {0}, int64[1] two = {2}> {
            c = Conv (x, w, b) s = Squeeze (c, two) y = Transpose <perm = [2, 0, 1]> (s) }"""
    )
    del model.graph.initializer[:2]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in (("w", weight), ("b", bias)))
    network = read(model)
    settle_sizes(network, Options())
    if slow:
        monkeypatch.setattr("onnx_udfc.inputs.choice.affordable", lambda _: 2 * LEAST)
    (choice,) = choose(network, wanted_inputs(network), "auto", {}, 1)
    assert {"photographs", "text"} < set(choice.reaction)
    assert max(choice.reaction.values()) == pytest.approx(1)
    assert ("formula" in choice.reaction) != slow


def test_text_upside_down_is_only_taken_beside_other_text() -> None:
    chosen, _ = best({"photographs": _sure(16, 2, 0.3), "text": _sure(16, 7, 0.9), "turned text": _sure(16, 8, 0.95)})
    assert chosen != ("turned text",)


def test_a_classifier_of_pictures_of_any_size_that_answers_to_lines_is_run_on_lines(assets: Path) -> None:
    path = assets.parent / "realnets" / "models" / "pp_ocr_cls.onnx"
    if not path.exists():
        pytest.skip("needs the real networks")
    network = read(onnx.load(path))
    settle_sizes(network, Options(threads=1, input_range=(-1, 1), input_colour="bgr"))
    assert network.sizes == {"x": (1, 3, 48, 192)}
    (note,) = [n for n in network.notes if "--input-shape" in n]
    assert "lines of text" in note
    assert any("48x192: the network reacts to lines of text" in n for n in inspect(path).notes)
    turned = read(FLAVOURS["nhwc_input"](onnx.load(path)))
    settle_sizes(turned, Options(threads=1, input_range=(-1, 1), input_colour="bgr"))
    assert list(turned.sizes.values()) == [(1, 48, 192, 3)]
    other = read(onnx.load(path))
    settle_sizes(other, Options(threads=1, images="photographs", input_range=(-1, 1), input_colour="bgr"))
    assert other.sizes == {"x": (1, 3, 224, 224)}


@pytest.mark.parametrize(("normed", "kinds"), [(True, ("photographs", "formula")), (False, ("photographs",))])
def test_formulas_stand_beside_photographs_where_batch_norm_is_in_the_file(
    normed: bool, kinds: tuple[str, ...]
) -> None:
    model = _network(3, 32, np.zeros((2, 3, 3, 3)))  # it says the same to everything, so nothing is rated
    if normed:
        model.graph.initializer.extend(numpy_helper.from_array(np.ones(2, np.float32), n) for n in "ABMV")
        norm = onnx.helper.make_node("BatchNormalization", ["c", *"ABMV"], ["n"])
        model.graph.node.insert(1, norm)
        model.graph.node[2].input[0] = "n"
    network = read(model)
    settle_sizes(network, Options())
    assert choose(network, wanted_inputs(network), "auto", {}, 1)[0].kinds == kinds
    assert choose(network, wanted_inputs(network), "photographs", {}, 1)[0].kinds == ("photographs",)


@pytest.mark.parametrize(("side", "kinds"), [(32, ("photographs", "formula")), (224, ("photographs",))])
def test_formulas_stand_beside_photographs_where_each_would_come_more_than_once(
    side: int, kinds: tuple[str, ...]
) -> None:
    network = read(_network(3, side, np.zeros((2, 3, 3, 3))))
    settle_sizes(network, Options())
    (wanted,) = wanted_inputs(network)
    assert (image_count((wanted,)) > len(stored())) == (len(kinds) > 1)
    assert make_inputs(network, Options()).choices[0].kinds == kinds
    assert make_inputs(network, Options(images="photographs")).choices[0].kinds == ("photographs",)


def test_answers_that_cannot_be_rated_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counted(wanted: tuple[Wanted, ...], *rest: Any) -> dict[str, np.ndarray]:
        drawn.append(wanted[0].among)
        return made(wanted, *rest)

    monkeypatch.setattr("onnx_udfc.inputs.choice.made", counted)
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,32,32] x) => (float[N,3,32,32] y) { y = Neg (x) }'
    network = read(onnx.parser.parse_model(text))
    settle_sizes(network, Options())
    (choice,) = choose(network, wanted_inputs(network), "auto", {}, 1)
    assert choice.kinds == ("photographs",)
    assert not choice.reaction
    assert drawn == [("photographs",)]


@pytest.mark.parametrize(
    ("shape", "left"),
    [
        ((2, 3, 1024, 1024), (2, 3, 342, 1024)),
        ((2, 1, 8, 1 << 21), (2, 1, 8, 1 << 17)),
        ((2, 3, 64, 64), (2, 3, 64, 64)),
        ((2, 1 << 21), (2, 1 << 21)),
        ((), ()),
    ],
)
def test_of_large_maps_a_part_is_looked_at(shape: tuple[int, ...], left: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = _thinned(values)
    assert found.shape == left
    steps = [-(-a // b) for a, b in zip(shape, left, strict=True)]
    np.testing.assert_array_equal(found, values[tuple(slice(None, None, s) for s in steps)])
