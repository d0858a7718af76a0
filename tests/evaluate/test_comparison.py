"""Outputs compared by their kind: what is guessed, what is counted, what was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_udfc import compress
from onnx_udfc.errors import CheckError
from onnx_udfc.evaluate.comparison import Comparator, worst
from onnx_udfc.evaluate.kinds import guess
from onnx_udfc.evaluate.report import Fidelity, OutputFidelity
from tests.small_graphs import small_model

N = 12


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def judged(y: np.ndarray, z: np.ndarray, **given: Any) -> OutputFidelity:
    """Figures of one output over batches of four."""
    comparator = Comparator(["y"], **given)
    for start in range(0, len(y), 4):
        comparator.add([y[start : start + 4]], [z[start : start + 4]])
    return comparator.results()[0]


def summary(y: np.ndarray, z: np.ndarray, **given: Any) -> Fidelity:
    comparator = Comparator(["y"], **given)
    comparator.add([y], [z])
    return worst(comparator, "synthetic", len(y))


def example(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    match kind:
        case "logits":
            return rng.standard_normal((N, 10))
        case "softmax":
            return softmax(3 * rng.standard_normal((N, 20)))
        case "log-softmax":
            return np.asarray(np.log(softmax(rng.standard_normal((N, 5)))))
        case "one logit":
            return rng.standard_normal((N, 1))
        case "features":
            return np.asarray(np.maximum(rng.standard_normal((N, 512)), 0))
        case "unit vectors":
            x = rng.standard_normal((N, 100))
            return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        case "mask":
            return 1 / (1 + np.exp(-12 * rng.standard_normal((N, 1, 8, 8))))
        case "mask logits":
            return rng.standard_normal((N, 1, 8, 8))
        case "class maps":
            return rng.standard_normal((N, 21, 8, 8))
        case "notes":
            return 1 / (1 + np.exp(6 - 3 * rng.standard_normal((N, 30, 24))))
        case "text":
            x = rng.standard_normal((N, 20, 40))
            x[..., 0] += 3
            return softmax(2 * x)
        case "hidden":
            return rng.standard_normal((N, 9, 384))
        case "picture":
            return rng.standard_normal((N, 3, 16, 16))
        case "depth":
            return rng.uniform(1, 9, (N, 1, 16, 16))
    raise AssertionError(kind)


KINDS = {
    "logits": "classes", "softmax": "classes", "log-softmax": "classes", "one logit": "classes",
    "features": "embedding", "unit vectors": "embedding", "mask": "segmentation", "mask logits": "segmentation",
    "class maps": "segmentation", "notes": "segmentation", "text": "sequence", "hidden": "embedding",
    "picture": "regression", "depth": "regression",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_guessed_from_shape_and_values(name: str) -> None:
    y = example(name).astype(np.float32)
    assert guess({"y": y}, [(None, 3, 16, 16)]).of["y"] == KINDS[name]
    assert judged(y, y).kind == guess({"y": y}, ()).of["y"]


def landmarks(inputs: int, points: int, numbers: int, seed: int = 0) -> np.ndarray:
    """Coordinates (inputs, points * numbers) of a face that lies elsewhere in each picture."""
    rng = np.random.default_rng(seed)
    centre = np.array([96.0, 180.0, 0.0, 5.0, 3.0])[:numbers]
    shape, moved = 20 * rng.standard_normal((points, numbers)), 15 * rng.standard_normal((inputs, 1, numbers))
    found = centre + shape + moved + 2 * rng.standard_normal((inputs, points, numbers))
    return found.reshape(inputs, -1).astype(np.float32)


@pytest.mark.parametrize(("points", "numbers"), [(468, 3), (133, 2), (39, 5), (5, 3)])
def test_coordinates_of_points_are_no_classes(points: int, numbers: int) -> None:
    y = landmarks(8, points, numbers)
    assert guess({"y": y}).of["y"] == "regression"
    assert guess({"y": y[:, :, None, None]}).of["y"] == "regression"
    shuffled = y[:, np.random.default_rng(1).permutation(y.shape[1])]
    assert guess({"y": shuffled}).of["y"] in ("classes", "embedding")


@pytest.mark.parametrize("seed", range(8))
def test_classes_have_no_period(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((8, 3)) @ rng.standard_normal((3, 10)) + rng.standard_normal(10)
    assert guess({"y": y.astype(np.float32)}).of["y"] == "classes"


def test_a_few_points_are_no_map_of_objects() -> None:
    """Seventeen key points, each y, x and how sure: half of their numbers do not lie above the middle as objects do."""
    y = np.random.default_rng(0).beta(0.3, 0.3, (8, 1, 17, 3)).astype(np.float32)
    assert guess({"y": y}, [(1, 192, 192, 3)]).of["y"] == "regression"
    assert guess({"y": y - np.float32(0.01)}, [(1, 192, 192, 3)]).of["y"] == "regression"  # a little outside of it
    assert guess({"y": y.repeat(8, 3)}, [(1, 192, 192, 3)]).of["y"] == "segmentation"


def test_a_value_for_each_step_of_an_input_is_no_class() -> None:
    y = np.random.default_rng(0).standard_normal((8, 750, 1)).astype(np.float32)
    assert guess({"y": y}, [(None, 1, 750), (None, 15, 750)]).of["y"] == "regression"
    assert guess({"y": y[:, :, 0]}, [(None, 750)]).of["y"] == "regression"
    assert guess({"y": y}, [(None, 1, 700)]).of["y"] == "classes"
    assert guess({"y": y}, [(None, 3, 750, 750)]).of["y"] == "classes"


def test_numbers_beside_a_softmax_are_no_classes() -> None:
    """As of a face: whether it is one, its box, its key points."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 2))
    outputs = {"box": rng.normal(size=(8, 4)), "face": np.exp(logits) / np.exp(logits).sum(1, keepdims=True)}
    found = guess({k: v.astype(np.float32) for k, v in outputs.items()}).of
    assert dict(found) == {"box": "regression", "face": "classes"}
    found = guess({k: v.astype(np.float32) for k, v in {"box": logits, "face": outputs["face"]}.items()}).of
    assert set(found.values()) == {"classes"}
    assert guess({"box": outputs["box"].astype(np.float32), "other": logits.astype(np.float32)}).of["box"] == "classes"


def test_a_class_for_each_place_is_an_answer() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(5, (8, 40), p=[0.8, 0.05, 0.05, 0.05, 0.05])
    z = np.where(rng.random(y.shape) < 0.1, (y + 1) % 5, y)
    for shape in ((8, 40), (8, 4, 10), (8, 1, 4, 10)):
        found = judged(y.reshape(shape), z.reshape(shape))
        assert (found.kind, found.answers) == ("classes", 5)
        assert found.agreement == pytest.approx(float((y == z).mean()))
        assert 0.5 < (found.chance or 0) < 0.7
    assert guess({"y": rng.integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)}).of["y"] == "regression"
    assert guess({"y": rng.integers(0, 1 << 20, (2, 30))}).of["y"] == "regression"


def test_the_kind_can_be_told() -> None:
    y = example("logits").astype(np.float32)
    assert judged(y, y, task="embedding").kind == "embedding"
    assert judged(y, y, task="regression").kind == "regression"
    assert judged(y, y, task="sequence").kind == "classes"  # it has no steps


def test_classes_and_the_margin_lost() -> None:
    y = np.eye(4)[np.arange(N) % 4] * 2.0
    z = y.copy()
    z[:3] *= -1
    z[3:] *= 0.5
    found = judged(y, z)
    assert found.agreement == 9 / 12
    assert found.answers == 4
    leads = [-2.0] * 3 + [1.0] * 9  # of the original's class over the best other one; 2 before
    assert found.margin_lost == pytest.approx(1 - sum(leads) / (2 * N))


def test_one_logit_is_a_binary_classifier() -> None:
    y = np.linspace(-2, 2, N)[:, None]
    found = judged(y, -y)
    assert found.kind == "classes"
    assert found.agreement == 0
    assert found.cosine == pytest.approx(-1)
    p = 1 / (1 + np.exp(-y))
    assert judged(p, 1 - p).agreement == 0  # the same as a probability


def test_agreement_that_comes_for_free_was_not_measured() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((N, 2)) * 0.1 + [5, 0]  # says class 0 every time
    z = rng.standard_normal((N, 2)) * 0.1 + [5, 0]
    found = judged(y, z)
    assert found.agreement is None
    assert found.answers == 1
    assert found.sqnr_db is not None
    assert found.sqnr_db < 0


def test_probabilities_near_zero_are_seen_as_logits() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 1, 8, 8)) - 9  # a map that finds nothing
    noise = 0.1 * rng.standard_normal(x.shape)
    y, z = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-x - noise))
    found = judged(y, z)
    assert found.kind == "segmentation"
    assert found.iou is None
    assert found.sqnr_db == pytest.approx(20, abs=1)


def test_overlap_of_maps() -> None:
    y, z = np.zeros((2, N, 1, 4, 4))
    y[:, :, :2], z[:, :, 1:3] = 1, 1  # rows 0, 1 against 1, 2
    y[0] = z[0] = 0
    assert judged(y, z).iou == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    classes = rng.standard_normal((N, 5, 4, 4))
    classes[:, 0] += 1
    found = judged(classes, np.roll(classes, 1, axis=0))
    first, second = classes.argmax(1), np.roll(classes, 1, axis=0).argmax(1)
    shown = first != 0
    expected = (shown & (first == second)).sum() / (shown | (second != 0)).sum()
    assert found.iou == pytest.approx(expected)


def test_strings_are_equal_after_repetitions_and_blanks_are_gone() -> None:
    def scores(*rows: list[int]) -> np.ndarray:
        return np.asarray(np.eye(9)[np.array(rows)] * 0.999 + 0.001 / 9)

    y = scores([0, 1, 1, 0, 2, 0], [0, 3, 0, 3, 0, 0], [0, 0, 0, 5, 0, 0], [0, 4, 0, 0, 0, 0])
    z = scores([1, 0, 0, 0, 2, 2], [0, 3, 3, 3, 0, 0], [0, 0, 0, 5, 5, 0], [0, 4, 0, 0, 0, 6])
    found = judged(y, z)
    assert found.kind == "sequence"
    assert found.agreement == 2 / 4
    nothing = scores(*[[0] * 6] * 4)
    assert judged(nothing, nothing, task="sequence").agreement is None


@pytest.mark.parametrize("probability", [True, False])
def test_strings_count_by_how_sure_the_original_is_of_them(probability: bool) -> None:
    """Half of the lines are read with certainty and stay, what is guessed at in the other half turns."""
    named = np.random.default_rng(0).integers(1, 9, (16, 6)) * ([1, 0] * 3)
    y = np.log(np.eye(9)[named] * 0.989 + 0.001 + 1e-12)
    y[8:] = np.log(np.eye(9)[named[8:]] * 0.01 + 0.11)
    z = y.copy()
    z[8:, 0] = np.roll(z[8:, 0], 1, 1)
    y, z = (np.exp(v) / np.exp(v).sum(2, keepdims=True) for v in (y, z)) if probability else (y - 3.0, z - 3.0)
    found = judged(y, z, task="sequence")
    sure, unsure = (0.99 / 0.998) ** 6, 0.12**6
    assert found.agreement == 0.5
    assert found.sure == pytest.approx(8 * (sure + unsure), rel=0.02)
    assert found.sure_agreement == pytest.approx(1, abs=1e-3)
    assert judged(y[8:], z[8:], task="sequence").sure_agreement is None  # sure of next to none


def test_strings_of_steps_by_samples_are_those_of_samples_by_steps() -> None:
    """As readers give them that end with a recurrent layer, (steps, samples, symbols), in runs of any size."""
    rng = np.random.default_rng(0)
    y, z = (8.0 * np.eye(9)[rng.integers(0, 9, (N, 31)) * (rng.random((N, 31)) < 0.3)] for _ in range(2))
    z[::3] = y[::3]
    comparator = Comparator(["y"], {"y": (31, "batch", 9)}, [(None, 1, 16, 64)])
    for start, stop in ((0, 1), (1, 8), (8, N)):
        comparator.add([y[start:stop].swapaxes(0, 1)], [z[start:stop].swapaxes(0, 1)], stop - start)
    (found,) = comparator.results()
    assert (found.kind, found.agreement, found.answers) == ("sequence", 4 / N, N)


def test_gains_of_which_one_is_mostly_the_largest_are_no_strings() -> None:
    """A mask of frequencies between 0 and 1, as noise suppression gives it step by step."""
    gains = np.random.default_rng(0).uniform(0.2, 0.8, (N, 1, 40))
    gains[:8, :, 3] = 0.99
    assert judged(gains, gains).kind == "segmentation"


def test_places_between_0_and_1_step_by_step_are_numbers() -> None:
    """Corners of the cells of a table, one cell after another."""
    places = np.random.default_rng(0).uniform(0.1, 0.9, (N, 20, 8))
    assert judged(places, places).kind == "regression"
    assert judged(places**12, places**12).kind == "segmentation"


def test_neighbours_of_embeddings() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(rng.standard_normal((6, 64)), 2, axis=0) + 0.01 * rng.standard_normal((12, 64))
    assert judged(y, 3 * y + 1).neighbours == 1  # another scale and another origin are the same descriptors
    other = judged(y, rng.standard_normal(y.shape)).neighbours
    assert other is not None
    assert other < 0.5


def test_boxes_are_apart_from_scores() -> None:
    rng = np.random.default_rng(0)
    anchors = rng.uniform(10, 500, (1, 100, 4))
    boxes = np.abs(anchors + rng.standard_normal((N, 100, 4)))
    scores = rng.uniform(0.01, 0.99, (N, 100, 3))
    y = np.concatenate([boxes, scores], axis=2).transpose(0, 2, 1)
    z = np.concatenate([boxes, rng.uniform(0.01, 0.99, (N, 100, 3))], axis=2).transpose(0, 2, 1)
    found = judged(y, z)
    assert found.kind == "detection"
    parts = {p.part: p for p in found.parts}
    assert parts["boxes"].sqnr_db == 200
    assert parts["scores"].sqnr_db is not None
    assert parts["scores"].sqnr_db < 0
    assert found.sqnr_db == parts["scores"].sqnr_db
    assert found.matched is not None
    assert found.matched < 0.9


def test_an_original_that_does_not_move_measures_nothing() -> None:
    y = np.ones((N, 10)) * np.arange(10)
    found = summary(y, y + 1)
    assert (found.sqnr_db, found.cosine, found.agreement) == (None, None, None)
    assert "do not change" in found.unmeasured
    same = summary(y, y)
    assert same.sqnr_db is None


def test_an_original_that_is_not_finite_measures_nothing() -> None:
    y = np.full((N, 10), np.nan)
    for z in (y, np.zeros((N, 10))):
        found = summary(y, z)
        assert (found.sqnr_db, found.cosine, found.agreement) == (None, None, None)
        assert "not finite" in found.unmeasured


def test_a_result_that_is_not_finite_is_refused_or_told() -> None:
    y = np.random.default_rng(0).standard_normal((N, 10))
    z = y.copy()
    z[2, 3] = np.inf
    with pytest.raises(CheckError, match="not finite"):
        summary(y, z)
    comparator = Comparator(["y"], lenient=True)
    comparator.add([y], [z])
    assert comparator.broken()


def test_one_box_fewer_is_no_other_shape() -> None:
    boxes = np.array([[0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 24, 24.0]])
    comparator = Comparator(["boxes", "chosen"], {"boxes": ("K", 4), "chosen": ("K", 3)})
    chosen = np.array([[0, 0, 5], [0, 1, 7], [0, 0, 9]])
    for _ in range(3):
        comparator.add([boxes, chosen], [boxes[:2], chosen[[0, 2]]], 1)
    found = comparator.results()
    assert [o.matched for o in found] == [4 / 5, 4 / 5]
    assert [o.answers for o in found] == [9, 9]
    fixed = Comparator(["boxes"], {"boxes": (3, 4)})
    fixed.add([boxes], [boxes[:2]], 1)
    with pytest.raises(CheckError, match="shape"):
        fixed.results()


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.mark.parametrize("name", ["nms_output", "nonzero_output"])
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_networks_whose_answers_have_any_length_are_compared(name: str) -> None:
    from onnx_udfc.options import Options
    from onnx_udfc.pipeline import compress

    found = compress(CASES / f"{name}.onnx", Options(bits=4, threads=1)).report.fidelity
    assert any(o.matched is not None and 0 < o.matched < 1 for o in found.outputs)


def test_agreement_by_chance_is_that_of_the_frequencies() -> None:
    y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    z = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = judged(y, z)
    assert found.agreement == 0.75
    assert found.chance == (2 * 1 + 2 * 3) / 16


def test_cells_of_a_sequence_are_answers_and_those_of_a_picture_are_not() -> None:
    rng = np.random.default_rng(0)
    for shape, cells in (((8, 20, 12), True), ((8, 1, 20, 12), False)):
        y = (rng.uniform(size=shape) > 0.8).astype(np.float64)
        found = judged(y, y, task="segmentation")
        assert (found.kind, found.cells) == ("segmentation", cells)


def test_outputs_with_their_channels_last_are_what_they_are_with_them_first() -> None:
    rng = np.random.default_rng(1)
    pictures = ((None, 32, 32, 3),)
    vectors = rng.standard_normal((N, 1, 1, 96))
    assert judged(vectors, vectors + 0.1, inputs=pictures).kind == "embedding"
    first = rng.standard_normal((N, 5, 16, 16)) + np.arange(5)[:, None, None] ** 2
    damaged = first + rng.standard_normal(first.shape)
    last, worse = (np.moveaxis(v, 1, -1) for v in (first, damaged))
    found = judged(last, worse, inputs=pictures)
    assert found == judged(first, damaged, inputs=((None, 3, 32, 32),))
    assert found.kind == "segmentation"
    assert judged(last, worse, inputs=((None, 3, 32, 32),)) != found


@pytest.mark.parametrize("sizes", [(64, 64), (None, None)])
def test_a_map_of_one_channel_that_lies_last_is_a_map(sizes: tuple[int | None, int | None]) -> None:
    """As edges and masks of networks whose pictures have their channels last; boxes of 16 numbers are none."""
    pictures = ((None, *sizes, 3),)
    y = 1 / (1 + np.exp(-12 * np.random.default_rng(0).standard_normal((N, 16, 16, 1))))
    found = judged(y, np.roll(y, 1, axis=0), inputs=pictures)
    assert (found.kind, found.answers) == ("segmentation", int((y > 0.5).sum()))
    rows = np.random.default_rng(1).standard_normal((N, 256, 16, 1))
    assert judged(rows, rows, inputs=pictures).kind == "regression"


def test_names_of_classes_are_not_judged_beside_their_scores() -> None:
    """An ArgMax gives numbers that are names: that 9 is far from 0 says nothing."""
    text = """g (float[N,12] x, float[12,10] W1) => (float[N,10] y, int64[N] c) {
        z = MatMul(x, W1) y = Softmax(z) c = ArgMax<axis = 1, keepdims = 0>(y) }"""
    model = small_model(text)
    found = compress(model, bits=3, method="none").report.fidelity
    scores, names = found.outputs
    assert scores.agreement == names.agreement
    assert (names.sqnr_db or 0) < (scores.sqnr_db or 0)
    assert found.sqnr_db == scores.sqnr_db
