"""Two networks' outputs side by side, batch by batch: how they move, and what they answer, by the kind of each output.

The figures are those of `movement` (centred, each column in units of its own spread) and of `answers`; the kinds are
guessed from the first inputs (`kinds`). Scores between 0 and 1 are compared as logits. Memory does not grow with the
number of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import CheckError
from onnx_udfc.evaluate.answers import Classes, Labels, Neighbours, Overlap, Rows, Strings, certainty
from onnx_udfc.evaluate.detection import Matched, known_reader
from onnx_udfc.evaluate.kinds import Kind, Kinds, channels_first, guess, is_probability, logits
from onnx_udfc.evaluate.movement import ROUNDING, Movement, decibels
from onnx_udfc.evaluate.parts import PartFidelity
from onnx_udfc.evaluate.report import Fidelity, OutputFidelity, Source, answers_of
from onnx_udfc.runtime.runs import samples_first

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    Double = NDArray[np.float64]

__all__ = ["Comparator", "decibels", "fidelity", "looks_like_scores", "output_names", "worst"]

Feeds = Iterable[Mapping[str, "NDArray[Any]"]]
Answers = Classes | Labels | Strings | Overlap | Neighbours
FIRST = 8  # inputs that the kinds are guessed from
RANKED = 8  # rows, at least, of which an order can be told
MANY = 1 << 24  # values of outputs that are not held, or compared, together where fewer inputs will do
SAME_DB = 60.0  # outputs that do not move are the same from here on


def looks_like_scores(y: NDArray[Any]) -> bool:
    """Return whether y is (samples, classes) of a floating type, trailing axes of length 1 allowed."""
    return y.ndim >= 2 and y.dtype.kind == "f" and y.shape[1] > 1 and math.prod(y.shape[2:]) == 1


@dataclass
class _Output:
    """What one output of both networks gives.

    An axis of its declared shape that is not a number is open. With `lenient` a result that is not finite is counted
    instead of refused.
    """

    name: str
    shape: Sequence[Any] = ()
    lenient: bool = False
    kind: Kind = "regression"
    detected: bool = False
    probability: bool = False
    movement: Movement | None = None
    answers: Answers | None = None
    rows: Rows | None = None
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    judged: int = 0
    broken: int = 0
    cells: bool = False

    def start(self, y: NDArray[Any], kinds: Kinds) -> None:
        """Choose the figures by the original's first values."""
        self.kind = kinds.of.get(self.name, "regression")
        self.cells = self.kind == "segmentation" and y.ndim == 3
        self.detected = kinds.reader is not None and self.name in kinds.reader.names
        self.probability = is_probability(y) and self.kind in ("classes", "segmentation", "sequence")
        if not self.detected:
            part = "scores" if self.kind in ("classes", "segmentation", "sequence") else "values"
            self.movement = Movement(part, rounding(y))
            self.answers = self._answers(y)

    def _answers(self, y: NDArray[Any]) -> Answers | None:
        if self.kind == "classes":
            return Labels() if y.dtype.kind in "iu" else Classes()
        if self.kind == "sequence":
            return Strings()
        if self.kind == "segmentation":
            columns = _columns(y, self.kind).shape[2]
            return Overlap(exclusive=columns > 1 and y.ndim > 3 and not _independent(y))
        return Neighbours() if self.kind == "embedding" else None

    def add(self, y: NDArray[Any], z: NDArray[Any], batch: int) -> None:
        """Take in a batch of the original's output y and of the compressed one's z.

        Raises:
            CheckError: The shapes differ where the original's is fixed, or z is not finite where y is.
        """
        self._count_rows(y, z, batch)
        if y.shape != z.shape:
            self._open(y, z)
            return
        y, z = self._finite(y, z)
        if not y.size:
            return
        a, b = y.astype(np.float64), z.astype(np.float64)
        self.largest = max(self.largest, float(np.abs(a - b).max()))
        self.signal, self.noise = self.signal + float((a * a).sum()), self.noise + float(((a - b) ** 2).sum())
        if self.movement is None:
            return
        a, b = (logits(a), logits(b)) if self.probability else (a, b)
        a, b = _columns(a, self.kind), _columns(b, self.kind)
        self.movement.add(a, b)
        match self.answers:
            case Classes() | Neighbours():
                self.answers.add(a.reshape(len(a), -1), b.reshape(len(b), -1))
            case Labels():
                self.answers.add(y, z)
            case Strings():
                seen = _columns(y.astype(np.float64), self.kind)
                self.answers.add(a, b, certainty(seen, probability=self.probability))
            case Overlap():
                self.answers.add(a, b)

    def _finite(self, y: NDArray[Any], z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both, with 0 where the original is not finite; empty where it is nowhere."""
        if y.dtype.kind != "f":
            self.judged += y.size
            return y, z
        finite = np.isfinite(y)
        self.judged += int(finite.sum())
        bad = finite & ~np.isfinite(z)
        self.broken += int(bad.sum())
        if bad.any() and not self.lenient:
            raise CheckError(
                f"output {self.name!r} is not finite after compression, so nothing was written (--force writes it)"
            )
        if not finite.any():
            return y[:0], z[:0]
        return np.where(finite, y, 0), np.where(finite & ~bad, z, 0)

    def _open(self, y: NDArray[Any], z: NDArray[Any]) -> None:
        """Allow another size along an axis that the original leaves open."""
        differ = [i for i, (a, b) in enumerate(zip(y.shape, z.shape, strict=False)) if a != b]
        fixed = [i for i in differ if i < len(self.shape) and isinstance(self.shape[i], int)]
        if y.ndim != z.ndim or fixed:
            raise CheckError(f"output {self.name!r}: shape {z.shape} instead of the original's {y.shape}")

    def _count_rows(self, y: NDArray[Any], z: NDArray[Any], batch: int) -> None:
        """Match rows along an open axis that is not that of the inputs."""
        if y.ndim != z.ndim or y.ndim not in (1, 2, 3) or self.kind == "sequence":
            return
        is_open = [i for i in range(y.ndim) if not (i < len(self.shape) and isinstance(self.shape[i], int))]
        axes = [i for i in is_open if i or y.shape[0] != batch or z.shape[0] != batch]
        if self.rows is None and axes and (axes[-1] == 0 or 1 in (y.ndim, batch)):
            self.rows = Rows(axes[-1])
        if self.rows is not None:
            self.rows.add(y, z)

    def result(self, matched: Matched | None, parts: tuple[PartFidelity, ...]) -> OutputFidelity:
        """Return the figures of what was taken in."""
        irregular = self.movement is not None and self.movement.irregular
        varied = self.rows is not None and (self.rows.varied or irregular)
        if varied and not self.detected:
            assert self.rows is not None
            found = OutputFidelity(self.name, "detection", None, None, matched=self.rows.share())
            return replace(found, answers=self.rows.original, max_difference=self.largest)
        parts = parts if self.detected else (self.movement.result(),) if self.movement else ()
        found = OutputFidelity(
            self.name, self.kind, worst_of(p.sqnr_db for p in parts), worst_of(p.cosine for p in parts),
            max_difference=self.largest, parts=parts,
            plain_db=decibels(self.signal, self.noise) if self.judged else None,
        )  # fmt: skip
        if self.detected and matched is not None:
            found = replace(found, matched=matched.share(), answers=matched.original)
            return replace(found, sqnr_db=None, cosine=None, parts=()) if varied else found
        return self._answered(found)

    def _answered(self, found: OutputFidelity) -> OutputFidelity:
        match self.answers:
            case Labels():  # or Classes
                lost = self.answers.margin_lost() if isinstance(self.answers, Classes) else None
                share, said = self.answers.share(), self.answers.answers()
                return replace(found, agreement=share, answers=said, margin_lost=lost, chance=self.answers.chance())
            case Strings():
                share, said, sure = self.answers.share(), self.answers.answers(), self.answers.sure_share()
                return replace(found, agreement=share, answers=said, sure_agreement=sure, sure=self.answers.sure)
            case Overlap():
                share, said = self.answers.share(), self.answers.answers()
                return replace(found, iou=share, answers=said, cells=self.cells)
            case Neighbours():
                return replace(found, neighbours=self.answers.share())
        return found

    def same(self) -> bool:
        """Whether what does not move is the same in both."""
        plain = self.movement.plain_db() if self.movement else None
        return plain is not None and plain >= SAME_DB


def rounding(y: NDArray[Any]) -> float:
    """Spread, in sizes, that rounding alone makes."""
    return ROUNDING[y.dtype.itemsize] if y.dtype.kind == "f" else 0.0


def _ranked(scores: NDArray[Any]) -> bool:
    """Whether rows (inputs, rows, classes) come the surest first: a row then is another box with every change."""
    best = scores.max(2)
    falls = np.diff(best, axis=1)
    return best.shape[1] >= RANKED and bool((falls <= 0).all()) and bool((falls < 0).any())


def worst_of(figures: Iterable[float | None]) -> float | None:
    """The least of figures; None where one was not measured, or there are none."""
    found = list(figures)
    known = [f for f in found if f is not None]
    return min(known) if known and len(known) == len(found) else None


def _independent(y: NDArray[Any]) -> bool:
    """Whether channels of a map are probabilities that do not exclude each other."""
    return is_probability(y) and not np.allclose(y.sum(axis=1), 1, atol=1e-2)


def _columns(y: NDArray[Any], kind: str) -> NDArray[Any]:
    """See an output as (inputs, positions, columns)."""
    if y.ndim < 2:
        return y.reshape(-1, 1, 1)
    if y.ndim == 2 or math.prod(y.shape[2:]) == 1:
        return y.reshape(len(y), 1, -1)
    if y.ndim == 3 and (kind != "regression" or y.shape[2] <= y.shape[1]):
        return y
    return np.moveaxis(y.reshape(*y.shape[:2], -1), 1, 2)


@dataclass
class Comparator:
    """Compares both networks' outputs batch by batch.

    Shapes are as the original declares them, by name; a `task` that is None is guessed. With `lenient` a result that is
    not finite is counted instead of refused.
    """

    names: Sequence[str]
    shapes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    inputs: Sequence[tuple[int | None, ...]] = ()
    task: str | None = None
    lenient: bool = False
    runs: dict[str, _Output] = field(default_factory=dict)
    kinds: Kinds | None = None
    matched: Matched | None = None
    _boxes: Movement = field(default_factory=lambda: Movement("boxes"))
    _scores: Movement = field(default_factory=lambda: Movement("scores"))
    _first: list[tuple[dict[str, Any], dict[str, Any], int]] = field(default_factory=list)
    _held: int = 0
    _ranked: bool = False

    def __post_init__(self) -> None:
        self.runs = {n: _Output(n, self.shapes.get(n, ()), self.lenient) for n in self.names}

    def add(self, first: Sequence[Any], second: Sequence[Any], batch: int | None = None) -> None:
        """Take in one run's outputs of both; what is not a numeric tensor is passed over.

        Outputs are in the order of the names; `batch` is the number of inputs, by default the length of the first
        output's first axis.

        Raises:
            CheckError: The shapes differ where the original's is fixed, or a value is not finite.
        """
        y, z = _numbers(self.names, first), _numbers(self.names, second)
        y, z = {k: v for k, v in y.items() if k in z}, {k: v for k, v in z.items() if k in y}
        alike = {k for k, v in y.items() if v.shape == z[k].shape}
        count = batch or max((len(v) for v in y.values() if v.ndim), default=1)
        y, z = ({k: self._in_order(k, v, count) if k in alike else v for k, v in o.items()} for o in (y, z))
        if self.kinds is not None:
            self._take(y, z, count)
            return
        self._first.append(({k: v.copy() for k, v in y.items()}, {k: v.copy() for k, v in z.items()}, count))
        self._held += count
        elements = sum(v.size for outputs, _, _ in self._first for v in outputs.values())
        if self._held >= FIRST or (self._held > 1 and elements > MANY):
            self._start()

    def _in_order(self, name: str, y: NDArray[Any], batch: int) -> NDArray[Any]:
        """An output with its samples first, and then its channels."""
        declared = self.shapes.get(name, ())
        moved = samples_first(y, batch, declared)
        if moved is not y and len(declared) == 3:
            self.runs[name].shape = (declared[1], declared[0], declared[2])
        return channels_first(moved, self.inputs)

    def _start(self) -> None:
        held, self._first = self._first, []
        together = {k: _joined([y[k] for y, _, _ in held]) for k in (held[0][0] if held else ())}
        finite = {k: np.where(np.isfinite(v), v, 0) if v.dtype.kind == "f" else v for k, v in together.items()}
        self.kinds = guess(finite, self.inputs, self.task)
        if self.task == "detection" and self.kinds.reader is None and not any(r.rows for r in self.runs.values()):
            known_reader(finite)
        self.matched = Matched(self.kinds.reader) if self.kinds.reader is not None else None
        for name, value in finite.items():
            self.runs[name].start(value, self.kinds)
        for first, second, count in held:
            self._take(first, second, count)

    def _take(self, y: dict[str, Any], z: dict[str, Any], batch: int) -> None:
        for name, value in y.items():
            self.runs[name].add(value, z[name], batch)
        if self.matched is not None:
            self._detect(y, z)

    def _detect(self, y: dict[str, Any], z: dict[str, Any]) -> None:
        assert self.matched is not None
        y, z = ({k: np.nan_to_num(v) for k, v in outputs.items()} for outputs in (y, z))
        self.matched.add(y, z)
        reader = self.matched.reader
        a, b = reader.read(y), reader.read(z)
        self._ranked = self._ranked or _ranked(a.scores)
        if a.boxes.shape == b.boxes.shape and a.scores.shape == b.scores.shape and not self._ranked:
            self._boxes.add(a.boxes, b.boxes)
            p, q = reader.candidates(y).scores, reader.candidates(z).scores
            self._scores.add(logits(p), logits(q))

    def results(self) -> tuple[OutputFidelity, ...]:
        """Return the figures of each output."""
        if self.kinds is None:
            self._start()
        return tuple(run.result(self.matched, self._parts(name)) for name, run in self.runs.items())

    def _parts(self, name: str) -> tuple[PartFidelity, ...]:
        """Figures of boxes and scores, of which a pair of outputs has one each."""
        if self.matched is None:
            return ()
        if self._ranked:
            return (PartFidelity("boxes"), PartFidelity("scores"))
        names = self.matched.reader.names
        boxes, scores = self._boxes.result(), self._scores.result()
        pair = self.matched.reader.pair
        return (boxes,) if pair and name == names[0] else (scores,) if pair else (boxes, scores)

    def unmeasured(self) -> str:
        """Why an output could not be judged; empty if all could."""
        if not any(run.judged for run in self.runs.values()):
            return "the original's outputs are not finite" if self.runs else "there are no outputs"
        if self._ranked and self.matched is not None and self.matched.share() is None:
            return "the original finds no box in the inputs that were fed"
        still = [
            found.name
            for found in self.results()
            if found.sqnr_db is None and found.matched is None and not self.runs[found.name].same()
        ]
        every = all(found.sqnr_db is None and found.matched is None for found in self.results())
        if every:
            return "the original's outputs do not change with the inputs that were fed"
        return f"output {still[0]!r} of the original does not change with the inputs that were fed" if still else ""

    def broken(self) -> bool:
        """Whether the result is not finite where the original is."""
        return any(run.broken for run in self.runs.values())


def _numbers(names: Sequence[str], outputs: Sequence[Any]) -> dict[str, NDArray[Any]]:
    pairs = zip(names, outputs, strict=True)
    return {n: y for n, y in pairs if isinstance(y, np.ndarray) and y.dtype.kind in "fiub"}


def _joined(values: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of batches where their shapes allow it, else the first of them that is not empty."""
    if values[0].ndim and len({v.shape[1:] for v in values}) == 1:
        return np.concatenate(values)
    return next((v for v in values if v.size), values[0])


def output_names(original: InferenceSession, compressed: InferenceSession) -> list[str]:
    """Return the common output names, which must be all.

    Raises:
        CheckError: They differ.
    """
    first, second = [o.name for o in original.get_outputs()], [o.name for o in compressed.get_outputs()]
    if sorted(first) != sorted(second):
        raise CheckError(f"the outputs differ: {', '.join(first)} against {', '.join(second)}")
    return first


def comparator_for(
    original: InferenceSession, compressed: InferenceSession, task: str | None = None, lenient: bool = False
) -> Comparator:
    """Return a comparator of all outputs of two networks.

    Raises:
        CheckError: The names of the outputs differ.
    """
    shapes = {o.name: tuple(o.shape or ()) for o in original.get_outputs()}
    inputs = [tuple(d if isinstance(d, int) else None for d in i.shape) for i in original.get_inputs()]
    return Comparator(output_names(original, compressed), shapes, inputs, task, lenient)


def _run(original: InferenceSession, compressed: InferenceSession, feeds: Feeds, comparator: Comparator) -> int:
    """Feed both; return the number of inputs."""
    total = 0
    names = list(comparator.names)
    for feed in feeds:
        batch = max((len(v) for v in feed.values() if v.ndim), default=1)
        comparator.add(original.run(names, dict(feed)), compressed.run(names, dict(feed)), batch)
        total += batch
    return total


def fidelity(
    original: InferenceSession,
    compressed: InferenceSession,
    feeds: Feeds,
    inputs: Source = "synthetic",
    task: str | None = None,
    lenient: bool = False,
    states: Collection[str] = (),
) -> Fidelity:
    """Return the worst output's figures over all feeds (see `feeds.split` to cut arrays into runs).

    Outputs that are `states`, which the compressed network has been fed back, do not count beside others.

    Raises:
        CheckError: Outputs differ in name or shape, or are not finite.
    """
    comparator = comparator_for(original, compressed, task, lenient)
    count = _run(original, compressed, feeds, comparator)
    return worst(comparator, inputs, count, states)


def worst(comparator: Comparator, inputs: Source, count: int, states: Collection[str] = ()) -> Fidelity:
    """Summarize outputs by the worst of each figure; of states only where there is nothing else."""
    outputs = tuple(replace(o, state=o.name in states) for o in comparator.results())
    answering = answers_of(outputs)
    agreements = [o.agreement for o in answering if o.agreement is not None]
    unmeasured = comparator.unmeasured()
    judged = [o for o in answering if o.sqnr_db is not None]
    return Fidelity(
        inputs=inputs,
        sqnr_db=None if unmeasured else worst_of(o.sqnr_db for o in judged),
        cosine=None if unmeasured else worst_of(o.cosine for o in judged),
        agreement=min(agreements, default=None),
        count=count,
        max_difference=max((o.max_difference for o in answering), default=0.0),
        outputs=outputs,
        unmeasured=unmeasured,
    )
