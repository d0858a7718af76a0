"""Two networks run side by side over any number of inputs: outputs compared, and counted against labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.comparison import Comparator, comparator_for, looks_like_scores
from onnx_udfc.evaluate.report import Accuracy
from onnx_udfc.evaluate.shown_boxes import Album, ShownBoxes
from onnx_udfc.inputs.feeds import image_feeds
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing
from onnx_udfc.inputs.real import Samples, image_shapes, opened, real_shapes, real_values
from onnx_udfc.runtime.runs import InputSpec, input_specs, outputs_of, sample_count, split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from onnx_udfc.inputs.kinds import Wanted
    from onnx_udfc.runtime.runs import InputSpec

Runs = Iterator[tuple[dict[str, Any], int]]  # a feed, and how many of its samples count
FAILED = "onnxruntime cannot run the model on these inputs (WHY)"
MOST_CHANGED = 200  # changed answers that are listed


@dataclass(frozen=True)
class RealData:
    """Real inputs, read as they are asked for.

    Attributes:
        runs: Feeds, each with the number of its samples that count.
        total: Number of samples.
        labels: Classes (total,), or None.
        names: Of the samples, where they have any.
    """

    runs: Runs
    total: int
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()


def shapes_of(specs: Sequence[InputSpec], data: Any) -> dict[str, tuple[int, ...]]:
    """Shapes that real inputs have, for sizes that the file leaves open."""
    if data is None:
        return {}
    return image_shapes(specs, data) if isinstance(data, ImageSet) else real_shapes(specs, data)


def open_real(
    wanted: tuple[Wanted, ...], data: Any, preprocessing: Preprocessing, limit: int | None = None, seed: int = 0
) -> RealData:
    """Open real inputs: images and arrays of a network with one input, an .npz by name of one with several.

    Raises:
        RequestError: They cannot be read, or do not fit.
    """
    specs = tuple(w.spec for w in wanted)
    if isinstance(data, str | Path | Samples) and len(specs) == 1:
        data = opened(data)
    if isinstance(data, ImageSet) and data.labels is None and _are_runs(data, specs[0]):
        data = {specs[0].name: np.asarray(data.source)}
    if isinstance(data, ImageSet):
        total = min(len(data), limit or len(data))
        feeds = image_feeds(specs, data, preprocessing, limit, shape=_shape(wanted[0], data))
        return RealData(_counted(specs, feeds, total), total, data.labels, tuple(data.names))
    arrays = real_values(wanted, data, preprocessing, limit, seed)
    total = sample_count(specs, arrays)
    return RealData(_counted(specs, split(specs, arrays), total), total)


def _are_runs(images: ImageSet, spec: InputSpec) -> bool:
    """Whether each of some arrays is what a whole run takes, its samples among it."""
    first = np.asarray(images.source[0]) if len(images) else np.zeros(0)
    return first.dtype.kind == "f" and first.ndim == len(spec.shape)


def _shape(wanted: Wanted, images: ImageSet) -> tuple[int | None, ...]:
    """The sizes that pixels are brought to; arrays of floats keep their own."""
    pixels = len(wanted.shape) == 4 and images.source[0].dtype == np.uint8
    return wanted.shape if pixels else wanted.spec.shape


def _counted(specs: Sequence[Any], feeds: Iterator[dict[str, Any]], total: int) -> Runs:
    """A fixed batch may hold repeated samples at its end."""
    left = total
    for feed in feeds:
        count = min(left, sample_count(specs, feed))
        yield feed, count
        left -= count


@dataclass(frozen=True)
class Changed:
    """An input whose answer changed: its place or name, the answers of both, and the label, where it is known."""

    name: str
    original: int
    compressed: int
    label: int | None = None


@dataclass(frozen=True)
class ClassCount:
    """One class, by its label; where there are no labels, by what the original says.

    `original` and `compressed` are how many inputs each network gives this class.
    """

    label: int
    images: int
    original: int
    compressed: int


@dataclass
class Gathered:
    """What one pass over the inputs gives; `told` is whether the user gave the labels."""

    comparator: Comparator
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    correct: list[int] = field(default_factory=lambda: [0, 0])
    changed: list[Changed] = field(default_factory=list)
    changes: int = 0
    count: int = 0
    by_class: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    album: Album = field(default_factory=Album)
    told: bool = False

    def add(self, first: Sequence[Any], second: Sequence[Any], batch: int) -> None:
        """Take in one run's outputs of both."""
        self.comparator.add(first, second, batch)
        before, after = _classes(first), _classes(second)
        if before is None or after is None:
            if self.labels is not None and self.told:
                raise RequestError(
                    "there are labels, but no output (n, classes); leave out --labels, or say another --task"
                )
            self.labels = None  # read off names and folders, of images that serve another task
        elif len(before) == len(after) == batch:
            self._count(before, after)
        self.count += batch

    def keep(self, feed: Mapping[str, Any], first: Sequence[Any], second: Sequence[Any], batch: int) -> None:
        """Keep what may be shown of a run; call it before `add`."""
        places = range(self.count, self.count + batch)
        names = [self.names[i] if i < len(self.names) else str(i) for i in places]
        a, b = (dict(zip(self.comparator.names, outputs, strict=True)) for outputs in (first, second))
        self.album.add(feed, a, b, names)

    def boxes(self, colour: str) -> tuple[ShownBoxes, ...]:
        """Return pictures with the boxes of both, where the network is a detector."""
        kinds = self.comparator.kinds
        return self.album.shown(kinds.reader if kinds else None, colour)

    def _count(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        truth = None if self.labels is None else self.labels[self.count : self.count + len(before)]
        if truth is not None:
            self.correct[0] += int((before == truth).sum())
            self.correct[1] += int((after == truth).sum())
        owners = before if truth is None else truth
        hits = np.stack([np.ones_like(before), before == owners, after == owners])
        for label in np.unique(owners):
            known = self.by_class.setdefault(int(label), np.zeros(3, np.int64))
            known += hits[:, owners == label].sum(axis=1)
        differ = np.flatnonzero(before != after)
        self.changes += len(differ)
        for i in differ[: max(0, MOST_CHANGED - len(self.changed))]:
            at = self.count + int(i)
            name = self.names[at] if at < len(self.names) else str(at)
            label = None if truth is None else int(truth[i])
            self.changed.append(Changed(name, int(before[i]), int(after[i]), label))

    def classes(self) -> tuple[ClassCount, ...]:
        """Return what became of each class, in their order."""
        return tuple(ClassCount(label, *map(int, self.by_class[label])) for label in sorted(self.by_class))

    def accuracy(self) -> Accuracy | None:
        """Return top-1 of both; None without labels."""
        if self.labels is None or not self.count:
            return None
        return Accuracy(self.correct[0] / self.count, self.correct[1] / self.count, self.count)


def _classes(outputs: Sequence[Any]) -> NDArray[np.int64] | None:
    """Return the class (n,) of the first output that looks like class scores, or None."""
    scores = next((y for y in outputs if isinstance(y, np.ndarray) and looks_like_scores(y)), None)
    return None if scores is None else scores.reshape(len(scores), -1).argmax(axis=1).astype(np.int64)


def gather(
    sessions: tuple[InferenceSession, InferenceSession],
    runs: Runs,
    task: str | None = None,
    labels: NDArray[np.int64] | None = None,
    names: tuple[str, ...] = (),
    lenient: bool = False,
    told: bool = False,
) -> Gathered:
    """Run both networks over everything; `told` is whether the user gave the labels.

    Raises:
        ModelError: One of them does not run.
        CheckError: Outputs differ in name or shape, or are not finite.
    """
    specs = input_specs(sessions[0])
    if task not in (None, "classes"):
        labels = None
    gathered = Gathered(comparator_for(*sessions, task=task, lenient=lenient), labels, names, told=told)
    outputs = list(gathered.comparator.names)
    for feed, count in runs:
        size = sample_count(specs, feed)
        first, second = (_cut(outputs_of(s, outputs, feed, FAILED), size, count) for s in sessions)
        gathered.keep(feed, first, second, count)
        gathered.add(first, second, count)
    return gathered


def _cut(outputs: list[Any], size: int, count: int) -> list[Any]:
    """Drop the outputs of samples that only fill up a fixed batch."""
    if size == count:
        return outputs
    return [y[:count] if isinstance(y, np.ndarray) and y.ndim and len(y) == size else y for y in outputs]
