"""What each output says: classes, detection, segmentation, sequence, embedding or regression; guessed from its values.

The guess looks at the shapes and the values that the original gives for its first inputs; `--task` says it instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.detectors import Reader, find_reader

Kind = Literal["classes", "detection", "segmentation", "sequence", "embedding", "regression"]
Values = NDArray[Any]

LOWEST = 1e-7  # of a probability, before its logit is taken: what is next to 1 in float32
_UNSURE = 0.5  # share of values that lie well between 0 and 1 in an image or of coordinates, but not in a map
_WIDE = 64  # columns from which multiples of 32 are features rather than classes
_COLOURS = (1, 3, 4)  # channels of pictures
_LEAST_SIDE = 4  # cells of a map's shorter side: seventeen points of three numbers are none
_POINTS = (2, 3, 4, 5)  # numbers of a point: x, y, perhaps z, how visible it is, whether it is there
_LEAST_POINTS = 3
_CORNERS = (4, 8)  # numbers of two corners, or of four
# Correlation above that of neighbours, and distance of means beside theirs: 0.6 to 0.9 and 0.1 to 0.5 of landmarks
_TOGETHER, _APART = 0.4, 0.6
_MOST_LABELS = 1 << 12  # more different ones are numbers of places, say
_SYMBOLS = 8  # columns that a sequence of class scores has at least


@dataclass(frozen=True)
class Kinds:
    """Kinds by output name, and how boxes are read, where there are any."""

    of: Mapping[str, Kind]
    reader: Reader | None = None


def guess(
    outputs: Mapping[str, Values], inputs: Sequence[tuple[int | None, ...]] = (), task: str | None = None
) -> Kinds:
    """Return the kinds of outputs.

    `inputs` are the shapes of the network's: images that come out as large as they went in are no maps. A `task` that
    was told is that of the outputs that can be that.
    """
    reader = find_reader(outputs, told=task == "detection") if task in (None, "detection") else None
    kinds: dict[str, Kind] = {}
    for name, y in outputs.items():
        if reader is not None and name in reader.names:
            kinds[name] = "detection"
        else:
            kinds[name] = _fitting(task, y) or _kind(y, inputs)
    if task is None:
        kinds |= dict.fromkeys(_numbers_beside(outputs, kinds), "regression")
    return Kinds(kinds, reader)


def _numbers_beside(outputs: Mapping[str, Values], kinds: Mapping[str, Kind]) -> list[str]:
    """Outputs taken for classes that stand without a Softmax beside one that has it: numbers, as a box and key points.

    The logits of which another output gives the probabilities are classes.
    """
    rows = {k: np.reshape(y, (len(y), -1)) for k, y in outputs.items() if kinds[k] == "classes" and y.dtype.kind == "f"}
    wide = {k: y.astype(np.float64) for k, y in rows.items() if y.shape[1] > 1}
    sure = {k: y for k, y in wide.items() if is_probability(y) and _sums_to_one(y, 1)}
    if not sure:
        return []
    raw = {k: np.exp(y - y.max(1, keepdims=True)) for k, y in wide.items() if k not in sure}
    shares = {k: e / e.sum(1, keepdims=True) for k, e in raw.items()}
    return [
        k
        for k, p in shares.items()
        if not any(p.shape == q.shape and np.allclose(p, q, atol=1e-2) for q in sure.values())
    ]


def channels_first(y: Values, inputs: Sequence[tuple[int | None, ...]]) -> Values:
    """Return an output (inputs, height, width, channels) of a network whose pictures lie so, with its channels first.

    `inputs` are the shapes of the network's; None is an open axis.
    """
    pictures = [s for s in inputs if len(s) == 4]
    last = bool(pictures) and all(s[3] in _COLOURS and s[1] not in _COLOURS for s in pictures)
    if y.ndim != 4 or (pictures and not last) or (y.shape[3] == 1 and not any(_has_sides(y, s) for s in pictures)):
        return y
    narrow = last and y.shape[3] < min(y.shape[1:3])
    return np.moveaxis(y, 3, 1) if narrow or y.shape[1:3] == (1, 1) else y


def _has_sides(y: Values, picture: tuple[int | None, ...]) -> bool:
    """Whether an output (inputs, height, width, 1) is as much wider than high as a picture whose channels are last.

    Where its sizes are open it may be a little of either: 896 candidates of 16 numbers are no map.
    """
    (high, wide), (height, width) = y.shape[1:3], picture[1:3]
    if min(high, wide) < _LEAST_SIDE:
        return False
    if height is None or width is None:
        return bool(max(high, wide) <= 4 * min(high, wide))
    return bool(0.9 <= wide * height / (high * width) <= 1.1)


def _fitting(task: str | None, y: Values) -> Kind | None:
    """The kind that was told, where this output can be that."""
    axes = {"classes": 1, "segmentation": 3, "sequence": 3, "embedding": 2, "regression": 0}
    if task not in axes or y.ndim < axes[task]:
        return None
    told: Kind = task  # type: ignore[assignment]  # the keys above are kinds
    return told


def _kind(y: Values, inputs: Sequence[tuple[int | None, ...]]) -> Kind:
    if y.dtype.kind in "iu":
        return "classes" if y.size == len(np.atleast_1d(y)) or _are_labels(y) else "regression"
    if y.dtype.kind != "f" or not y.size or not y.ndim:
        return "regression"
    flat = math.prod(y.shape[2:]) == 1
    if y.ndim == 1 or flat:
        return _vector(y.reshape(len(y), -1), inputs)
    if y.ndim == 3:
        return _rows(y)
    return _map(y, inputs)


def _vector(y: Values, inputs: Sequence[tuple[int | None, ...]]) -> Kind:
    """Of (inputs, columns). As many as an input has steps are a value for each step, no classes."""
    columns = y.shape[1]
    if columns == 1:
        return "classes"
    if is_probability(y) and _sums_to_one(y, 1):
        return "classes"
    if _sums_to_one(np.exp(np.minimum(y.astype(np.float64), 1.0)), 1):
        return "classes"
    lengths = np.linalg.norm(y.astype(np.float64), axis=1)
    if len(y) > 1 and columns >= 8 and np.ptp(lengths) < 1e-3 * lengths.max(initial=0):
        return "embedding"
    by_step = columns >= _WIDE and any(len(s) < 4 and columns in s[1:] for s in inputs)
    if by_step or _are_points(y):
        return "regression"
    return "embedding" if columns >= _WIDE and columns % 32 == 0 else "classes"


def _are_labels(y: Values) -> bool:
    """Whether whole numbers are classes, one for each place, as an ArgMax gives them; bytes are pixels."""
    wide = y.dtype.itemsize > 1 and y.size > 0
    return wide and int(y.min()) >= 0 and int(y.max()) < _MOST_LABELS


def _are_points(y: Values) -> bool:
    """Whether columns (inputs, columns) are coordinates of points, one point after another.

    All x move together, as do all y, and lie in one place; neighbouring columns do neither. Of classes in any order
    there is no such period.
    """
    if len(y) < 4:
        return False
    mean, spread = y.mean(0, dtype=np.float64), y.std(0, dtype=np.float64)
    z = (y - mean) / np.maximum(spread, 1e-12)

    def lagged(lag: int) -> tuple[float, float]:
        """Correlation of columns that are so far apart, and how far apart their means are."""
        return float((z[:, lag:] * z[:, :-lag]).mean()), float(np.abs(mean[lag:] - mean[:-lag]).mean())

    periods = [p for p in _POINTS if y.shape[1] >= _LEAST_POINTS * p]
    if not periods:
        return False
    beside, far = lagged(1)
    return any(r > beside + _TOGETHER and d < _APART * far for r, d in map(lagged, periods))


def _rows(y: Values) -> Kind:
    """Of (inputs, steps, columns)."""
    if y.shape[2] >= _SYMBOLS:
        probabilities = is_probability(y) and _sums_to_one(y, 2)
        logs = _sums_to_one(np.exp(np.minimum(y.astype(np.float64), 1.0)), 2)
        if probabilities or logs or (not is_probability(y) and _mostly_one_class(y)):
            return "sequence"
    if is_probability(y):
        corners = y.shape[2] in _CORNERS and y.shape[1] > 1 and not _sure(y)
        return "regression" if corners else "segmentation"
    return "embedding" if y.shape[2] >= _WIDE and y.shape[2] % 32 == 0 else "regression"


def _mostly_one_class(y: Values) -> bool:
    """Whether rows of logits name one class (the blank) in half of the steps, but not in all."""
    best = y.argmax(2)
    share = np.bincount(best.ravel()).max() / best.size
    return bool(0.5 <= share < 1) and y.shape[2] > y.shape[1] / 4


def _map(y: Values, inputs: Sequence[tuple[int | None, ...]]) -> Kind:
    """Of (inputs, channels, …)."""
    channels = y.shape[1]
    if channels > 1 and is_probability(y) and _sums_to_one(y, 1):
        return "segmentation"
    if is_probability(y):
        return "segmentation" if _sure(y) and min(y.shape[2:]) >= _LEAST_SIDE else "regression"
    image = any(len(s) == y.ndim and s[1] == channels for s in inputs)
    points = channels == 1 and min(y.shape[2:]) < _LEAST_SIDE
    if image or points or y.min() >= 0 or channels >= _WIDE:
        return "regression"
    return "segmentation"


def _sure(y: Values) -> bool:
    """Whether most of some numbers from 0 to 1 are near to one of them: those of pictures and of places are not."""
    return float(np.mean((y > 0.2) & (y < 0.8))) < _UNSURE


def is_probability(y: Values) -> bool:
    """Whether all values lie between 0 and 1."""
    return y.dtype.kind == "f" and bool(y.size) and float(y.min()) >= -1e-6 and float(y.max()) <= 1 + 1e-6


def _sums_to_one(y: Values, axis: int) -> bool:
    return bool(np.allclose(y.sum(axis=axis, dtype=np.float64), 1, atol=1e-2))


def logits(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 − p)) of probabilities, which brings what is nearly 0 or 1 into view."""
    p = np.clip(y, LOWEST, 1 - LOWEST)
    return np.asarray(np.log(p) - np.log1p(-p), np.float64)
