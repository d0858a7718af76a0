"""Detections: neighbours suppressed, boxes matched one to one."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.comparison import Comparator, worst
from onnx_udfc.evaluate.detection import Detections, Matched, count_matches, detections, overlap
from onnx_udfc.evaluate.verdict import judge
from onnx_udfc.numerics.detectors import find_reader


def test_boxes_are_matched_one_to_one() -> None:
    one = Detections(np.array([[0, 0, 2, 2], [4, 4, 6, 6.0]]), np.array([0.9, 0.8]), np.array([0, 0]), np.arange(2))
    near = Detections(np.array([[0, 0, 2, 2.2], [0, 0, 2, 2.1]]), np.array([0.9, 0.8]), np.array([0, 0]), np.arange(2))
    other = Detections(one.boxes, one.scores, np.array([0, 1]), np.arange(2))
    assert count_matches(one, one) == 2
    assert count_matches(one, near) == 1
    assert count_matches(one, other) == 1
    assert overlap(one.boxes[:1], near.boxes[:1])[0, 0] == pytest.approx(4 / 4.4)


def test_detections_suppress_neighbours_and_the_background() -> None:
    boxes = np.array([[[0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6], [7, 7, 8, 8.0]]])
    scores = np.array([[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]]])
    found = detections({"scores": scores, "boxes": boxes})[0]
    assert found.boxes.tolist() == [[0, 0, 2, 2], [5, 5, 6, 6]]
    final = detections({"d": np.concatenate([boxes, scores[..., 1:], np.zeros((1, 4, 1))], axis=2)})[0]
    assert final.boxes.tolist() == found.boxes.tolist()
    with pytest.raises(RequestError, match="--task detection"):
        detections({"y": np.zeros((2, 5))})


def test_where_the_original_finds_no_box_nothing_was_measured() -> None:
    nothing = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3, 1))}
    reader = find_reader(nothing)
    assert reader is not None
    matched = Matched(reader)
    matched.add(nothing, nothing)
    assert matched.share() is None


ANCHORS = 32


def scene(count: int = ANCHORS, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as centre and size in pixels, (1, count, 4), and probabilities (1, count, classes); three are objects."""
    rng = np.random.default_rng(0)
    centres = np.stack([np.arange(count) * 20.0 + 10, np.full(count, 30.0)], axis=1)
    boxes = np.concatenate([centres, rng.uniform(8, 12, (count, 2))], axis=1)[None]
    scores = rng.uniform(0, 0.05, (1, count, classes))
    scores[0, [3, 8, 12], [0, 1, 2]] = 0.9
    return boxes, scores


def logit(p: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(p) - np.log1p(-p))


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)


def heads(boxes: np.ndarray, scores: np.ndarray, apart: bool) -> dict[str, np.ndarray]:
    """Two maps that are not decoded, 4 x 8 and 2 x 4 places; the objects are in the larger."""
    given: dict[str, np.ndarray] = {}
    for i, (h, w) in enumerate(((4, 8), (2, 4))):
        b, s = (v[:, -h * w :].transpose(0, 2, 1).reshape(1, -1, h, w) for v in (boxes / 100, logit(scores)))
        sure = np.full((1, 1, h, w), 5.0)
        if apart:
            given |= {f"box{i}": b, f"class{i}": s}
        else:
            anchor = np.concatenate([b, sure, s], axis=1)
            given[f"head{i}"] = np.concatenate([anchor, anchor * 0 - 9, anchor * 0 - 9], axis=1)
    return {k: v.astype(np.float32) for k, v in given.items()}


def odds(distances: np.ndarray) -> np.ndarray:
    """Distances (1, N, 4) of 0 to 7 as the odds (1, N, 32) of the whole numbers around them."""
    bins = np.arange(8)
    near = np.clip(1 - np.abs(distances[..., None] - bins), 1e-9, 1)
    return np.asarray(np.log(near) + 3).reshape(*distances.shape[:2], 32)


def levels(boxes: np.ndarray, scores: np.ndarray, layout: str) -> dict[str, np.ndarray]:
    """The outputs of two sizes, 32 places and 8; the objects are in the larger."""
    given: dict[str, np.ndarray] = {}
    for i, n in enumerate((32, 8)):
        b, s = boxes[:, -n:] % 7, scores[:, -n:]
        if layout == "levels of odds":
            given |= {f"class{i}": s, f"box{i}": odds(b)}
        elif layout == "maps of odds":
            sides = {32: (4, 8), 8: (2, 4)}[n]
            maps = (v.transpose(0, 2, 1).reshape(1, -1, *sides) for v in (odds(b), logit(s)))
            given |= dict(zip((f"box{i}", f"class{i}"), maps, strict=True))
        else:  # without an axis of the batch, with landmarks
            given |= {f"score{i}": s[0], f"box{i}": b[0], f"landmarks{i}": np.tile(b[0] - 4, (1, 3))[:, :10]}
    return {k: v.astype(np.float32) for k, v in given.items()}


def given(layout: str, boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The same scene in the layouts that detectors have."""
    sure = np.ones((*boxes.shape[:2], 1))
    match layout:
        case "pair":
            return {"scores": scores, "boxes": corners(boxes)}
        case "pair of centres":
            return {"boxes": boxes / 1000, "scores": scores}
        case "pair, classes first":
            return {"boxes": corners(boxes), "scores": scores.transpose(0, 2, 1)}
        case "yolo transposed":
            return {"output0": np.concatenate([boxes, scores], axis=2).transpose(0, 2, 1)}
        case "yolo rows":
            return {"output": np.concatenate([boxes, sure, scores], axis=2)}
        case "yolo rows, not decoded":  # shifts of the place and logarithms of sizes in strides of 4 pixels
            left = np.concatenate([boxes[..., :2] % 19 / 10, np.log(boxes[..., 2:] / 4)], axis=2)
            rows = np.concatenate([left, sure, scores], axis=2)
            return {"output": np.concatenate([rows, rows[:, :10] * [1, 1, 1, 1, 0, 1, 1, 1]], axis=1)}
        case "yolo heads":
            return heads(boxes, scores, apart=False)
        case "heads apart":
            return heads(boxes, scores, apart=True)
        case "rows of odds":
            return {"y": np.concatenate([scores, odds(boxes % 7)], axis=2)}
        case "levels of odds" | "maps of odds" | "levels of a face detector":
            return levels(boxes, scores, layout)
        case "final":
            labels = scores.argmax(2)[..., None]
            return {"y": np.concatenate([corners(boxes), scores.max(2)[..., None], labels], axis=2)}
        case "chosen":
            best = scores.max(2)[0] > 0.5
            return {
                "boxes": corners(boxes)[0][best],
                "labels": scores.argmax(2)[0][best],
                "scores": scores.max(2)[0][best],
            }
    raise AssertionError(layout)


LAYOUTS = (
    "pair", "pair of centres", "pair, classes first", "yolo transposed", "yolo rows", "yolo rows, not decoded",
    "yolo heads", "heads apart", "levels of odds", "maps of odds", "levels of a face detector", "rows of odds", "final",
    "chosen",
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lost_and_a_moved_object_are_seen_in_every_layout(layout: str) -> None:
    boxes, scores = scene()
    outputs = given(layout, boxes, scores)
    reader = find_reader(outputs)
    assert reader is not None
    assert {k for k in outputs if k != "labels"} <= set(reader.names) | {"labels"}
    assert sorted(detections(outputs, reader)[0].classes.tolist()) == [0, 1, 2]
    worse = scores.copy()
    worse[0, 3] = 0.01  # one of three is gone: two matches, five boxes
    matched = Matched(reader)
    matched.add(outputs, given(layout, boxes, worse))
    assert matched.original == 3
    assert matched.share() == pytest.approx(4 / 5)
    swapped = scores.copy()
    swapped[0, [8, 12]] = swapped[0, [12, 8]]  # both are there, with each other's class
    other = Matched(reader)
    other.add(outputs, given(layout, boxes, swapped))
    assert other.share() == pytest.approx(1 / 3)


@pytest.mark.parametrize("layout", ["pair", "pair of centres", "yolo transposed", "yolo rows", "final", "chosen"])
def test_a_box_that_moves_away_is_no_match(layout: str) -> None:
    boxes, scores = scene()
    outputs = given(layout, boxes, scores)
    reader = find_reader(outputs)
    assert reader is not None
    moved = boxes.copy()
    moved[0, 3, 1] += 40
    matched = Matched(reader)
    matched.add(outputs, given(layout, moved, scores))
    assert matched.share() == pytest.approx(2 / 3)


def test_objects_of_rows_that_are_not_decoded_do_not_hide_each_other() -> None:
    """Shifts and sizes in strides are much alike everywhere: read as pixels, all objects lie in one place."""
    boxes, scores = scene()
    scores[0, [3, 4, 8, 12, 22]] = [[0.9, 0, 0]] * 2 + [[0, 0, 0]] * 2 + [[0.9, 0, 0]]
    assert len(detections(given("yolo rows, not decoded", boxes, scores))[0].boxes) == 3


def test_distances_are_the_means_of_their_odds_and_lie_level_by_level() -> None:
    boxes, scores = scene()
    reader = find_reader(given("levels of odds", boxes, scores))
    assert reader is not None
    found = reader.candidates(given("levels of odds", boxes, scores))
    np.testing.assert_allclose(found.boxes[:, :32], boxes % 7, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.boxes[:, 32:], boxes[:, -8:] % 7, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.scores[:, :32], scores, rtol=1e-6)


def test_as_many_classes_as_coordinates_are_told_from_them() -> None:
    rng = np.random.default_rng(0)
    outputs: dict[str, np.ndarray] = {}
    for i, n in enumerate((64, 16, 4)):
        outputs |= {f"a{i}": rng.uniform(0, 0.1, (2, n, 4)), f"b{i}": rng.normal(size=(2, n, 32))}
    reader = find_reader(outputs)
    assert reader is not None
    np.testing.assert_array_equal(reader.candidates(outputs).scores[:, :64], outputs["a0"])
    logits = {k: v if k[0] == "b" else rng.normal(-4, 1, (2, v.shape[1], 80)) for k, v in outputs.items()}
    reader = find_reader(logits)
    assert reader is not None
    np.testing.assert_allclose(reader.candidates(logits).scores[:, :64], 1 / (1 + np.exp(-logits["a0"])), rtol=1e-12)
    features = {k: v if k[0] == "b" else rng.normal(0.5, 1, (2, v.shape[1], 64)) for k, v in outputs.items()}
    assert find_reader(features) is None


def test_what_is_no_detector_has_no_boxes() -> None:
    rng = np.random.default_rng(0)
    maps = {"note": rng.uniform(0, 1, (1, 172, 88)), "onset": rng.uniform(0, 1, (1, 172, 88))}
    words = rng.uniform(0, 1, (1, 40, 97))
    for outputs in (
        {
            "mixed": np.concatenate(
                [rng.uniform(0, 1, (1, 90, 4)), rng.standard_normal((1, 90, 8)), words[:, :1, :4].repeat(90, 1)], 2
            )
        },
        maps,
        {"text": words / words.sum(2, keepdims=True)},
        {"logits": rng.standard_normal((4, 10))},
        {"image": rng.standard_normal((1, 3, 32, 32))},
        {"mask": rng.uniform(0, 1, (1, 1, 32, 32)), "aux": rng.uniform(0, 1, (1, 1, 16, 16))},
        {"hidden": rng.standard_normal((1, 16, 384))},
    ):
        assert find_reader(outputs) is None


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_four_classes_and_their_probabilities_are_no_boxes(kind: str) -> None:
    """As a network gives logits and probabilities of each step."""
    y = np.random.default_rng(0).normal(size=(8, 60, 4)) * 3
    p = np.exp(y) / np.exp(y).sum(-1, keepdims=True) if kind == "softmax" else 1 / (1 + np.exp(-y))
    outputs = {"logits": y.astype(np.float32), "probs": p.astype(np.float32)}
    assert find_reader(outputs) is None
    assert find_reader({**outputs, "probs": p[:, ::-1].astype(np.float32)}) is not None


@pytest.mark.parametrize("rows", [False, True])
def test_factors_of_masks_behind_the_classes_are_no_scores(rows: bool) -> None:
    rng = np.random.default_rng(0)
    boxes, sure = rng.uniform(10, 60, (2, 100, 4)), np.full((2, 100, 1), 0.5)
    scores, factors = rng.uniform(0, 1, (2, 100, 3)), rng.normal(size=(2, 100, 8))
    candidates = np.concatenate([boxes, sure, scores, factors] if rows else [boxes, scores, factors], axis=2)
    outputs = {"y": candidates if rows else candidates.transpose(0, 2, 1), "masks": rng.normal(size=(2, 8, 16, 16))}
    reader = find_reader(outputs)
    assert reader is not None
    assert reader.names == ("y",)
    np.testing.assert_allclose(reader.candidates(outputs).scores, 0.5 * scores if rows else scores, rtol=1e-12)
    assert find_reader({"y": outputs["y"]}) is None  # what is behind the boxes is no probability then


def test_rows_that_come_the_surest_first_are_matched_and_do_not_move() -> None:
    """Among 300 rows, most of which say nothing, a small change of a score puts another box into each row."""
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 100, (8, 300, 2, 2)), axis=2).reshape(8, 300, 4)
    scores = np.where(np.arange(300) < 3, 0.9, 0.01) * rng.uniform(0.8, 1, (8, 300))

    def ranked(noise: float) -> np.ndarray:
        changed = scores * (1 + noise * np.random.default_rng(1).standard_normal(scores.shape))
        rows = np.concatenate([boxes, changed[..., None], np.zeros((8, 300, 1))], axis=2)
        return np.take_along_axis(rows, np.argsort(-changed, axis=1)[..., None], axis=1).astype(np.float32)

    comparator = Comparator(["y"])
    comparator.add([ranked(0.0)], [ranked(0.01)])
    (found,) = comparator.results()
    assert (found.kind, found.matched, found.sqnr_db) == ("detection", 1.0, None)
    assert judge(worst(comparator, "validation", 8)).verdict == "good"
    scores[:] /= 10
    empty = Comparator(["y"])
    empty.add([ranked(0.0)], [ranked(0.01)])
    assert judge(worst(empty, "synthetic", 8)).reason == "the original finds no box in the inputs that were fed"
