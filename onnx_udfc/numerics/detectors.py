"""Detectors' outputs read as boxes and scores, whatever way they have of giving them.

`find_reader` recognizes, from shapes and values,

- a pair of outputs boxes (n, N, 4) and scores (n, N, classes), (n, classes, N) or (n, N), batch axis or not;
- one output (n, N, 6) of corners, score and class;
- one output (n, 4 + classes, N) or (n, N, 5 + classes) of centre, size, (objectness,) classes, behind which there may
  be factors of masks (n, masks, h, w) in a second one; rows of the latter that are not decoded, of three or four sizes;
- maps that are not decoded: (n, 3·(5 + classes), h, w) or (n, 3, h, w, 5 + classes) of several sizes;
- one output (n, N, classes + 4·k) of classes and the odds of k distances to each side;
- for each of several sizes a map (n, channels, h, w), or rows (n, N, channels) or (N, channels), of classes, one of 4
  coordinates or of the odds 4·k of k distances to each side, perhaps one of objectness, perhaps one of landmarks.
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
MOST_ROLES = 4  # outputs of one size: coordinates, classes, objectness, landmarks
PYRAMIDS = (1 + 4 + 16, 1 + 4 + 16 + 64)  # places of three and of four sizes, for each of the smallest
QUARTER = 2.0, 5.0  # times as many places has one size as the next: 9 to 4, or 35 to 8

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

    `told` is whether the user says that they are detections; then less is asked of their values.
    """
    floats = {k: y for k, y in outputs.items() if y.dtype.kind == "f" and y.size}
    for find in (_levels, _pair, _final, _transposed, _rows, _odds, _heads):
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
    if scores is None or math.prod(lead) < 1 or _same_classes(floats[boxes], floats[scores]):
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


def _same_classes(logits: NDArray[Any], p: NDArray[Any]) -> bool:
    """Whether four numbers are those of classes, of which another output gives the probabilities."""
    if logits.shape != p.shape or not _between(p):
        return False
    y = logits.astype(np.float64)
    shares = np.exp(y - y.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return any(np.allclose(found, p, atol=1e-3) for found in (shares, _sigmoid(y)))


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
    name = next((k for k in fits if told or _looks_decoded(floats[k].transpose(0, 2, 1), masks)), None)
    if name is None:
        return None
    last = floats[name].shape[1] - masks

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64).transpose(0, 2, 1)
        return Candidates(y[..., :4], y[..., 4:last])

    return Reader((name,), "centres", read, not _between(floats[name][:, 4:last]))


def _rows(floats: Outputs, _outputs: Outputs, told: bool) -> Reader | None:
    """Centre, size, objectness, classes; a candidate a row. The first two may be what is left to decode."""
    masks = _masks(floats)
    fits = [k for k, y in floats.items() if y.ndim == 3 and 6 + masks <= y.shape[2] < y.shape[1] and y.shape[1] >= FEW]
    decoded = next((k for k in fits if _looks_decoded(floats[k], masks)), None)
    name = decoded or next((k for k in fits if told or _looks_raw(floats[k], masks)), None)
    if name is None:
        return None
    form: Form = "raw" if decoded is None and _looks_raw(floats[name], masks) else "centres"
    last = floats[name].shape[2] - masks
    squash = not _between(floats[name][..., 4:last])

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64)
        return Candidates(y[..., :4], _times(y[..., 4:5], y[..., 5:last], squash))

    return Reader((name,), form, read)


def _odds(floats: Outputs, _outputs: Outputs, _told: bool) -> Reader | None:
    """Classes as probabilities, then the odds of each distance; a candidate a row, all sizes together."""
    wide = {k: y for k, y in floats.items() if y.ndim == 3 and y.shape[1] >= FEW}
    name = next((k for k, y in wide.items() if _behind_classes(y)), None)
    if name is None:
        return None
    first = floats[name].shape[2] - _behind_classes(floats[name])

    def read(given: Outputs) -> Candidates:
        y = given[name].astype(np.float64)
        return Candidates(_distances(y[..., first:]), y[..., :first])

    return Reader((name,), "raw", read)


def _behind_classes(y: NDArray[Any]) -> int:
    """How many columns of odds (n, N, columns) stand behind columns of probabilities; 0 where it is not so."""
    likely = (y.min((0, 1)) >= -1e-6) & (y.max((0, 1)) <= 1 + 1e-6)
    odds = int(likely.size - likely.argmin()) if likely[0] and not likely.all() else 0
    return odds if odds > 4 and odds % 4 == 0 and not likely[likely.size - odds :].any() else 0


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


def _levels(floats: Outputs, _outputs: Outputs, _told: bool) -> Reader | None:
    """For each size rows or maps: of classes, of coordinates or the odds of each distance, perhaps of objectness."""
    for dims in ((4,), (2, 3)):
        grids = {k: y for k, y in floats.items() if y.ndim in dims}
        sizes = sorted({_size(y) for y in grids.values()}, reverse=True)
        roles = _roles([{k: y for k, y in grids.items() if _size(y) == size} for size in sizes])
        if roles is not None and _pyramid(sizes):
            return Reader(tuple(grids), "raw", _read_levels(roles))
    return None


@dataclass(frozen=True)
class _Roles:
    """Names of the outputs of coordinates, of classes and of objectness at one size."""

    box: str
    seen: str
    sure: str | None


def _read_levels(roles: list[_Roles]) -> Callable[[Outputs], Candidates]:
    def read(given: Outputs) -> Candidates:
        boxes, scores = [], []
        for role in roles:
            box, seen = (_places(given[k].astype(np.float64)) for k in (role.box, role.seen))
            sure = np.ones((*seen.shape[:2], 1)) if role.sure is None else _places(given[role.sure].astype(np.float64))
            boxes.append(box if box.shape[2] == 4 else _distances(box))
            scores.append(_times(sure, seen, not _between(seen)))
        return Candidates(np.concatenate(boxes, axis=1), np.concatenate(scores, axis=1))

    return read


def _roles(levels: list[Outputs]) -> list[_Roles] | None:
    """What the outputs of each size are; None where sizes differ in what they have."""
    ordered = [sorted(level, key=lambda k: _width(level[k])) for level in levels]
    widths = [[_width(level[k]) for k in names] for level, names in zip(levels, ordered, strict=True)]
    if not widths or not 2 <= len(widths[0]) <= MOST_ROLES or any(w != widths[0] for w in widths):
        return None
    parts = [[level[names[i]] for level, names in zip(levels, ordered, strict=True)] for i in range(len(widths[0]))]
    likely = [all(_between(y) for y in part) for part in parts]
    means = [float(np.mean([y.mean() for y in part])) for part in parts]
    box = _box(widths[0], likely, means)
    rest = [i for i in range(len(parts)) if i != box]
    scores = [i for i in rest if likely[i]] or rest
    if box is None or len(scores) > 2 or (len(scores) == 2 and widths[0][scores[0]] != 1):
        return None
    if widths[0][box] > 4 and not likely[scores[-1]] and means[scores[-1]] >= 0:  # features as well as odds
        return None
    sure = scores[0] if len(scores) == 2 else None
    return [_Roles(names[box], names[scores[-1]], None if sure is None else names[sure]) for names in ordered]


def _box(widths: list[int], likely: list[bool], means: list[float]) -> int | None:
    """Which output has coordinates, or 4 · k odds of distances: what is no probability sooner, 4 numbers sooner.

    Of two that may be odds, classes are those that are mostly unlikely.
    """
    plain = [i for i, w in enumerate(widths) if w == 4]
    odds = [i for i, w in enumerate(widths) if w > 4 and w % 4 == 0 and not likely[i]]
    return min(plain + odds, key=lambda i: (likely[i], widths[i] != 4, -means[i]), default=None)


def _distances(odds: Double) -> Double:
    """The mean of 0, 1, 2 … by odds (n, N, 4 · k) of each, for each of the four sides (n, N, 4)."""
    parts = odds.reshape(*odds.shape[:2], 4, -1)
    e = np.exp(parts - parts.max(axis=3, keepdims=True))
    return np.asarray(e @ np.arange(parts.shape[3]) / e.sum(axis=3))


def _places(y: Double) -> Double:
    """Maps (n, channels, h, w) or rows (n, N, channels), (N, channels) as (n, places, channels)."""
    if y.ndim == 4:
        return y.reshape(*y.shape[:2], -1).transpose(0, 2, 1)
    return y if y.ndim == 3 else y[None]


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
    return int(y.shape[1] if y.ndim == 4 else y.shape[-1])


def _size(y: NDArray[Any]) -> tuple[int, ...]:
    """Sides of a map, or how many rows there are."""
    return (int(y.shape[2]), int(y.shape[3])) if y.ndim > 3 else (int(y.shape[-2]),)


def _pyramid(sizes: list[tuple[int, ...]]) -> bool:
    """Whether there are several sizes, each half of the one before, give or take a place; of rows about a quarter."""
    ordered = sorted(set(sizes), reverse=True)
    return len(ordered) > 1 and all(_halved(a, b) for a, b in itertools.pairwise(ordered))


def _halved(larger: tuple[int, ...], smaller: tuple[int, ...]) -> bool:
    if len(larger) == 1:
        return bool(smaller[0]) and QUARTER[0] <= larger[0] / smaller[0] <= QUARTER[1]
    return all(abs(a - 2 * b) <= 1 for a, b in zip(larger, smaller, strict=True))


def _looks_decoded(y: NDArray[Any], masks: int) -> bool:
    """Whether the first 4 columns are centres and sizes in pixels, and those up to the masks' probabilities.

    N centres lie on grids, on the finest about √N beside each other, each in a pixel of its own.
    """
    return (
        _between(y[..., 4 : y.shape[-1] - masks])
        and float(y[..., :4].max()) > 1.5
        and float((y[..., 2:4] >= 0).mean()) >= VALID
        and float(np.ptp(y[..., :2])) > math.sqrt(y.shape[1]) / 2
    )


def _looks_raw(y: NDArray[Any], masks: int) -> bool:
    """Whether rows are those of several sizes, of shifts and logarithms of sizes before probabilities."""
    whole = any(y.shape[1] % places == 0 for places in PYRAMIDS)
    return whole and _between(y[..., 4 : y.shape[-1] - masks]) and not _between(y[..., :4])


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
