"""Which layer lost what: the error that each layer's own compression adds, and the error that arrives at its output.

Both networks run side by side on the same inputs. For layer l with the original's input x, its output y = W x + b, and
the compressed weights Ŵ, b̂ on the channels that were kept (in: those of x that are left, out: those of y):

    own      = Σ y_out² / Σ (y_out − (Ŵ x_in + b̂))²      what this layer alone would cost
    arriving = Σ y_out² / Σ (y_out − ŷ)²                  ŷ: the compressed network's value at this output

in dB. A pruned input is part of the own error: Ŵ is what the repair made of the remaining channels. Where channels were
equalized before anything was compressed, x and y are those of the equalized network, whose layers the compressed ones
stand for; errors are counted in the original's units, for y and ŷ times what equalization divided them by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_udfc.errors import ModelError, UdfcError
from onnx_udfc.evaluate.comparison import decibels
from onnx_udfc.evaluate.report import Histogram, LayerLoss, LayerReport, Report
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.model import protos
from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.runtime.layer_times import layer_times
from onnx_udfc.runtime.runs import InputSpec, sample_count, split
from onnx_udfc.runtime.written_layers import Feed, WrittenLayer, alone, probe, written_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

WORST = 3
HARMLESS = 40.0  # dB: a ten-thousandth of the signal, about what 8 bits cost; nothing is advised against less
BINS = 64
SAMPLES = 8
SMALL = 64 * 64 * 3  # values of an input of which SAMPLES fit through a network at once
LARGEST = 1_500_000_000  # bytes of a model that is copied with more outputs
MANY_BITS = 8
FLOAT_BITS = 32


@dataclass(frozen=True)
class Changes:
    """How the layers of a result stand to those of the network that was compressed.

    Attributes:
        kept_in: Layer → numbers of the input channels that are left, where some were removed.
        kept_out: Layer → the same of its output channels.
        scale: Tensor → (C,) what its channels were divided by before, where they were equalized.
        parts: Name of the first of two layers in a row that stand for one → name of that one.
    """

    kept_in: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    kept_out: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    scale: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


UNCHANGED = Changes()


@dataclass
class _Sums:
    """Sums of squares of a signal and of what is wrong with it; None until something was compared."""

    signal: float = 0.0
    noise: float = 0.0
    counted: bool = False

    def add(self, y: NDArray[Any], z: NDArray[Any], unit: NDArray[Any] | None = None) -> None:
        """Take in a batch, times a unit if there is one; different shapes cannot be compared and leave it uncounted."""
        if y.shape != z.shape:
            return
        a, b = y.astype(np.float64), z.astype(np.float64)
        if unit is not None:
            a, b = a * unit, b * unit
        self.signal += float((a * a).sum())
        self.noise += float(((a - b) ** 2).sum())
        self.counted = True

    def db(self) -> float | None:
        return decibels(self.signal, self.noise) if self.counted else None


def attribute(
    original: onnx.ModelProto,
    compressed: onnx.ModelProto,
    feeds: Iterable[Feed],
    layers: Sequence[LayerReport],
    changes: Changes = UNCHANGED,
    asked: int | str | None = None,
) -> tuple[LayerLoss, ...]:
    """Return what every layer loses, worst first by its own error; the three worst with advice if they lose much.

    Args:
        original: The network that was compressed, with the same node names: batch norm folded, channels equalized.
        compressed: The written result.
        feeds: Inputs; small batches keep the memory small, since every layer's values are held at once.
        layers: The layers to look at, with their bits and channel counts.
        changes: How layers of the one stand to those of the other.
        asked: The bits that were asked for: a layer that has fewer is held to them by its kernels.
    """
    feeds = list(feeds)
    names = [x.name for x in layers]
    before, after = (written_layers(m, names, feeds[0]) for m in (original, compressed))
    both = [n for n in names if n in before and n in after]
    found = written_layers(compressed, changes.parts, feeds[0])
    firsts = {whole: found[first] for first, whole in changes.parts.items() if first in found}
    gathered = _Gathered(before, after, firsts, changes)
    sides = _Side.of(original, before, both), _Side.of(compressed, after, both)
    for feed in feeds:
        first, second = sides[0].run(feed), sides[1].run(feed)
        for name in both:
            gathered.add(name, first, second)
    rows = [gathered.row(name) for name in both]
    rows.sort(key=lambda r: (r.own_db is None, r.own_db, r.name))
    reports = {x.name: x for x in layers}
    worst = [r for r in rows[:WORST] if r.own_db is not None and r.own_db < HARMLESS]
    return (*(replace(r, advice=advice(reports[r.name], asked)) for r in worst), *rows[len(worst) :])


def explain(
    report: Report,
    original: onnx.ModelProto,
    compressed: onnx.ModelProto,
    specs: Sequence[InputSpec],
    values: Mapping[str, NDArray[Any]],
    changes: Changes,
) -> Report:
    """Return the report with attribution and histograms of weights; as it is where they cannot be had.

    Arguments are as of `attribute`; of `values`, arrays for the original's inputs, a few samples are used.
    """
    if not report.layers:
        return report
    if model_bytes(original) > LARGEST:
        return replace(report, warnings=(*report.warnings, "too large to measure which layer lost what"))
    count = max([SAMPLES, *(s.batch or 1 for s in specs)])
    few = take(specs, values, evenly_spaced(sample_count(specs, values), count))
    small = max((v.size // count for v in few.values()), default=0) <= SMALL
    feeds = list(split(specs, few, batch=SAMPLES if small else 1))
    try:
        rows = attribute(original, compressed, feeds, report.layers, changes, report.options.get("bits"))
        spread = histograms(original, compressed, [x.name for x in report.layers], feeds[0])
    except ModelError as error:
        return replace(report, warnings=(*report.warnings, f"not measured which layer lost what: {error}"))
    layers = tuple(replace(x, histogram=spread.get(x.name)) for x in report.layers)
    one = next(iter(split(specs, few, batch=1)))
    return _with_times(replace(report, attribution=rows, layers=layers), original, compressed, one, changes.parts)


def _with_times(
    report: Report, original: onnx.ModelProto, compressed: onnx.ModelProto, feed: Feed, parts: Mapping[str, str]
) -> Report:
    """The report with what each layer takes; two that stand for one are added up."""
    names = [x.name for x in report.layers]
    try:
        before, after = layer_times(original, names, feed), layer_times(compressed, [*names, *parts], feed)
    except UdfcError as error:
        return replace(report, warnings=(*report.warnings, f"layers were not timed: {error}"))
    later = dict(after.layers)
    for first, name in parts.items():
        later[name] = later.get(name, 0.0) + later.pop(first, 0.0)
    timed = (replace(x, ms_before=before.layers.get(x.name), ms_after=later.get(x.name)) for x in report.layers)
    return replace(report, layers=tuple(timed), other_ms=(before.others, after.others))


@dataclass(frozen=True)
class _Side:
    """One network that gives the inputs and outputs of its layers."""

    session: InferenceSession
    names: tuple[str, ...]
    given: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto, layers: Mapping[str, WrittenLayer], names: Sequence[str]) -> _Side:
        """Return the side; tensors that are graph inputs are taken from the feed."""
        given = frozenset(i.name for i in model.graph.input)
        wanted = {t for n in names for t in (layers[n].node.input[0], layers[n].output)} - given
        ordered = tuple(sorted(wanted))
        return _Side(probe(model, ordered), ordered, given)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Return every wanted tensor by name."""
        values = self.session.run(list(self.names), dict(feed)) if self.names else []  # none would mean all outputs
        return dict(zip(self.names, values, strict=True)) | dict(feed)


@dataclass
class _Gathered:
    """Sums for every layer over all feeds."""

    before: Mapping[str, WrittenLayer]
    after: Mapping[str, WrittenLayer]
    firsts: Mapping[str, WrittenLayer]
    changes: Changes
    sessions: dict[str, InferenceSession] = field(default_factory=dict)
    own: dict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    arriving: dict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    pruned: set[str] = field(default_factory=set)

    def add(self, name: str, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> None:
        """Compare one layer for one feed."""
        old, new = self.before[name], self.after[name]
        axis = kind_of(old.node.op_type).axis
        y = _take(first[old.output], self.changes.kept_out.get(name), axis)
        unit = self._unit(name, old.output, y.ndim, axis)
        self.arriving[name].add(y, second[new.output], unit)
        self.pruned.update([name] if y.shape != first[old.output].shape else [])
        x = _take(first[old.node.input[0]], self.changes.kept_in.get(name), axis)
        for part, layer in ((f"{name}: first", self.firsts.get(name)), (name, new)):
            if layer is None:
                continue
            if not _fits(layer, x, axis):
                return
            if part not in self.sessions:
                self.sessions[part] = alone(layer, x)
            x = self.sessions[part].run(None, {"x": x})[0]
        self.own[name].add(y, x, unit)

    def _unit(self, name: str, tensor: str, rank: int, axis: int) -> NDArray[Any] | None:
        """Return what brings a layer's output back to the original's units, shaped to multiply it."""
        factor = self.changes.scale.get(tensor)
        if factor is None:
            return None
        shape = [1] * rank
        shape[axis] = -1
        return _take(factor, self.changes.kept_out.get(name), 0).reshape(shape)

    def row(self, name: str) -> LayerLoss:
        """Return the layer's figures."""
        compared = "kept" if name in self.pruned else "output"
        return LayerLoss(name, self.own[name].db(), self.arriving[name].db(), compared)


def _take(values: NDArray[Any], kept: NDArray[np.int64] | None, axis: int) -> NDArray[Any]:
    return values if kept is None else values.take(kept, axis=axis)


def _fits(layer: WrittenLayer, x: NDArray[Any], axis: int) -> bool:
    """Return whether x has the channels that the layer reads."""
    match layer.node.op_type:
        case "Conv":
            wanted = layer.weight.shape[1] * protos.attribute(layer.node, "group", 1)
        case "Gemm":
            wanted = layer.weight.shape[1 if protos.attribute(layer.node, "transB", 0) else 0]
        case "MatMul":
            wanted = layer.weight.shape[-2]
        case _:
            wanted = layer.weight.shape[0]
    return bool(x.shape[axis] == wanted)


def advice(layer: LayerReport, asked: int | str | None = None) -> str:
    """Return what would help a layer that loses much: bits or channels, whichever cost it more.

    `asked` are the bits that were asked for; more than what kernels allow cannot be had.
    """
    keep = f"--skip '{layer.name}' leaves it as it is"
    few = layer.bits < MANY_BITS and not (isinstance(asked, int) and layer.bits < asked)
    pruned = layer.parameters_after < layer.parameters_before
    smaller = "fewer channels removed" if layer.kind == "whole" else f"a rank above {layer.rank}"
    if few and pruned and layer.relative_error is not None and layer.error_after is not None:
        few = layer.relative_error - layer.error_after > layer.error_after  # what rounding added to the refit's error
        pruned = not few
    bits = f"more than {layer.bits} bits (--bits auto with a --budget)"
    wanted = " or ".join([*([bits] if few else []), *([smaller] if pruned else [])])
    if wanted:
        return f"{wanted}; {keep}"
    return keep if layer.bits < FLOAT_BITS else ""


def histograms(
    original: onnx.ModelProto, compressed: onnx.ModelProto, names: Sequence[str], feed: Feed
) -> dict[str, Histogram]:
    """Return for every layer how its weights are spread before and after, over the same bins."""
    before, after = (written_layers(m, names, feed) for m in (original, compressed))
    return {n: histogram(before[n].weight, after[n].weight) for n in names if n in before and n in after}


def histogram(before: NDArray[Any], after: NDArray[Any]) -> Histogram:
    """Return counts in BINS equal bins over the range of both arrays."""
    both = [np.asarray(w, np.float64).ravel() for w in (before, after)]
    low = min((float(w.min()) for w in both if w.size), default=0.0)
    high = max((float(w.max()) for w in both if w.size), default=0.0)
    high = high if high > low else low + 1.0
    counts = [tuple(int(c) for c in np.histogram(w, BINS, (low, high))[0]) for w in both]
    return Histogram(low, high, counts[0], counts[1])
