"""How much a network reacts to inputs: what its own answers say about which input it was given.

For answers that are probabilities p the measure is the mutual information H(E p) − E H(p) in nats, E over inputs and,
where there are several, positions: 0 where the network says the same to everything, or says nothing (no box, all blank,
every class alike), large where it gives different answers and is sure of them. Read as probabilities are

- scores of classes (n, C): themselves if they sum to 1, else their softmax;
- rows over an axis that sums to 1, as characters in every column, classes in every place;
- all other values within 0 and 1, each as one of two answers: maps of text, notes, speech.

Of a network that is shown lines of text, scores (n, steps, C) of any size are those of characters (see `read_steps`);
where nothing else can be read, channels of maps of any sign are answers before their Sigmoid (see `read_maps`). Other
answers (coordinates, images, states) are not read: their spread tells scale, not interest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]
Answers = Sequence[NDArray[Any]]  # of one kind of inputs: every output's values for all of them, (n, ...)

MOST_CLASSES = 1 << 18  # as vocabularies have; a row of more is a map laid flat
SYMBOLS = 8  # characters, at least, that a step chooses from
FEATURES, SIDE = 64, 4  # channels from which they are features, and places of the shorter side of a map, at least
LEAST = 1e-3  # nats; below, an output says nothing to any of the kinds
SURE = 0.95  # probability above which a symbol counts as read
_ROUNDING = 1e-2  # by which probabilities may miss the sum 1, or leave 0..1


def information(values: NDArray[Any]) -> float | None:
    """Mutual information in nats of one output's values (n, ...) for n inputs; None where they are no probabilities."""
    if values.dtype.kind != "f" or len(values) < 2 or not np.isfinite(values).all() or values.ndim < 1:
        return None
    p = probabilities(values.astype(np.float64))
    return None if p is None else float(_entropy(p.mean(0, keepdims=True))[0] - _entropy(p).mean())


def informations(p: Double) -> Double:
    """What each row of probabilities p (m, C) says beyond their mean, in nats: KL(p(x) ‖ E p), (m,).

    Their mean is the mutual information.
    """
    shared = np.log(np.maximum(p.mean(0), 1e-30))
    return np.asarray(-_entropy(p) - np.maximum(p, 0) @ shared, np.float64)


def probabilities(values: Double) -> Double | None:
    """Values (n, ...) as rows of probabilities (m, C) for inputs and positions, or None."""
    count = len(values)
    if values.ndim >= 2 and values[0].size == values.shape[1] > 1:
        if values.shape[1] > MOST_CLASSES:
            return None
        rows = values.reshape(count, -1)
        return rows if _sums_to_one(rows, 1) else _softmax(rows)
    for axis in (values.ndim - 1, 1) if values.ndim > 2 else ():
        if values.shape[axis] > 1 and _sums_to_one(values, axis):
            return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        return None
    once = np.clip(values.reshape(-1, 1), 0, 1)
    return np.concatenate([once, 1 - once], axis=1)


def read_steps(values: NDArray[Any]) -> NDArray[Any]:
    """What a network says of lines of text, with scores (n, steps, C) of characters as probabilities."""
    scores = values.dtype.kind == "f" and values.ndim == 3 and values.shape[2] >= SYMBOLS and np.isfinite(values).all()
    if not scores or probabilities(values.astype(np.float64)) is not None:
        return values
    return _softmax(values.reshape(-1, values.shape[2]).astype(np.float64)).reshape(values.shape)


def read_maps(values: NDArray[Any], colours: int) -> list[NDArray[Any]]:
    """Channels of maps (n, C, h, w), each as probabilities by itself; what is no map, or a picture, as it is.

    `colours` are channels of the pictures that the network reads.
    """
    maps = values.dtype.kind == "f" and values.ndim == 4 and values.shape[1] not in (0, colours)
    if not maps or values.shape[1] >= FEATURES or min(values.shape[2:]) < SIDE or not np.isfinite(values).all():
        return [values]
    return [1 / (1 + np.exp(-np.clip(values[:, c : c + 1], -50, 50))) for c in range(values.shape[1])]


def ratings(answers: Mapping[str, Answers]) -> dict[str, float]:
    """How much the network reacts to each of some kinds of inputs, by their answers: 0 to 1, 1 the most of them all.

    Each output counts as much as the others, relative to the kind that it tells most about; those that tell nothing of
    any do not count. Empty where none counts.
    """
    table = np.array([[information(values) or 0.0 for values in outputs] for outputs in answers.values()])
    if not table.size:
        return {}
    most = table.max(0)
    counting = most >= LEAST
    if not counting.any():
        return {}
    shares = (table[:, counting] / most[counting]).mean(1)
    return {kind: float(share) for kind, share in zip(answers, shares, strict=True)}


def mixed(first: Answers, second: Answers) -> Answers:
    """Answers to a mixture of two kinds, as many inputs as each has, half of them of each."""
    return [
        np.concatenate([a[::2], b[1::2]]) if a.ndim and a.shape[1:] == b.shape[1:] else a  # else it is of no fixed size
        for a, b in zip(first, second, strict=True)
    ]


def _sums_to_one(values: Double, axis: int) -> bool:
    return bool(values.min() >= -_ROUNDING and np.abs(values.sum(axis) - 1).max() <= _ROUNDING)


def _softmax(rows: Double) -> Double:
    p = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True), np.float64)


def _entropy(p: Double) -> Double:
    """Of rows (m, C), in nats."""
    p = np.maximum(p, 0)
    return np.asarray(-(p * np.log(np.maximum(p, 1e-30))).sum(-1), np.float64)


class Symbols(NamedTuple):
    """What is read in lines: how many different symbols for sure, and how sure it is of those that are no gaps."""

    different: int = 0
    sureness: float = 0.0


def symbols(values: NDArray[Any]) -> Symbols:
    """What is read in lines, by scores (n, steps, C); nothing where they are no scores of symbols.

    The symbol of most steps is the gap between characters.
    """
    steps = read_steps(values)
    p = probabilities(steps.astype(np.float64)) if steps.ndim == 3 else None
    if p is None or p.shape != (steps.shape[0] * steps.shape[1], steps.shape[2]):
        return Symbols()
    first, sure = p.argmax(1), p.max(1)
    read = first != np.bincount(first).argmax()
    return Symbols(len(np.unique(first[read & (sure > SURE)])), float(sure[read].mean()) if read.any() else 0.0)
