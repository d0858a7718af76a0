"""Two networks side by side: outputs, agreement, accuracy where there are labels, latency, memory, bytes.

Nothing here knows how the second network came from the first; any two with the same inputs and outputs will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from onnx_udfc.errors import CheckError, ModelError, UdfcError
from onnx_udfc.evaluate.comparison import fidelity, worst
from onnx_udfc.evaluate.peak_memory import peak_memory
from onnx_udfc.evaluate.report import Accuracy, Fidelity, FileReport, OutputFidelity, Verdict, plain
from onnx_udfc.evaluate.shown_boxes import ShownBoxes
from onnx_udfc.evaluate.side_by_side import Changed, ClassCount, RealData, Runs, gather, open_real, shapes_of
from onnx_udfc.evaluate.speed import timed
from onnx_udfc.evaluate.verdict import beside, judge
from onnx_udfc.inputs.how_many import OTHER_IMAGES, judged_count
from onnx_udfc.inputs.image_files import asked_preprocessing
from onnx_udfc.inputs.kinds import Scale, Wanted, made, one_feed
from onnx_udfc.inputs.network_inputs import FEATURES, expected, settle_sizes
from onnx_udfc.inputs.real import opened
from onnx_udfc.inputs.rollout import Rollout, Stepping, rollout_of, steps, with_states
from onnx_udfc.inputs.sizes import described, input_specs_of, singly
from onnx_udfc.model.files import check_source, load
from onnx_udfc.model.network import Network, read
from onnx_udfc.model.samples import with_samples
from onnx_udfc.options import VERDICTS, InMemory, Judging, Options
from onnx_udfc.options.row import Share
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.runtime.kernels import check_runtime
from onnx_udfc.runtime.latency import Latency
from onnx_udfc.runtime.profiles import Fallbacks, NodeTime, fallbacks, slowest
from onnx_udfc.runtime.providers import Provider, asked_provider
from onnx_udfc.runtime.runs import InputSpec, input_specs, outputs_of, sample_count, split
from onnx_udfc.runtime.sessions import Source, as_file, file_bytes, open_session
from onnx_udfc.version import Tool, this_tool

SYNTHETIC = 32
PATIENCE = 4  # times the time for latency, on a machine that is busy


@dataclass(frozen=True)
class Pair:
    """One figure of both networks."""

    original: int
    compressed: int


@dataclass(frozen=True)
class Slowest:
    """The slowest nodes of both networks, as onnxruntime runs them."""

    original: tuple[NodeTime, ...]
    compressed: tuple[NodeTime, ...]


@dataclass(frozen=True)
class Kernels:
    """Layers of the second network by how onnxruntime runs them, from its optimized graph (not of TensorRT).

    Layers are named; `unpacking` are those whose weight is dequantized anew in every run.
    """

    integer: tuple[str, ...]
    floating: tuple[str, ...]
    unpacking: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """What two networks have in common and what not; what was not measured is None.

    Attributes:
        verdict: As in the report of a compression; by labels, where there are any.
        latency_inputs: Names and shapes of the inputs that latency was taken on.
        changed: Inputs whose class changed; the first of them.
        changes: How many there are.
        provider_option: Settings of the provider.
        fallbacks: What the provider leaves to another, of the second network; None on the processor.
        slowest: Where both spend their time, measured with the latency.
        classes: Of each class, how many inputs it has and how many each network gives it.
        source: The first network.
        result: The second.
        versions: Of Python and of the packages.
        command: That compares again.
        created: When, as `2026-01-31T12:00:00+00:00`.
        boxes: Of a detector, what both found in the pictures where they differ most.
    """

    tool: Tool
    provider: str
    inputs: Literal["synthetic", "images"]
    count: int
    outputs: tuple[OutputFidelity, ...]
    accuracy: Accuracy | None
    matched: Share | None
    latency: Latency | None
    peak_memory: Pair | None
    bytes: Pair
    kernels: Kernels | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: Share | None = None
    unmeasured: str = ""
    verdict: Verdict = "unknown"
    predicted_loss: Share | None = None
    predicted_range: tuple[Share, Share] | None = None
    verdict_reason: str = ""
    latency_inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    changed: tuple[Changed, ...] = ()
    changes: int = 0
    provider_option: Mapping[str, str] = field(default_factory=dict)
    fallbacks: Fallbacks | None = None
    slowest: Slowest | None = None
    classes: tuple[ClassCount, ...] = ()
    source: FileReport | None = None
    result: FileReport | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    boxes: tuple[ShownBoxes, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values."""
        result: dict[str, Any] = plain(replace(self, boxes=tuple(replace(b, picture="") for b in self.boxes)))
        return result

    def measured(self, key: str) -> float | None:
        """Return the value that a requirement's key names; the worst output's, and ratios to the original."""
        values: dict[str, float | None] = {
            "verdict": VERDICTS.get(self.verdict),
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


def validate(original: Source, compressed: Source, asked: Judging, callbacks: Callbacks | None = None) -> Validation:
    """Compare two models of the same inputs and outputs by checked options; gates and reports are the caller's.

    Raises:
        ModelError: A model does not load or run, or refers to files outside its folder.
        RequestError: The images, the batch or the provider do not fit.
        CheckError: Inputs or outputs differ in name or shape, or outputs are not finite.
    """
    callbacks = callbacks or Silent()
    where, threads = asked_provider(asked), asked.threads or 1
    where.check_compiled_in()
    for source in (original, compressed):
        check_source(source)
    sizes = Pair(file_bytes(original), file_bytes(compressed))
    original, compressed = with_samples(original), with_samples(compressed, original)
    sessions = (open_session(original, where, threads), open_session(compressed, where, threads))
    specs = input_specs(sessions[0])
    _check_inputs(specs, input_specs(sessions[1]))
    one = asked.images is not None and len(specs) == 1
    data: Any = opened(asked.images, asked.labels) if one else asked.images
    wanted, scales, count = _wanted(original, specs, data, asked)
    wanted = singly(sessions[0], wanted)
    feed = one_feed(wanted, asked.seed, scales, asked.batch)
    real, rollout = _runs(sessions[0], wanted, data, asked, scales, count)
    callbacks.stage("compare outputs", real.total)
    told = None if asked.task == "auto" else asked.task
    compared = (sessions[0], Stepping(sessions[1], rollout) if rollout else sessions[1])
    gathered = gather(compared, _advancing(real.runs, callbacks), told, real.labels, real.names, told=_labelled(asked))
    latency = _latency(original, compressed, feed, asked, callbacks) if asked.seconds > 0 else None
    used = _memory(original, compressed, feed, asked, callbacks) if asked.memory else None
    elsewhere = None if where.name == "cpu" else fallbacks(compressed, feed, where, threads)
    callbacks.done()
    states = rollout.outputs.values() if rollout else ()
    near = worst(gathered.comparator, "synthetic" if data is None else "validation", gathered.count, states)
    judgement = judge(near, gathered.accuracy())
    if data is None and not rollout:
        others = _elsewhere(sessions, wanted, real.total, asked.seed + OTHER_IMAGES, told)
        judgement = beside(judgement, others, features=True)
    shares = [o.matched for o in near.outputs if o.matched is not None]
    return Validation(
        tool=this_tool(),
        provider=where.name,
        inputs="synthetic" if data is None else "images",
        count=gathered.count,
        outputs=near.outputs,
        accuracy=gathered.accuracy(),
        matched=min(shares, default=None),
        latency=latency,
        peak_memory=used,
        bytes=sizes,
        kernels=None if where.name == "tensorrt" else _kernels(compressed, where),
        sqnr_db=near.sqnr_db,
        cosine=near.cosine,
        agreement=near.agreement,
        unmeasured=near.unmeasured,
        verdict=judgement.verdict,
        predicted_loss=judgement.loss,
        predicted_range=judgement.span,
        verdict_reason=judgement.reason,
        latency_inputs=tuple((name, tuple(value.shape)) for name, value in feed.items()) if latency else (),
        changed=tuple(gathered.changed),
        changes=gathered.changes,
        provider_option=where.settings,
        fallbacks=elsewhere,
        slowest=Slowest(*(slowest(m, feed, where, threads) for m in (original, compressed))) if latency else None,
        classes=gathered.classes(),
        boxes=gathered.boxes(asked_preprocessing(asked).colour),
    )


def _elsewhere(
    sessions: tuple[Any, Any], wanted: tuple[Wanted, ...], count: int, seed: int, task: str | None
) -> list[Fidelity]:
    """How near two networks are on what else features may be, of which nothing tells what they are."""
    names, specs, found = {w.spec.name for w in wanted if w.unscaled}, tuple(w.spec for w in wanted), []
    drawn = made(wanted, count, seed, {}) if names else {}
    for other in FEATURES if names else ():
        values = {name: other.of(value) if name in names else value for name, value in drawn.items()}
        feeds = list(split(specs, values))
        with suppress(ModelError):  # numbers that the original does not take are none that it reads
            for feed in feeds:
                outputs_of(sessions[0], [], feed)
            found.append(fidelity(*sessions, feeds, task=task, lenient=True))
    return found


def _labelled(asked: Judging) -> bool:
    """Whether labels were given, and not only read off the names of images or folders."""
    data = asked.images
    return asked.labels is not None or isinstance(data, InMemory) or (data is not None and Path(data).suffix == ".npz")


def _wanted(
    original: Source, specs: Sequence[InputSpec], data: Any, asked: Judging
) -> tuple[tuple[Wanted, ...], dict[str, Scale], int]:
    """What the inputs are, what becomes of the pixels of each, and how many of them are made up.

    Where no real ones are given they are of the sizes, of the kinds and at the scale that `compress` makes them up.
    """
    told = {spec.name: Scale(asked_preprocessing(asked)) for spec in specs}
    network = None if data is not None else _readable(original, specs)
    if network is None:
        return described(original, specs, asked.input_shape, shapes_of(specs, data)), told, SYNTHETIC
    options = Options(
        input_shape=asked.input_shape, input_mean=asked.input_mean, input_std=asked.input_std,
        input_range=asked.input_range, input_colour=asked.input_colour, seed=asked.seed, threads=asked.threads or 1,
    )  # fmt: skip
    settle_sizes(network, options)
    wanted, scales, _, _ = expected(network, options)
    return wanted, scales, judged_count(network, wanted)


def _readable(original: Source, specs: Sequence[InputSpec]) -> Network | None:
    """The original, where it can be read and its inputs are those that a session is given."""
    try:
        network = read(load(original).model)
        found = {s.name for s in input_specs_of(network)}
    except UdfcError:
        return None
    return network if found == {s.name for s in specs} else None


def _runs(
    session: Any, wanted: tuple[Wanted, ...], data: Any, asked: Judging, scales: Mapping[str, Scale], usual: int
) -> tuple[RealData, Rollout | None]:
    """Real inputs, or made-up ones where there are none: in sequences, where the original carries states along.

    Nobody saying how many, as many as is `usual` are made up.
    """
    if data is not None:
        return open_real(wanted, data, asked_preprocessing(asked), asked.limit, asked.seed), None
    specs = tuple(w.spec for w in wanted)
    count = usual if asked.limit is None else asked.limit
    seed = asked.seed + OTHER_IMAGES  # with its own a compressed network is run on what it was fitted on
    rollout = rollout_of(wanted, count)
    arrays = None
    if rollout is not None:
        arrays = with_states(session, specs, steps(wanted, rollout, count, seed, scales), rollout)
    if rollout is None or arrays is None:
        rollout, arrays = None, made(wanted, count, seed, scales)
    feeds = split(specs, arrays, rollout.batch) if rollout else split(specs, arrays)
    runs = ((feed, sample_count(specs, feed)) for feed in feeds)
    return RealData(runs, sample_count(specs, arrays)), rollout


def _check_inputs(first: Sequence[InputSpec], second: Sequence[InputSpec]) -> None:
    """Refuse networks that cannot be fed the same.

    Raises:
        CheckError: Names, types or sizes that neither leaves open differ.
    """
    others = {spec.name: spec for spec in second}
    if len(first) != len(second) or not all(s.name in others and _alike(s, others[s.name]) for s in first):
        raise CheckError(f"the inputs differ: {_listed(first)} against {_listed(second)}")


def _alike(first: InputSpec, second: InputSpec) -> bool:
    told = first.shape and second.shape  # else the number of axes is open, or there are none
    fit = all(a == b or None in (a, b) for a, b in zip(first.shape, second.shape, strict=False))
    return first.dtype == second.dtype and (not told or (len(first.shape) == len(second.shape) and fit))


def _listed(specs: Sequence[InputSpec]) -> str:
    return ", ".join(f"{s.name} {s.dtype} {'x'.join('?' if d is None else str(d) for d in s.shape)}" for s in specs)


def _advancing(runs: Runs, callbacks: Callbacks) -> Runs:
    """Tell who listens of every run."""
    for feed, count in runs:
        yield feed, count
        callbacks.advance(count)


def _latency(
    original: Source, compressed: Source, feed: Mapping[str, Any], asked: Judging, callbacks: Callbacks
) -> Latency:
    callbacks.stage("measure latency", None)
    where, threads = asked_provider(asked), asked.threads or 1
    alone = threads == 1 and where.name == "cpu"  # only then can it be told whether a run was disturbed
    longest = PATIENCE * asked.seconds if alone else asked.seconds
    return timed(original, compressed, feed, threads, asked.seconds, where, longest)


def _memory(
    original: Source, compressed: Source, feed: Mapping[str, Any], asked: Judging, callbacks: Callbacks
) -> Pair | None:
    callbacks.stage("measure memory", None)
    where, threads = asked_provider(asked), asked.threads or 1
    with as_file(original) as first, as_file(compressed) as second:
        figures = peak_memory(first, feed, threads, where), peak_memory(second, feed, threads, where)
    return Pair(figures[0], figures[1]) if figures[0] is not None and figures[1] is not None else None


def _kernels(compressed: Source, provider: Provider) -> Kernels:
    """Return which layers became integer kernels."""
    checked = check_runtime(compressed, provider)
    return Kernels(checked.integer, checked.floating, tuple(k.name for k in checked.kernels if k.computes_weight))
