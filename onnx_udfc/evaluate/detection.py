"""Detections of two networks matched box by box.

Understood are a pair of outputs boxes (n, N, 4) and scores (n, N, classes), with the boxes as corners, and a single
output (n, N, 6) of corners, score, class. `matched` is 2·matches / (boxes of both), 1 where neither finds any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORE = 0.5
OVERLAP = 0.5
MOST = 200


@dataclass(frozen=True)
class Detections:
    """Boxes (k, 4) as corners, scores (k,) and classes (k,) of one image, best first."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


@dataclass
class Matched:
    """Boxes counted over images."""

    matches: int = 0
    total: int = 0

    def add(self, original: Mapping[str, NDArray[Any]], compressed: Mapping[str, NDArray[Any]]) -> None:
        """Take in one run's outputs by name.

        Raises:
            RequestError: The outputs are not detections as described above.
        """
        for first, second in zip(detections(original), detections(compressed), strict=True):
            self.matches += count_matches(first, second)
            self.total += len(first.boxes) + len(second.boxes)

    def share(self) -> float:
        """Return 2·matches / total, 1 where there are no boxes."""
        return 2 * self.matches / self.total if self.total else 1.0


def detections(outputs: Mapping[str, NDArray[Any]]) -> list[Detections]:
    """Return what each image's outputs say.

    Raises:
        RequestError: The outputs are not detections as described above.
    """
    boxes, scores, classes = _raw(outputs)
    return [_suppress(b, s, c) for b, s, c in zip(boxes, scores, classes, strict=True)]


def _raw(outputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return boxes (n, N, 4), the best class's score (n, N) and that class (n, N)."""
    arrays = [y.astype(np.float64) for y in outputs.values() if y.ndim == 3]
    final = [y for y in arrays if y.shape[2] == 6]
    if len(arrays) == 1 and final:
        return final[0][..., :4], final[0][..., 4], final[0][..., 5].astype(np.int64)
    boxes = next((y for y in arrays if y.shape[2] == 4), None)
    scores = next((y for y in arrays if boxes is not None and y is not boxes and y.shape[:2] == boxes.shape[:2]), None)
    if boxes is None or scores is None:
        shapes = ", ".join(f"{k} {y.shape}" for k, y in outputs.items())
        raise RequestError(
            f"--task detection needs boxes (n, N, 4) and scores (n, N, classes); the outputs are {shapes}"
        )
    skip = int(scores.shape[2] > 1 and np.allclose(scores.sum(axis=2), 1, atol=1e-3))  # softmax: class 0 is background
    return boxes, scores[..., skip:].max(axis=2), scores[..., skip:].argmax(axis=2)


def _suppress(boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any]) -> Detections:
    """Keep boxes above SCORE that no better box of the same class overlaps by OVERLAP."""
    order = np.argsort(-scores, kind="stable")[:MOST]
    order = order[scores[order] >= SCORE]
    kept: list[int] = []
    for i in order:
        same = [j for j in kept if classes[j] == classes[i]]
        if not same or overlap(boxes[i][None], boxes[same]).max() < OVERLAP:
            kept.append(int(i))
    return Detections(boxes[kept], scores[kept], classes[kept])


def overlap(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return intersection over union (k, m) of corner boxes a (k, 4) and b (m, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    result: NDArray[np.float64] = shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-12)
    return result


def count_matches(first: Detections, second: Detections) -> int:
    """Return how many boxes of the same class pair up at OVERLAP or more, the best scores choosing first."""
    if not len(first.boxes) or not len(second.boxes):
        return 0
    ious = overlap(first.boxes, second.boxes) * (first.classes[:, None] == second.classes[None])
    matches = 0
    for row in ious:
        best = int(row.argmax())
        if row[best] >= OVERLAP:
            matches += 1
            ious[:, best] = 0
    return matches
