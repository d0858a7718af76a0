"""What a compression did, as typed data; the JSON keys are a contract (report.schema.json, made from these types).

Errors are relative residuals: ‖y − ŷ‖² / ‖y − mean(y)‖² at a layer's output, 0 for none. Decibels are signal to noise,
10·log10(‖y‖² / ‖y − ŷ‖²), more is better, at most `MAX_DB`, which stands for "identical".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from onnx_udfc.escapes import json_text
from onnx_udfc.evaluate.parts import PartFidelity
from onnx_udfc.options.command import command_line
from onnx_udfc.options.goals import VERDICTS
from onnx_udfc.options.row import Share
from onnx_udfc.options.shared_rows import TASKS
from onnx_udfc.version import Tool

Verdict = Literal["good", "degraded", "unusable", "unknown"]
Source = Literal["synthetic", "calibration", "validation"]  # of the inputs that were looked at
Kind = Annotated[str, Meta(extra_json_schema={"enum": [*TASKS]})]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[float, Meta(ge=0)]
SYNTHETIC_CAVEAT = (
    "(made-up inputs rank settings; what real ones lose, only real ones tell: onnx-udfc validate --images)"
)


@dataclass(frozen=True)
class Size:
    """What a network weighs: parameters (weights and biases of its layers), MACs for one input, bytes on disk."""

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class GroupReport:
    """What became of channels that can only be pruned together.

    Attributes:
        name: Name of the group, of its first producer.
        channels: Channels before.
        kept: Channels after.
        producers: Layers that write them.
        consumers: Layers that read them.
        status: pruned, kept (prunable but nothing was removed) or skipped (cannot be pruned).
        reason: Why it was skipped or kept; empty when pruned.
        kind: inner (one block's own) or stream (a residual stream that blocks share).
    """

    name: str
    channels: int
    kept: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    status: Literal["pruned", "kept", "skipped"]
    reason: str = ""
    kind: Literal["inner", "stream"] = "inner"


@dataclass(frozen=True)
class Histogram:
    """Counts of weights in equal bins between `low` and `high`."""

    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        bits: Weight bits written.
        parameters_before: Weights and biases before.
        parameters_after: The same after.
        relative_error: Relative residual of the layer's output after everything, or None if it was not measured.
        error_before: The same before the repair.
        error_after: The same after the repair (before quantization, where that comes later).
        channels_before: Output channels before.
        channels_after: Output channels after.
        macs_before: MACs before, for one input.
        macs_after: MACs after.
        form: How its weight is written, e.g. `Cast(INT4)→Mul`.
        histogram: Of its weights, where it was asked for.
        kind: `whole`, or `factored` where two layers of lower rank stand for it.
        rank: Channels between the two.
        bytes_before: Of its weights and biases in the file.
        bytes_after: The same after, with scales.
        ms_before: Milliseconds that it takes on one thread of this machine, where that was measured.
        ms_after: The same after.
        stays_one: Why it never becomes two of lower rank, empty where it may; None where nobody looked.
    """

    name: str
    op_type: str
    bits: float
    parameters_before: int
    parameters_after: int
    relative_error: float | None
    error_before: float | None = None
    error_after: float | None = None
    channels_before: int | None = None
    channels_after: int | None = None
    macs_before: int | None = None
    macs_after: int | None = None
    form: str = ""
    histogram: Histogram | None = None
    kind: Literal["whole", "factored"] = "whole"
    rank: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    ms_before: float | None = None
    ms_after: float | None = None
    stays_one: str | None = None


@dataclass(frozen=True)
class LayerLoss:
    """Attribution: what one layer's own compression costs, and what reaches its output, in dB (more is better).

    Attributes:
        name: Node name.
        own_db: The compressed layer on the original's input against the original's output.
        arriving_db: The compressed network's value at this output against the original's.
        compared: `output` (this layer's output), `kept` (its surviving channels) or the name of another tensor.
        advice: What would help; empty except for the worst.
    """

    name: str
    own_db: float | None
    arriving_db: float | None
    compared: str
    advice: str = ""


@dataclass(frozen=True)
class SkipReport:
    """A node that was left alone, and why."""

    node: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class OutputFidelity:
    """One output; what its kind does not have, or what was not measured, is None.

    Attributes:
        name: Of the output.
        kind: classes, detection, segmentation, sequence, embedding or regression.
        sqnr_db: Of the worst part.
        cosine: Of the worst part.
        agreement: classes: share of inputs with the same class; sequence: with the same string.
        max_difference: Largest absolute difference of any value.
        parts: Figures by part.
        answers: How many different things the original said: classes, strings, boxes, cells above the middle.
        margin_lost: classes: share of the lead of the original's class over the next that is gone.
        matched: detection: 2·matches / boxes of both, at IoU 0.5 and the same class.
        iou: segmentation: intersection over union of what lies above the middle, or is the same class.
        neighbours: embedding: share of inputs with the same nearest other input.
        chance: classes: share that would agree if the answers, as frequent as they are, had nothing in common.
        cells: segmentation: whether each cell is an answer of its own (steps of a sequence, say), no part of an object.
        plain_db: Signal to noise of the values as they are, nothing removed: how near they are as numbers.
        sure_agreement: sequence: the same as agreement, each string counted by how sure the original is of it.
        sure: sequence: how many strings these are.
        state: Whether it is fed back: each network went on with its own, so what it costs is seen in the other outputs.
    """

    name: str
    kind: Kind
    sqnr_db: float | None
    cosine: float | None
    agreement: Share | None = None
    max_difference: float = 0.0
    parts: tuple[PartFidelity, ...] = ()
    answers: int | None = None
    margin_lost: float | None = None
    matched: Share | None = None
    iou: Share | None = None
    neighbours: Share | None = None
    plain_db: float | None = None
    chance: Share | None = None
    cells: bool = False
    sure_agreement: Share | None = None
    sure: float | None = None
    state: bool = False


def answers_of(outputs: Sequence[OutputFidelity]) -> Sequence[OutputFidelity]:
    """The outputs that are judged: all but states, which are seen in the others; those too where there is no other.

    Nor are names of classes (an ArgMax) judged beside the scores that they are read off: how numbers move that are
    names says nothing.
    """
    found = [o for o in outputs if not o.state] or list(outputs)
    scores = {(o.agreement, o.answers) for o in found if o.margin_lost is not None}
    named = [o.kind == "classes" and o.margin_lost is None and (o.agreement, o.answers) in scores for o in found]
    return [o for o, is_name in zip(found, named, strict=True) if not is_name]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of both, as shares of `images`."""

    original: Share
    compressed: Share
    images: int


@dataclass(frozen=True)
class Fidelity:
    """How near the outputs are to the original's: how they move with the input, each column in units of its own spread.

    Attributes:
        inputs: Where the inputs came from.
        sqnr_db: Signal to noise of the worst output, at most MAX_DB; None where nothing was measured.
        cosine: Of the movement of the worst output; None as above.
        agreement: Share of inputs with the same answer, of the worst output; None where no output has classes or
            strings, or where the original says the same every time.
        count: Number of inputs.
        max_difference: Largest absolute difference of any output value.
        outputs: Figures of each output.
        unmeasured: Why nothing, or not everything, was measured; empty if it was.
        held_out: Real inputs that were kept from every fit and range, and that alone were looked at here; 0 where they
            were too few to keep any; None for made-up ones.
    """

    inputs: Source
    sqnr_db: float | None
    cosine: float | None
    agreement: Share | None
    count: int = 0
    max_difference: float = 0.0
    outputs: tuple[OutputFidelity, ...] = ()
    unmeasured: str = ""
    held_out: int | None = None


@dataclass(frozen=True)
class Runtime:
    """What the written file needs.

    Attributes:
        opset: Of the default domain.
        ir_version: Of the file.
        onnxruntime_min: The oldest onnxruntime that runs it.
        notes: What a user should know: session options to set, what is slower.
        form: The QDQ form, in words.
        slower: Whether the file is expected to run slower than the float original.
        weight_memory: Bytes that weights take at run time, where known.
    """

    opset: int
    ir_version: int
    onnxruntime_min: str
    notes: tuple[str, ...] = ()
    form: str = ""
    slower: bool = False
    weight_memory: int | None = None


@dataclass(frozen=True)
class FileReport:
    """A file by its content; what is not known is None.

    Attributes:
        name: Without its folder; None for what is or was not in a file.
        sha256: Of the file's content, without weights that lie in other files; None for a result of 1 GiB or more.
        bytes: With weights that lie in other files.
    """

    name: str | None
    sha256: Digest | None
    bytes: int


@dataclass(frozen=True)
class InputReport:
    """What one input of the network was run on.

    Attributes:
        name: Of the input.
        source: Where its values came from.
        shape: Of one value, the samples' axis left out.
        count: Number of values.
        kinds: Of made-up values, where there are several (photographs, text, sound, formula …); else empty.
        reaction: Kind, or kinds of a mixture → how much the network reacted to it, 1 the most; None where not measured.
    """

    name: str
    source: Literal["synthetic", "calibration"]
    shape: tuple[int, ...]
    count: int
    kinds: tuple[str, ...] = ()
    reaction: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Report:
    """Everything about one compression; times are in seconds, memory in bytes.

    Attributes:
        verdict: good, degraded, unusable, or unknown where it could not be told.
        predicted_loss: Share (0 to 1) of the original's score on its task that is expected to be lost, or None.
        predicted_range: Where that loss lies most of the time.
        verdict_reason: What the verdict rests on.
        advice: What would help, the most useful first.
        accuracy: Of both networks on the labelled inputs of --validate.
        source: What was compressed.
        result: What came of it.
        versions: Of Python and of the packages that the bytes depend on.
        command: That gives the result again.
        other_ms: Milliseconds before and after of all that is no layer, where layers were timed.
        created: When, as `2026-01-31T12:00:00+00:00`.
    """

    tool: Tool
    options: Mapping[str, Any]
    before: Size
    after: Size
    groups: tuple[GroupReport, ...]
    layers: tuple[LayerReport, ...]
    fidelity: Fidelity
    runtime: Runtime
    timings: Mapping[str, float]
    skips: tuple[SkipReport, ...] = ()
    warnings: tuple[str, ...] = ()
    attribution: tuple[LayerLoss, ...] = ()
    peak_memory: int | None = None
    inputs: tuple[InputReport, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict = "unknown"
    predicted_loss: Share | None = None
    predicted_range: tuple[Share, Share] | None = None
    verdict_reason: str = ""
    advice: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    source: FileReport | None = None
    result: FileReport | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    other_ms: tuple[Time, Time] | None = None

    def saved_as(self, path: str | Path) -> Report:
        """Return the report of a result that is written there."""
        made = None if self.result is None else replace(self.result, name=Path(path).name)
        names = [f.name or default for f, default in ((self.source, "IN.onnx"), (made, "OUT.onnx")) if f is not None]
        return replace(self, result=made, command=command_line(self.options, *names))

    def __repr__(self) -> str:
        lost = "" if self.predicted_loss is None else f", {100 * self.predicted_loss:.1f} % lost"
        return f"Report({self.verdict}{lost}, bytes {self.before.bytes:,} -> {self.after.bytes:,})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dictionaries, strings and finite numbers (what is not finite becomes None)."""
        result: dict[str, Any] = plain(self)
        return result

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json_text(self.to_dict())

    def measured(self, key: str) -> float | None:
        """Return the value that a requirement's key names; macs, params and bytes are ratios to the original's."""
        values: dict[str, float | None] = {
            "verdict": VERDICTS.get(self.verdict),
            "agreement": self.fidelity.agreement,
            "sqnr": self.fidelity.sqnr_db,
            "cosine": self.fidelity.cosine,
            "accuracy": self.accuracy.compressed if self.accuracy else None,
            "accuracy_drop": self.accuracy.original - self.accuracy.compressed if self.accuracy else None,
            "matched": min((o.matched for o in self.fidelity.outputs if o.matched is not None), default=None),
            "macs": ratio(self.after.macs, self.before.macs),
            "params": ratio(self.after.parameters, self.before.parameters),
            "bytes": ratio(self.after.bytes, self.before.bytes),
        }
        return values.get(key)


def ratio(after: float, before: float) -> float:
    """Return after / before, 1 where there was nothing."""
    return after / before if before else 1.0


def plain(value: object) -> Any:
    """Return dataclasses, mappings and sequences as JSON types; numbers that are not finite become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if hasattr(value, "item"):  # numpy scalars, without importing numpy
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)


@dataclass(frozen=True)
class Checked:
    """What the check found.

    Attributes:
        fidelity: how near the outputs are; None where the original itself cannot be run.
        notes: why something was not checked.
        accuracy: of both on the labelled inputs of --validate.
        slower_by: time as a share of the original's where speed was asked for and the result is clearly slower.
        elsewhere: how near they are on what else the inputs may be, where nothing tells what they are.
    """

    fidelity: Fidelity | None
    notes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    slower_by: float | None = None
    elsewhere: tuple[Fidelity, ...] = ()
