"""Detections: neighbours suppressed, boxes matched one to one."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.detection import Detections, Matched, count_matches, detections, overlap


def test_boxes_are_matched_one_to_one() -> None:
    one = Detections(np.array([[0, 0, 2, 2], [4, 4, 6, 6.0]]), np.array([0.9, 0.8]), np.array([0, 0]))
    near = Detections(np.array([[0, 0, 2, 2.2], [0, 0, 2, 2.1]]), np.array([0.9, 0.8]), np.array([0, 0]))
    other = Detections(one.boxes, one.scores, np.array([0, 1]))
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


def test_no_boxes_anywhere_is_a_match() -> None:
    nothing = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3, 1))}
    matched = Matched()
    matched.add(nothing, nothing)
    assert matched.share() == 1
