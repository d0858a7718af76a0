"""Detections of two networks matched box by box.

Boxes that are not decoded are matched where both networks find the same class at the same place of the map.
`matched` is 2·matches / (boxes of both); where the original finds no box, nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import RequestError
from onnx_udfc.numerics.detectors import Form, Reader, find_reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Double = NDArray[np.float64]
    Outputs = Mapping[str, NDArray[Any]]

SCORE = 0.3  # a box counts from here on
OVERLAP = 0.5
MOST = 200  # boxes of one image


@dataclass(frozen=True)
class Detections:
    """Boxes (k, 4), scores (k,), classes (k,) and places among the candidates (k,) of one image, best first."""

    boxes: Double
    scores: Double
    classes: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass
class Matched:
    """Boxes counted over images."""

    reader: Reader
    matches: int = 0
    total: int = 0
    original: int = 0

    def add(self, original: Outputs, compressed: Outputs) -> None:
        """Take in one run's outputs by name."""
        pairs = zip(detections(original, self.reader), detections(compressed, self.reader), strict=True)
        for first, second in pairs:
            self.matches += count_matches(first, second, self.reader.form == "raw")
            self.total += len(first.boxes) + len(second.boxes)
            self.original += len(first.boxes)

    def share(self) -> float | None:
        """Return 2·matches / total; None where the original found nothing."""
        return 2 * self.matches / self.total if self.original else None


def detections(outputs: Outputs, reader: Reader | None = None) -> list[Detections]:
    """Return what each image's outputs say.

    Raises:
        RequestError: The outputs are not detections as described above.
    """
    reader = reader or known_reader(outputs)
    found = reader.candidates(outputs)
    best = found.scores.max(axis=2, initial=0.0)
    labels = found.scores.argmax(axis=2) if found.labels is None and found.scores.shape[2] else found.labels
    classes = np.zeros(best.shape, np.int64) if labels is None else labels
    return [_suppress(b, s, c, reader.form) for b, s, c in zip(found.boxes, best, classes, strict=True)]


def known_reader(outputs: Outputs) -> Reader:
    """Return how boxes are read.

    Raises:
        RequestError: The outputs are not detections as described above.
    """
    reader = find_reader(outputs, told=True)
    if reader is None:
        shapes = ", ".join(f"{k} {y.shape}" for k, y in outputs.items())
        raise RequestError(
            f"--task detection needs boxes (n, N, 4) and scores (n, N, classes), or one output of both; the outputs are"
            f" {shapes}"
        )
    return reader


def _suppress(boxes: Double, scores: Double, classes: NDArray[Any], form: Form) -> Detections:
    """Keep boxes above SCORE that no better box of the same class overlaps by OVERLAP."""
    order = np.argsort(-scores, kind="stable")[:MOST]
    order = order[scores[order] >= SCORE]
    kept: list[int] = []
    for i in order:
        same = [j for j in kept if classes[j] == classes[i]] if form != "raw" else []
        if not same or overlap(boxes[i][None], boxes[same]).max() < OVERLAP:
            kept.append(int(i))
    return Detections(boxes[kept], scores[kept], classes[kept], np.array(kept, np.int64))


def overlap(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return intersection over union (k, m) of corner boxes a (k, 4) and b (m, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    result: NDArray[np.float64] = shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-12)
    return result


def count_matches(first: Detections, second: Detections, raw: bool = False) -> int:
    """Return how many boxes of the same class pair up at OVERLAP or more, the best scores choosing first.

    Boxes that are not decoded (`raw`) pair up where they are at the same place.
    """
    if not len(first.boxes) or not len(second.boxes):
        return 0
    same = first.classes[:, None] == second.classes[None]
    alike = first.places[:, None] == second.places[None] if raw else overlap(first.boxes, second.boxes)
    ious = (alike * same).astype(np.float64)
    matches = 0
    for row in ious:
        best = int(row.argmax())
        if row[best] >= OVERLAP:
            matches += 1
            ious[:, best] = 0
    return matches
