"""Detectors' outputs read as boxes and scores, whatever way they have of giving them.

`find_reader` recognizes, from shapes and values,

- a pair of outputs boxes (n, N, 4) and scores (n, N, classes), (n, classes, N) or (n, N), batch axis or not;
- one output (n, N, 6) of corners, score and class;
- one output (n, 4 + classes, N) or (n, N, 5 + classes) of centre, size, (objectness,) classes, behind which there may
  be factors of masks (n, masks, h, w) in a second one;
- maps that are not decoded: (n, 3·(5 + classes), h, w) or (n, 3, h, w, 5 + classes) of several sizes, or for each size
  a map of classes, one of 4 coordinates and perhaps one of objectness.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Double = NDArray[np.float64]
    Outputs = Mapping[str, NDArray[Any]]

VALID = 0.9  # share of boxes that must be corners, or have a size, to be read so
FEW = 16  # places that a grid of candidates has at least

Form = Literal["corners", "centres", "raw"]


@dataclass(frozen=True)
class Candidates:
    """All that a detector proposes for n images: boxes (n, N, 4), their scores (n, N, classes) as probabilities.

    `labels` (n, N) are the classes where the scores are of one class alone.
    """

    boxes: Double
    scores: Double
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Reader:
    """How a network's boxes are read.

    Attributes:
        names: Outputs that say them.
        form: How boxes lie in them.
        read: Outputs → boxes as they lie, and values of scores.
        squash: Whether scores become probabilities by a sigmoid.
        pair: Whether the first output has the boxes and the second the scores.
    """

    names: tuple[str, ...]
    form: Form
    read: Callable[[Outputs], Candidates]
    squash: bool = False
    pair: bool = False

    def candidates(self, outputs: Outputs) -> Candidates:
        """Return boxes as corners (as they are, where not decoded) and scores between 0 and 1."""
        found = self.read(outputs)
        boxes = _corners(found.boxes) if self.form == "centres" else found.boxes
        return Candidates(boxes, _sigmoid(found.scores) if self.squash else found.scores, found.labels)


def find_reader(outputs: Outputs, told: bool = False) -> Reader | None:
    """Return how boxes are read from outputs like these, or None where they are no detections.

    Args:
        outputs: What the original gave, by name.
        told: Whether the user says that they are detections; then less is asked of their values.
    """
    floats = {k: y for k, y in outputs.items() if y.dtype.kind == "f" and y.size}
    for find in (_pair, _final, _transposed, _rows, _heads, _heads_apart):
        reader = find(floats, outputs, told)
        if reader is not None:
            return reader
    return None


def _pair(floats: Outputs, outputs: Outputs, _told: bool) -> Reader | None:
    boxes = next((k for k, y in floats.items() if y.ndim in (2, 3) and y.shape[-1] == 4), None)
    if boxes is None:
        return None
    lead = floats[boxes].shape[:-1]
    fits = {k: _scores_axis(y.shape, lead) for k, y in floats.items() if k != boxes}
    scores = next((k for k, axis in fits.items() if axis is not None), None)
    if scores is None or math.prod(lead) < 1:
        return None
    axis = fits[scores]
    labels = next((k for k, y in outputs.items() if y.dtype.kind in "iu" and y.shape == lead), None)

    def read(given: Outputs) -> Candidates:
        b, s = given[boxes].astype(np.float64), given[scores].astype(np.float64)
        b, s = (b[None], s[None]) if len(lead) == 1 else (b, s)
        s = s[..., None] if axis == 0 else s.transpose(0, 2, 1) if axis == 1 else s
        names = None if labels is None or axis != 0 else np.asarray(given[labels]).reshape(b.shape[:2])
        return Candidates(b, s, names)

    raw = read(outputs)
    squash = not _between(raw.scores)
    one = not squash and raw.scores.shape[2] > 1 and np.allclose(raw.scores.sum(axis=2), 1, atol=1e-3)
    used = (boxes, scores) if labels is None or axis != 0 else (boxes, scores, labels)
    return Reader(used, _form(raw.boxes), _without_background(read) if one else read, squash, pair=True)


def _scores_axis(shape: tuple[int, ...], lead: tuple[int, ...]) -> int | None:
    """0: one score a box; 1: (n, classes, N); 2: (n, N, classes); None: no scores of these boxes."""
    if shape == lead:
        return 0
    if len(shape) != 3 or len(lead) != 2 or shape[0] != lead[0]:
        return None
    return 2 if shape[1] == lead[1] else 1 if shape[2] == lead[1] else None


def _without_background(read: Callable[[Outputs], Candidates]) -> Callable[[Outputs], Candidates]:
    """Of a softmax class 0 is the background."""

    def cut(given: Outputs) -> Candidates:
        found = read(given)
        return Candidates(found.boxes, found.scores[..., 1:], found.labels)

    return cut


def _final(floats: Outputs, _outputs: Outputs, _told: bool) -> Reader | None:
    """Corners, score, class."""
    name = next((k for k, y in floats.items() if y.ndim == 3 and y.shape[2] == 6), None)
    if name is None or not (np.mod(floats[name][..., 5], 1) == 0).all() or not _between(floats[name][..., 4]):
        return None

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64)
        return Candidates(y[..., :4], y[..., 4:5], y[..., 5].astype(np.int64))

    return Reader((name,), "corners", read)


def _transposed(floats: Outputs, _outputs: Outputs, told: bool) -> Reader | None:
    """Centre, size, classes; candidates along the last axis."""
    masks = _masks(floats)
    fits = (k for k, y in floats.items() if y.ndim == 3 and 5 + masks <= y.shape[1] < y.shape[2] and y.shape[2] >= FEW)
    name = next((k for k in fits if told or _looks_decoded(floats[k].transpose(0, 2, 1), 4, masks)), None)
    if name is None:
        return None
    last = floats[name].shape[1] - masks

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64).transpose(0, 2, 1)
        return Candidates(y[..., :4], y[..., 4:last])

    return Reader((name,), "centres", read, not _between(floats[name][:, 4:last]))


def _rows(floats: Outputs, _outputs: Outputs, told: bool) -> Reader | None:
    """Centre, size, objectness, classes; a candidate a row."""
    masks = _masks(floats)
    fits = (k for k, y in floats.items() if y.ndim == 3 and 6 + masks <= y.shape[2] < y.shape[1] and y.shape[1] >= FEW)
    name = next((k for k in fits if told or _looks_decoded(floats[k], 4, masks)), None)
    if name is None:
        return None
    last = floats[name].shape[2] - masks
    squash = not _between(floats[name][..., 4:last])

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64)
        return Candidates(y[..., :4], _times(y[..., 4:5], y[..., 5:last], squash))

    return Reader((name,), "centres", read)


def _masks(floats: Outputs) -> int:
    """Factors of masks at the end of each candidate: as many as there are masks (n, masks, h, w) in another output."""
    maps = [y.shape[1] for y in floats.values() if y.ndim == 4]
    return int(maps[0]) if len(maps) == 1 and len(floats) == 2 else 0


def _heads(floats: Outputs, _outputs: Outputs, told: bool) -> Reader | None:
    """Maps of three anchors a place, of several sizes."""
    maps = {k: y for k, y in floats.items() if y.ndim == 5 and y.shape[1] == 3 and y.shape[4] >= 6}
    maps = maps or {k: y for k, y in floats.items() if y.ndim == 4 and y.shape[1] % 3 == 0 and y.shape[1] >= 18}
    if len({_width(y) for y in maps.values()}) != 1 or not (_pyramid([_size(y) for y in maps.values()]) or told):
        return None
    names = tuple(maps)

    def read(given: Outputs) -> Candidates:
        rows = np.concatenate([_anchors(given[k].astype(np.float64)) for k in names], axis=1)
        return Candidates(rows[..., :4], _times(rows[..., 4:5], rows[..., 5:], not _between(rows[..., 4:])))

    return Reader(names, "raw", read)


def _heads_apart(floats: Outputs, _outputs: Outputs, _told: bool) -> Reader | None:
    """For each size a map of classes, one of coordinates and perhaps one of objectness."""
    maps = {k: y for k, y in floats.items() if y.ndim == 4}
    sizes = sorted({_size(y) for y in maps.values()}, reverse=True)
    levels = [[k for k, y in maps.items() if _size(y) == size] for size in sizes]
    if not _pyramid(sizes) or any(len(level) not in (2, 3) for level in levels):
        return None
    roles = [_roles({k: maps[k] for k in level}) for level in levels]
    if any(r is None for r in roles):
        return None

    def read(given: Outputs) -> Candidates:
        boxes, scores = [], []
        for role in roles:
            assert role is not None
            box, seen, sure = (None if k is None else _places(given[k].astype(np.float64)) for k in role)
            assert box is not None
            assert seen is not None
            boxes.append(box)
            ones = np.ones((*seen.shape[:2], 1)) if sure is None else sure
            scores.append(_times(ones, seen, not _between(seen)))
        return Candidates(np.concatenate(boxes, axis=1), np.concatenate(scores, axis=1))

    return Reader(tuple(maps), "raw", read)


def _roles(level: Outputs) -> tuple[str, str, str | None] | None:
    """Names of the maps of coordinates, classes and objectness of one size."""
    box = next((k for k, y in level.items() if y.shape[1] == 4), None)
    others = sorted((k for k in level if k != box), key=lambda k: -level[k].shape[1])
    if box is None or not others or (len(others) == 2 and level[others[1]].shape[1] != 1):
        return None
    return box, others[0], others[1] if len(others) == 2 else None


def _places(y: Double) -> Double:
    """(n, channels, h, w) as (n, places, channels)."""
    return y.reshape(*y.shape[:2], -1).transpose(0, 2, 1)


def _anchors(y: Double) -> Double:
    """Maps of three anchors a place as (n, candidates, 5 + classes)."""
    if y.ndim == 5:
        return y.reshape(len(y), -1, y.shape[4])
    parts = y.reshape(len(y), 3, -1, *y.shape[2:])
    return parts.transpose(0, 1, 3, 4, 2).reshape(len(y), -1, parts.shape[2])


def _times(sure: Double, classes: Double, squash: bool) -> Double:
    """Objectness times classes, as probabilities."""
    if not squash:
        return sure * classes
    return (sure if _between(sure) else _sigmoid(sure)) * _sigmoid(classes)


def _width(y: NDArray[Any]) -> int:
    return int(y.shape[4] if y.ndim == 5 else y.shape[1])


def _size(y: NDArray[Any]) -> tuple[int, int]:
    return (int(y.shape[2]), int(y.shape[3]))


def _pyramid(sizes: list[tuple[int, int]]) -> bool:
    """Whether there are several sizes, each half of the one before, give or take a place."""
    ordered = sorted(set(sizes), reverse=True)
    steps = itertools.pairwise(ordered)
    return len(ordered) > 1 and all(abs(a[0] - 2 * b[0]) <= 1 and abs(a[1] - 2 * b[1]) <= 1 for a, b in steps)


def _looks_decoded(y: NDArray[Any], scores: int, masks: int) -> bool:
    """Whether columns before `scores` are centres and sizes in pixels, and those before the masks' probabilities."""
    return (
        _between(y[..., scores : y.shape[-1] - masks])
        and float(y[..., :4].max()) > 1.5
        and float((y[..., 2:4] >= 0).mean()) >= VALID
    )


def _form(boxes: Double) -> Form:
    """Whether boxes are corners, or centres and sizes, or not decoded."""
    if not boxes.size or ((boxes[..., 2] >= boxes[..., 0]) & (boxes[..., 3] >= boxes[..., 1])).mean() >= VALID:
        return "corners"
    return "centres" if (boxes[..., 2:] >= 0).all(axis=-1).mean() >= VALID else "raw"


def _between(y: NDArray[Any]) -> bool:
    return not y.size or (float(y.min()) >= -1e-6 and float(y.max()) <= 1 + 1e-6)


def _sigmoid(x: Double) -> Double:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float64)


def _corners(boxes: Double) -> Double:
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
