"""Puts the report together from what the stages found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.decide.damage import asked_damage
from onnx_udfc.evaluate.report import (
    Fidelity,
    FileReport,
    GroupReport,
    InputReport,
    LayerLoss,
    LayerReport,
    Report,
    Runtime,
    Size,
    SkipReport,
    ratio,
)
from onnx_udfc.evaluate.verdict import Asked, advice, at_assumed_scale, beside, certain_fault, doubted, judge
from onnx_udfc.inputs.sizes import input_specs_of, wanted_inputs
from onnx_udfc.model.counts import Count, counts, totals
from onnx_udfc.model.files import LoadedModel
from onnx_udfc.model.inventory import already_quantized, inventory, left_out
from onnx_udfc.model.layer_bytes import layer_bytes
from onnx_udfc.model.saving import ROOMY, model_bytes, serialized, weight_bytes
from onnx_udfc.model.tied import repeated
from onnx_udfc.numerics.grids import width_of
from onnx_udfc.options import Options, command_line
from onnx_udfc.options.words import FLOAT
from onnx_udfc.version import this_tool, versions

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.channels.prune import Pruned
    from onnx_udfc.decide.asked import Plan
    from onnx_udfc.emit.writer import Emitted
    from onnx_udfc.evaluate.report import Checked
    from onnx_udfc.inputs.choice import Choice
    from onnx_udfc.inputs.network_inputs import NetworkInputs
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.repair.repaired import Repaired
    from onnx_udfc.runtime.runs import InputSpec
    from onnx_udfc.runtime.sessions import Source

HALF = 16  # bits of a weight in float16
LITTLE = 0.25  # of the ratio that was asked for: what saves less of the work is told


@dataclass(frozen=True)
class Outcome:
    """Everything the stages found."""

    loaded: LoadedModel
    network: Network
    channels: Channels
    plan: Plan
    pruned: Pruned
    repaired: Repaired
    emitted: Emitted
    notes: tuple[str, ...]
    checked: Checked
    attribution: tuple[LayerLoss, ...] = ()
    inputs: tuple[InputReport, ...] = ()
    scale_is_assumed: bool = False  # of the inputs


def input_reports(network: Network, inputs: NetworkInputs) -> tuple[InputReport, ...]:
    """What each input was run on; nothing where nothing was run."""
    if not inputs.values:
        return ()
    chosen = {choice.name: choice for choice in inputs.choices}
    return tuple(
        _input(spec, inputs, chosen.get(spec.name)) for spec in input_specs_of(network) if spec.name in inputs.values
    )


def _input(spec: InputSpec, inputs: NetworkInputs, choice: Choice | None) -> InputReport:
    shape = inputs.values[spec.name].shape
    axis = 0 if spec.by_run else spec.axis or 0
    return InputReport(
        name=spec.name,
        source=inputs.source,
        shape=shape[:axis] + shape[axis + 1 :],
        count=shape[axis] if shape else 1,
        kinds=choice.kinds if choice else (),
        reaction=choice.reaction or None if choice else None,
    )


def make_report(source: Source, outcome: Outcome, options: Options, timings: Mapping[str, float]) -> Report:
    """The report of one compression."""
    sizes = outcome.channels.shapes.sizes
    before, pruned = counts(outcome.network.layers, sizes), outcome.pruned.network
    after = _whole(counts(pruned.layers, resolve(pruned).sizes), outcome.plan)
    model, checked = outcome.emitted.model, outcome.checked
    again = repeated(outcome.network)
    sum_before, sum_after = totals(before, again), totals(after, again)
    near = checked.fidelity or Fidelity("synthetic", None, None, None, unmeasured="; ".join(checked.notes))
    judgement = judge(near, checked.accuracy)
    if checked.accuracy is None:
        widths = outcome.plan.bits.values()
        mean = sum(widths) / len(widths) if widths else FLOAT
        features = bool(checked.elsewhere) and any(w.unscaled for w in wanted_inputs(outcome.network))
        judgement = beside(judgement, checked.elsewhere, features=features)
        judgement = doubted(judgement, near, ratio(sum_after.macs, sum_before.macs), mean)
        judgement = at_assumed_scale(judgement) if _at_assumed_scale(outcome, near) else judgement
    return Report(
        tool=this_tool(),
        options=options.to_dict(),
        before=Size(sum_before.parameters, sum_before.macs, outcome.loaded.bytes),
        after=Size(sum_after.parameters, sum_after.macs, model_bytes(model)),
        groups=tuple(_group(g, outcome.plan) for g in outcome.channels.groups),
        layers=layer_reports(outcome, before, after),
        fidelity=near,
        runtime=_runtime(outcome),
        timings=dict(timings),
        skips=tuple(SkipReport(s.node, s.reason, s.detail) for s in outcome.channels.skips),
        warnings=(*_warnings(outcome), *_little_pruned(outcome, ratio(sum_after.macs, sum_before.macs), options)),
        attribution=outcome.attribution,
        inputs=outcome.inputs,
        verdict=judgement.verdict,
        predicted_loss=judgement.loss,
        predicted_range=judgement.span,
        verdict_reason=judgement.reason,
        advice=advice(judgement, _asked(outcome, options)),
        accuracy=checked.accuracy,
        source=file_report(source, outcome.loaded.bytes),
        result=FileReport(None, _digest(model), model_bytes(model)),
        versions=versions(),
        command=command_line(options.to_dict(), outcome.loaded.path.name if outcome.loaded.path else "IN.onnx"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def file_report(source: Source, size: int) -> FileReport:
    """A model by its content."""
    if isinstance(source, onnx.ModelProto):
        return FileReport(None, _digest(source), size)
    if isinstance(source, bytes):
        return FileReport(None, sha256(source).hexdigest(), size)
    with Path(source).open("rb") as file:
        return FileReport(Path(source).name, file_digest(file, "sha256").hexdigest(), size)


def _digest(model: onnx.ModelProto) -> str | None:
    """SHA-256 of the file that a model makes; None where it would take as much memory again."""
    return None if weight_bytes(model) >= ROOMY else sha256(serialized(model)).hexdigest()


def _asked(outcome: Outcome, options: Options) -> Asked:
    """What was asked for, as advice and certain faults need it."""
    return Asked(
        work=asks_for_work(options),
        smaller=_shrinks(options) or options.float16,
        pruned=options.prunes,
        bits=8 if options.bits == "auto" else width_of(options.bits),
        activations=options.activations is not None,
        calibrated=options.calibrate is not None,
        guessed=any("assumed" in note or "read off" in note for note in outcome.notes),
        compact=outcome.network.compact,
    )


def _at_assumed_scale(outcome: Outcome, fidelity: Fidelity) -> bool:
    """Whether activations are quantized in ranges of made-up inputs whose scale nothing tells."""
    quantized = "activations" in outcome.emitted.form
    return quantized and fidelity.inputs == "synthetic" and outcome.scale_is_assumed


def asks_for_work(options: Options) -> bool:
    """Whether anything is to be changed, and the file to become smaller by it."""
    return asks_for_repair(options) or options.float16


def asks_for_repair(options: Options) -> bool:
    """Whether anything is to be changed that layers are refitted after."""
    return _shrinks(options) or asked_damage(options) is not None


def _shrinks(options: Options) -> bool:
    return options.prunes or bool(options.rank_layer) or options.bits != FLOAT


def certain(report: Report, outcome: Outcome, options: Options) -> str:
    """What is wrong with the result beyond doubt, in a line; empty if nothing is."""
    before, after = report.before.bytes, report.after.bytes
    return certain_fault(report.fidelity, before, after, _asked(outcome, options), outcome.checked.slower_by)


def _whole(found: Mapping[str, Count], plan: Plan) -> dict[str, Count]:
    """Counts by the layers of the original: two that stand for one are added up."""
    whole = {name: c for name, c in found.items() if name not in plan.parts}
    return whole | {name: totals({name: whole[name], first: found[first]}) for first, name in plan.parts.items()}


def _group(group: ChannelGroup, plan: Plan) -> GroupReport:
    kept = plan.keep.get(group.name)
    return GroupReport(
        name=group.name,
        channels=group.channels,
        kept=group.channels if kept is None else len(kept),
        producers=group.producers,
        consumers=group.consumers,
        status="kept" if kept is None else "pruned",
        reason="" if kept is not None else plan.why.get(group.name, ""),
        kind=group.kind,
    )


def layer_reports(outcome: Outcome, before: Mapping[str, Count], after: Mapping[str, Count]) -> tuple[LayerReport, ...]:
    """One report for each layer."""
    layers = outcome.network.layers
    parts = outcome.plan.parts
    held = layer_bytes(outcome.loaded.model, layers)
    written = layer_bytes(outcome.emitted.model, {*layers, *parts})
    for first, name in parts.items():
        written[name] = written.get(name, 0) + written.pop(first, 0)
    return tuple(
        replace(
            _layer(outcome, layer, before[name], after[name]),
            bytes_before=held.get(name, FLOAT // 8 * before[name].parameters),
            bytes_after=written.get(name),
        )
        for name, layer in layers.items()
    )


def _layer(outcome: Outcome, layer: Layer, before: Count, after: Count) -> LayerReport:
    repaired, form = outcome.repaired.layers.get(layer.name), outcome.emitted.forms.get(layer.name, "")
    codes = outcome.repaired.weights.get(layer.name)
    planned = outcome.plan.bits.get(layer.name, HALF if form == "float16" else FLOAT)
    return LayerReport(
        name=layer.name,
        op_type=str(layer.node.op),
        bits=planned if codes is None or codes.finer is None else codes.bits_in_all,
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        relative_error=None if repaired is None else repaired.error_after,
        error_before=None if repaired is None else repaired.error_before,
        error_after=None if repaired is None else repaired.error_refit,
        channels_before=layer.out_channels,
        channels_after=outcome.pruned.network.layers[layer.name].out_channels,
        macs_before=before.macs,
        macs_after=after.macs,
        form=form,
        kind="factored" if layer.name in outcome.plan.factors else "whole",
        rank=outcome.plan.factors[layer.name].rank if layer.name in outcome.plan.factors else None,
    )


def _runtime(outcome: Outcome) -> Runtime:
    emitted, pruning = outcome.emitted, outcome.channels.notes if outcome.plan.keep else ()
    return Runtime(
        opset=outcome.network.graph.opset,
        ir_version=int(emitted.model.ir_version),
        onnxruntime_min=emitted.onnxruntime_min,
        notes=(
            *outcome.loaded.notes, *outcome.network.notes, *pruning, *outcome.notes, *emitted.notes,
            *_weights_left(outcome.loaded),
        ),
        form=emitted.form,
        slower=emitted.slower,
        weight_memory=emitted.weight_memory,
    )  # fmt: skip


def _weights_left(loaded: LoadedModel) -> tuple[str, ...]:
    """Weights that no option makes smaller, with their share of the file."""
    held = inventory(loaded.model)
    return (*already_quantized(held, loaded.bytes), *left_out(held, loaded.bytes))


def _little_pruned(outcome: Outcome, left: float, options: Options) -> tuple[str, ...]:
    """That a ratio, which is one of the channels that may go, takes next to none of the work; `left` is the share."""
    if not 0 < 1 - left < LITTLE * options.prune:
        return ()
    streams = any("--prune-stream" in why for why in outcome.plan.why.values())
    place = "residual streams, which stay whole (--prune-stream on)" if streams else "layers whose channels cannot go"
    wanted = "" if options.factor == "off" else f"; --budget macs={1 - options.prune:.2g} takes ranks there, too"
    return (f"--prune {options.prune:g} saves {1 - left:.1%} of the work: most of it is in {place}{wanted}",)


def _warnings(outcome: Outcome) -> tuple[str, ...]:
    slower = ("this file runs slower than the float original on its target",) if outcome.emitted.slower else ()
    share = outcome.checked.slower_by
    measured = () if share is None else (f"this file takes {share:.2f} times the original's time on this machine",)
    return (*outcome.plan.warnings, *outcome.checked.notes, *slower, *measured)
