"""Two networks side by side: outputs, agreement, accuracy where there are labels, latency, memory, bytes.

Nothing here knows how the second network came from the first; any two with the same inputs and outputs will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnx_udfc.errors import ModelError, RequestError
from onnx_udfc.evaluate.comparison import Comparator, comparator_for, looks_like_scores, worst
from onnx_udfc.evaluate.peak_memory import peak_memory
from onnx_udfc.evaluate.report import Accuracy, OutputFidelity, plain
from onnx_udfc.inputs.feeds import image_feeds, input_specs, sample_count, split
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing, open_images
from onnx_udfc.inputs.kinds import Scale, Wanted, made, one_feed
from onnx_udfc.inputs.network_inputs import real_values
from onnx_udfc.inputs.real import image_shapes, real_shapes
from onnx_udfc.inputs.sizes import described
from onnx_udfc.model.files import check_source
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.runtime.kernels import check_runtime
from onnx_udfc.runtime.latency import Latency, Run, paired_latency
from onnx_udfc.runtime.sessions import Source, as_file, file_bytes, one_line, open_session
from onnx_udfc.version import Tool, this_tool

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

SYNTHETIC = 32
PATIENCE = 4  # times the time for latency, on a machine that is busy


@dataclass(frozen=True)
class Pair:
    """One figure of both networks."""

    original: int
    compressed: int


@dataclass(frozen=True)
class Kernels:
    """Layers of the second network by how onnxruntime runs them, from its optimized graph (CPU only).

    Attributes:
        integer: Names of layers that run as integers.
        floating: Names of layers that do not.
        unpacking: Names of layers whose weight is dequantized anew in every run.
    """

    integer: tuple[str, ...]
    floating: tuple[str, ...]
    unpacking: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """What two networks have in common and what not; what was not measured is None."""

    tool: Tool
    provider: str
    inputs: Literal["synthetic", "images"]
    count: int
    outputs: tuple[OutputFidelity, ...]
    accuracy: Accuracy | None
    matched: float | None
    latency: Latency | None
    peak_memory: Pair | None
    bytes: Pair
    kernels: Kernels | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    unmeasured: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values."""
        result = plain(self)
        assert isinstance(result, dict)
        return result

    def measured(self, key: str) -> float | None:
        """Return the value that a requirement's key names; the worst output's, and ratios to the original."""
        values: dict[str, float | None] = {
            "agreement": self.agreement,
            "sqnr": self.sqnr_db,
            "cosine": self.cosine,
            "accuracy": self.accuracy.compressed if self.accuracy else None,
            "accuracy_drop": self.accuracy.original - self.accuracy.compressed if self.accuracy else None,
            "latency": self.latency.ratio if self.latency else None,
            "memory": self.peak_memory.compressed / max(1, self.peak_memory.original) if self.peak_memory else None,
            "matched": self.matched,
            "bytes": self.bytes.compressed / max(1, self.bytes.original),
        }
        return values.get(key)


@dataclass
class _Outputs:
    """What one pass over the inputs gathers."""

    comparator: Comparator
    labels: NDArray[np.int64] | None
    correct: list[int] = field(default_factory=lambda: [0, 0])
    count: int = 0

    def add(self, first: Sequence[Any], second: Sequence[Any], batch: int) -> None:
        self.comparator.add(first, second, batch)
        if self.labels is not None:
            for i, outputs in enumerate((first, second)):
                answers = _classes(outputs)
                self.correct[i] += int((answers == self.labels[self.count : self.count + len(answers)]).sum())

    def accuracy(self) -> Accuracy | None:
        if self.labels is None or not self.count:
            return None
        return Accuracy(self.correct[0] / self.count, self.correct[1] / self.count, self.count)


def _classes(outputs: Sequence[Any]) -> NDArray[np.int64]:
    """Return the argmax (n,) of the first output that looks like class scores."""
    scores = next((y for y in outputs if isinstance(y, np.ndarray) and looks_like_scores(y)), None)
    if scores is None:
        raise RequestError("there are labels, but no output (n, classes); leave out --labels, or use --task detection")
    answers: NDArray[np.int64] = scores.reshape(len(scores), -1).argmax(axis=1).astype(np.int64)
    return answers


def validate(
    original: Source,
    compressed: Source,
    images: str | Path | ImageSet | None = None,
    labels: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    input_shape: Sequence[str] = (),
    provider: str = "cpu",
    task: str = "auto",
    threads: int = 1,
    limit: int | None = None,
    latency_seconds: float = 4.0,
    memory: bool = True,
    seed: int = 0,
    callbacks: Callbacks | None = None,
) -> Validation:
    """Compare two models.

    Args:
        original: Path, bytes or ModelProto.
        compressed: The same, of a model with the same inputs and outputs.
        images: Where images are (see labelled_images); None compares on synthetic inputs.
        labels: A CSV of labels, where names and folders do not tell.
        preprocessing: What the networks expect; the default is pixels in 0..1.
        input_shape: Sizes that the file leaves open, as in Options.
        provider: cpu, cuda or tensorrt.
        task: What the outputs say: one of options.TASKS, or `auto` to guess it.
        threads: Of onnxruntime; latency is stated for it.
        limit: Use at most so many images.
        latency_seconds: Time to spend on latency, 0 for none.
        memory: Whether to measure peak memory.
        seed: Of the synthetic inputs.
        callbacks: Told about progress.

    Raises:
        ModelError: A model does not load or run, or refers to files outside its folder.
        RequestError: The images or the provider do not fit.
        CheckError: Outputs differ in name or shape, or are not finite.
    """
    callbacks = callbacks or Silent()
    for source in (original, compressed):
        check_source(source)
    sessions = (open_session(original, provider, threads), open_session(compressed, provider, threads))
    specs = input_specs(sessions[0])
    several = images if isinstance(images, str | Path) and len(specs) > 1 else None
    found = None if several else open_images(images, labels) if isinstance(images, str | Path) else images
    assert found is None or isinstance(found, ImageSet)
    shapes = real_shapes(specs, several) if several else image_shapes(specs, found) if found else {}
    wanted = described(original, specs, input_shape, shapes)
    arrays = real_values(wanted, several, preprocessing or Preprocessing(), limit, seed) if several else None
    runs = _runs(wanted, found, arrays, preprocessing, limit, seed, callbacks)
    gathered = _gather(sessions, runs, found, task)
    feed = one_feed(wanted, seed, {s.name: Scale(preprocessing) for s in specs})
    timed = _latency(original, compressed, feed, provider, threads, latency_seconds, callbacks)
    used = _memory(original, compressed, feed, threads, callbacks) if memory else None
    callbacks.done()
    near = worst(gathered.comparator, "synthetic", gathered.count)
    shares = [o.matched for o in near.outputs if o.matched is not None]
    return Validation(
        tool=this_tool(),
        provider=provider,
        inputs="synthetic" if found is None and several is None else "images",
        count=gathered.count,
        outputs=near.outputs,
        accuracy=gathered.accuracy(),
        matched=min(shares, default=None),
        latency=timed,
        peak_memory=used,
        bytes=Pair(file_bytes(original), file_bytes(compressed)),
        kernels=_kernels(compressed) if provider == "cpu" else None,
        sqnr_db=near.sqnr_db,
        cosine=near.cosine,
        agreement=near.agreement,
        unmeasured=near.unmeasured,
    )


_Runs = Iterator[tuple[dict[str, Any], int]]


def _runs(
    wanted: tuple[Wanted, ...],
    images: ImageSet | None,
    given: dict[str, Any] | None,
    preprocessing: Preprocessing | None,
    limit: int | None,
    seed: int,
    callbacks: Callbacks,
) -> _Runs:
    """Yield (feed, samples in it that count); a fixed batch may hold repeated ones at its end."""
    specs = tuple(w.spec for w in wanted)
    if images is None:
        total = SYNTHETIC if limit is None else limit
        arrays = given or made(wanted, total, seed, {s.name: Scale(preprocessing) for s in specs})
        total = sample_count(specs, arrays)
        feeds: Iterator[dict[str, Any]] = split(specs, arrays)
    else:
        total = min(len(images), limit or len(images))
        feeds = image_feeds(specs, images, preprocessing or Preprocessing(), limit, shape=_shape(wanted[0], images))
    callbacks.stage("compare outputs", total)
    left = total
    for feed in feeds:
        count = min(left, sample_count(specs, feed))
        yield feed, count
        left -= count
        callbacks.advance(count)


def _shape(wanted: Wanted, images: ImageSet) -> tuple[int | None, ...]:
    """The sizes that pixels are brought to; arrays of floats keep their own."""
    pixels = len(wanted.shape) == 4 and images.source[0].dtype == np.uint8
    return wanted.shape if pixels else wanted.spec.shape


def _gather(
    sessions: tuple[InferenceSession, InferenceSession], runs: _Runs, images: ImageSet | None, task: str
) -> _Outputs:
    """Run both networks over everything."""
    comparator, specs = comparator_for(*sessions, task=None if task == "auto" else task), input_specs(sessions[0])
    names = list(comparator.names)
    labels = images.labels if images is not None and task in ("auto", "classes") else None
    gathered = _Outputs(comparator, labels)
    for feed, count in runs:
        size = sample_count(specs, feed)
        first, second = (_cut(_run(s, names, feed), size, count) for s in sessions)
        gathered.add(first, second, count)
        gathered.count += count
    return gathered


def _run(session: InferenceSession, names: list[str], feed: Mapping[str, Any]) -> list[Any]:
    try:
        return list(session.run(names, dict(feed)))
    except Exception as error:
        # onnxruntime's exceptions share no base class but Exception
        raise ModelError(f"onnxruntime cannot run the model on these inputs ({one_line(error)})") from error


def _cut(outputs: list[Any], size: int, count: int) -> list[Any]:
    """Drop the outputs of samples that only fill up a fixed batch."""
    if size == count:
        return outputs
    return [y[:count] if isinstance(y, np.ndarray) and y.ndim and len(y) == size else y for y in outputs]


def _latency(
    original: Source,
    compressed: Source,
    feed: Mapping[str, Any],
    provider: str,
    threads: int,
    seconds: float,
    callbacks: Callbacks,
) -> Latency | None:
    if seconds <= 0:
        return None
    callbacks.stage("measure latency", None)

    def make(second_first: bool) -> tuple[Run, Run]:
        order = (compressed, original) if second_first else (original, compressed)
        made = [open_session(m, provider, threads) for m in order]
        a, b = reversed(made) if second_first else made
        return (lambda: a.run(None, feed)), (lambda: b.run(None, feed))

    alone = threads == 1 and provider == "cpu"  # only then can it be told whether a run was disturbed
    return paired_latency(make, seconds, PATIENCE * seconds if alone else seconds)


def _memory(
    original: Source, compressed: Source, feed: Mapping[str, Any], threads: int, callbacks: Callbacks
) -> Pair | None:
    callbacks.stage("measure memory", None)
    with as_file(original) as first, as_file(compressed) as second:
        figures = peak_memory(first, feed, threads), peak_memory(second, feed, threads)
    return Pair(figures[0], figures[1]) if figures[0] is not None and figures[1] is not None else None


def _kernels(compressed: Source) -> Kernels:
    """Return which layers became integer kernels."""
    checked = check_runtime(compressed)
    return Kernels(checked.integer, checked.floating, tuple(k.name for k in checked.kernels if k.computes_weight))
