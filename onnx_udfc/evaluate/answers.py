"""What two networks answer, counted: classes, strings, what lies above 0, nearest neighbours, rows.

Each class takes (inputs, …) arrays batch by batch. A share is None where both networks gave one and the same answer
every time (or none at all): agreement comes for free there, and nothing was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.evaluate.detection import OVERLAP, overlap

Double = NDArray[np.float64]

KEPT = 512  # embeddings that are compared with each other
WIDE = 16  # columns of rows that are matched with each other; wider ones are counted
FEWEST_SURE = 4  # strings, each as much as the network is sure of it, below which these say nothing
ROWS = 200  # of an output whose size depends on values, that are compared
NEAR = 0.1  # of a column's spread, within which two values are one


@dataclass
class Labels:
    """Whole numbers that are classes themselves: (inputs,), or (inputs, ...) one for each place."""

    same: int = 0
    total: int = 0
    _first: Counter[int] = field(default_factory=Counter)
    _second: Counter[int] = field(default_factory=Counter)

    def add(self, y: NDArray[Any], z: NDArray[Any]) -> None:
        """Take in a batch."""
        self.same += int((y == z).sum())
        self.total += y.size
        for counter, values in ((self._first, y), (self._second, z)):
            names, counts = np.unique(values, return_counts=True)
            counter.update(dict(zip(names.tolist(), counts.tolist(), strict=True)))

    def answers(self) -> int:
        """Number of classes that the original named."""
        return len(self._first)

    def share(self) -> float | None:
        """Share of places with the same class."""
        return self.same / self.total if len(self._first) > 1 or self.same < self.total else None

    def chance(self) -> float:
        """Share that would agree if the answers, as frequent as they are, had nothing to do with each other."""
        pairs = sum(n * self._second[name] for name, n in self._first.items())
        return pairs / max(1, self.total) ** 2


@dataclass
class Classes(Labels):
    """Classes of (inputs, classes) scores; of one column the class is whether it lies above 0."""

    lead: float = 0.0
    left: float = 0.0

    def add(self, y: Double, z: Double) -> None:
        """Take in a batch."""
        first, second = (self._classes(v) for v in (y, z))
        super().add(first, second)
        if y.shape[1] > 1:
            self.lead += float(_lead(y, first).sum())
            self.left += float(_lead(z, first).sum())
        else:
            side = np.where(first > 0, 1.0, -1.0)
            self.lead += float((side * y[:, 0]).sum())
            self.left += float((side * z[:, 0]).sum())

    def _classes(self, y: Double) -> NDArray[np.int64]:
        return y.argmax(1) if y.shape[1] > 1 else (y[:, 0] > 0).astype(np.int64)

    def margin_lost(self) -> float | None:
        """Share of the original's lead over the next class that is gone; below 0 if it grew."""
        return 1 - self.left / self.lead if self.lead > 0 else None


def _lead(y: Double, classes: NDArray[np.int64]) -> Double:
    """Score of the given classes less the best other one, (inputs,)."""
    rows = np.arange(len(y))
    others = y.copy()
    others[rows, classes] = -np.inf
    return np.asarray(y[rows, classes] - others.max(1), np.float64)


@dataclass
class Strings:
    """Strings of (inputs, steps, classes) scores, read greedily: repetitions are one, the commonest class is blank.

    Strings also count by the original's certainty of them, the product of its probabilities of all steps: what it only
    guesses at, as it does at many made-up lines, turns with any change.
    """

    blank: int | None = None
    same: int = 0
    total: int = 0
    symbols: int = 0
    sure: float = 0.0
    _kept: float = 0.0
    _said: set[tuple[int, ...]] = field(default_factory=set)

    def add(self, y: Double, z: Double, certain: Double) -> None:
        """Take in a batch; `certain` (inputs,) is how sure the original is of each string, 0 to 1."""
        first, second = y.argmax(2), z.argmax(2)
        if self.blank is None:
            self.blank = int(np.bincount(first.ravel()).argmax())
        for a, b, weight in zip(first, second, certain.tolist(), strict=True):
            said = _collapsed(a, self.blank)
            same = said == _collapsed(b, self.blank)
            self.same += same
            self.total += 1
            self.symbols += len(said)
            if said:
                self.sure, self._kept = self.sure + weight, self._kept + same * weight
            if len(self._said) < KEPT:
                self._said.add(said)

    def answers(self) -> int:
        """Number of different strings that the original gave."""
        return len(self._said)

    def share(self) -> float | None:
        """Share of inputs with the same string; None where the original read nothing."""
        return self.same / self.total if self.symbols and len(self._said) > 1 else None

    def sure_share(self) -> float | None:
        """The same, each string counted by how sure the original is of it; None where it is sure of next to none."""
        return self._kept / self.sure if self.sure >= FEWEST_SURE and self.share() is not None else None


def certainty(y: Double, *, probability: bool) -> Double:
    """How sure (inputs,) a network is of all that it names in (inputs, steps, classes) probabilities or logits."""
    if probability:
        return np.asarray(np.clip(y.max(2), 0, 1).prod(1))
    return np.asarray((1 / np.exp(y - y.max(2, keepdims=True)).sum(2)).prod(1))


def _collapsed(steps: NDArray[np.int64], blank: int) -> tuple[int, ...]:
    """Drop repetitions, then blanks."""
    kept = steps[np.concatenate([[True], steps[1:] != steps[:-1]])]
    return tuple(kept[kept != blank].tolist())


@dataclass
class Overlap:
    """Cells of maps (inputs, cells, channels): above 0 in each channel, or with `exclusive` of the same class.

    Classes of exclusive maps count by how much of them there is; the commonest class of the first batch is background.
    """

    exclusive: bool = False
    common: int = 0
    either: int = 0
    original: int = 0
    _background: int | None = None

    def add(self, y: Double, z: Double) -> None:
        """Take in a batch."""
        if not self.exclusive:
            a, b = y > 0, z > 0
            self._count(a & b, a | b, a)
            return
        first, second = y.argmax(2), z.argmax(2)
        if self._background is None:
            self._background = int(np.bincount(first.ravel()).argmax())
        shown = first != self._background
        self._count(shown & (first == second), shown | (second != self._background), shown)

    def _count(self, common: NDArray[np.bool_], either: NDArray[np.bool_], original: NDArray[np.bool_]) -> None:
        self.common += int(common.sum())
        self.either += int(either.sum())
        self.original += int(original.sum())

    def answers(self) -> int:
        """Number of cells that are on in the original."""
        return self.original

    def share(self) -> float | None:
        """Intersection over union; None where nothing is on in the original."""
        return self.common / self.either if self.original else None


@dataclass
class Neighbours:
    """Embeddings (inputs, columns); the first KEPT are compared."""

    _first: list[Double] = field(default_factory=list)
    _second: list[Double] = field(default_factory=list)

    def add(self, y: Double, z: Double) -> None:
        """Take in a batch."""
        if sum(map(len, self._first)) < KEPT and all(v.shape[1] == y.shape[1] for v in self._first[:1]):
            self._first.append(y.copy())
            self._second.append(z.copy())

    def share(self) -> float | None:
        """Share of inputs whose nearest other input is the same in both; None of fewer than four inputs."""
        if sum(map(len, self._first)) < 4:
            return None
        y, z = np.concatenate(self._first), np.concatenate(self._second)
        first, second = (_nearest(v - y.mean(0)) for v in (y, z))
        return float((first == second).mean())


def _nearest(y: Double) -> NDArray[np.int64]:
    """Index of the other row with the largest cosine, (inputs,)."""
    lengths = np.linalg.norm(y, axis=1, keepdims=True)
    unit = y / np.where(lengths > 0, lengths, 1)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(1), np.int64)


@dataclass
class Rows:
    """Rows of an output whose number depends on values: boxes, points, indices; each matches one of the other's.

    Whole numbers match if they are equal; rows of four to seven columns with two corners if the boxes overlap by
    OVERLAP; others if all columns are within NEAR of the spread of the original's column; wide ones are only counted.
    Along `axis` the rows lie; `varied` is whether the networks ever gave different numbers of them.
    """

    axis: int
    matches: int = 0
    total: int = 0
    original: int = 0
    varied: bool = False

    def add(self, y: NDArray[Any], z: NDArray[Any]) -> None:
        """Take in one run's output of both."""
        self.varied = self.varied or y.shape[self.axis] != z.shape[self.axis]
        a, b = (_rows_along(v, self.axis) for v in (y, z))
        self.total += len(a) + len(b)
        self.original += len(a)
        if max(a.shape[1], b.shape[1]) > WIDE:
            self.matches += min(len(a), len(b))
        elif len(a) and len(b) and a.shape[1] == b.shape[1]:
            self.matches += _pairs(_alike(a, b))

    def share(self) -> float | None:
        """2·matches / rows of both; None where the original found nothing."""
        return 2 * self.matches / self.total if self.original else None


def _rows_along(y: NDArray[Any], axis: int) -> NDArray[Any]:
    """The first ROWS rows, (rows, columns)."""
    moved = np.moveaxis(y, axis, 0)[:ROWS]
    return moved.reshape(len(moved), math.prod(moved.shape[1:]))


def _alike(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows match, (rows, rows)."""
    if a.dtype.kind != "f":
        return np.asarray((a[:, None] == b[None]).all(2))
    x, y = a.astype(np.float64), b.astype(np.float64)
    if x.shape[1] == 4 and (x[:, 2:] > x[:, :2]).all():
        return np.asarray(overlap(x, y) >= OVERLAP)
    spread = x.std(0) if len(x) > 1 else np.abs(x[0])
    return np.asarray((np.abs(x[:, None] - y[None]) <= NEAR * spread + 1e-6).all(2))


def _pairs(alike: NDArray[np.bool_]) -> int:
    """How many rows find a partner of their own, the first choosing first."""
    free = np.ones(alike.shape[1], bool)
    found = 0
    for row in alike:
        at = np.flatnonzero(row & free)
        if len(at):
            free[at[0]] = False
            found += 1
    return found
