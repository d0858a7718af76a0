"""The pipeline on one screen: read, plan, repair, write, check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import Pruned, prune
from onnx_udfc.decide.asked import Plan, factorable, prunable
from onnx_udfc.decide.average_bits import averaged
from onnx_udfc.decide.counts_and_bits import make_plan
from onnx_udfc.decide.damage import asked_damage, damage_weights
from onnx_udfc.decide.filling import filled
from onnx_udfc.decide.finer import finer_layers
from onnx_udfc.decide.first_layers import suited
from onnx_udfc.decide.plan import placed, split_layers
from onnx_udfc.decide.unrepaired import asked_of_unseen, rounded_unseen, unrepaired_notes
from onnx_udfc.dry_run import Subject, needs_run, plan_report
from onnx_udfc.emit.short_names import shorten_names
from onnx_udfc.emit.stamp import stamp
from onnx_udfc.emit.writer import Placement, activation_tensors, check_activations, emit
from onnx_udfc.errors import CheckError, ModelError, RequestError
from onnx_udfc.evaluate.final_check import Answered, answer, check_result, share_of_time
from onnx_udfc.goal import planned, reached
from onnx_udfc.halved import halve
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.inputs.how_many import OTHER_IMAGES
from onnx_udfc.inputs.kinds import check_batch
from onnx_udfc.inputs.network_inputs import NetworkInputs, likeness, make_inputs, unscaled
from onnx_udfc.inputs.real import with_data
from onnx_udfc.inputs.sizes import input_specs_of, take_singly
from onnx_udfc.model.files import weight_files
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.network import Network
from onnx_udfc.model.protos import bring, declare_inputs, whole
from onnx_udfc.model.samples import as_given, with_samples
from onnx_udfc.model.saving import save
from onnx_udfc.model.unseen import find_unseen
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.products import beside, workers
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options import Options, check_requirements, read_options
from onnx_udfc.options.words import FLOAT
from onnx_udfc.original import Original, limited, read_original, traced
from onnx_udfc.outputs import path_of, same_file
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.repair.absorb import absorb_copies
from onnx_udfc.repair.closed_forms import absorb_and_prune, quantize_weights
from onnx_udfc.repair.harm import spared
from onnx_udfc.repair.ranges import measure_ranges
from onnx_udfc.repair.recurrent import cells_of
from onnx_udfc.repair.refit import repair
from onnx_udfc.repair.repaired import Repaired, RepairSettings
from onnx_udfc.repair.splitting import split_matched
from onnx_udfc.repair.unscaled import bound, reason
from onnx_udfc.runtime.blame import blamed
from onnx_udfc.runtime.blas import one_thread
from onnx_udfc.runtime.machine import cores, keeping, let_go, release
from onnx_udfc.runtime.providers import asked_provider
from onnx_udfc.runtime.sessions import Source, check_provider, open_session
from onnx_udfc.runtime.walk import Pieces
from onnx_udfc.search import asks_for_search, search_note, smallest, smallest_within
from onnx_udfc.summary import Outcome, asks_for_repair, asks_for_work, certain, input_reports, make_report

if TYPE_CHECKING:
    from typing import Unpack

    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.options.keywords import Keywords


LIGHT = 1 << 25  # bytes of a file whose answers for the check are found beside its repair, at most
BESIDE_REPAIR = 1 << 20  # values of the widest tensor of a run of it, at most


@dataclass(frozen=True)
class Result:
    """A compressed network and what became of it; of a dry run the network as it was, and what would become of it."""

    model: onnx.ModelProto
    report: Report
    planned: bool = False

    def __repr__(self) -> str:
        before, after = self.report.before, self.report.after
        return f"Result(bytes {before.bytes:,} -> {after.bytes:,}, MACs {before.macs:,} -> {after.macs:,})"

    @property
    def model_proto(self) -> onnx.ModelProto:
        """The model, by the name under which whatever takes models looks for it: `validate("in.onnx", result)`."""
        return self.model

    def _repr_html_(self) -> str:
        """Sizes before and after as a table, for notebooks."""
        before, after = self.report.before, self.report.after
        rows = (
            f"<tr><th>{name}</th><td>{getattr(before, key):,}</td><td>{getattr(after, key):,}</td></tr>"
            for name, key in (("parameters", "parameters"), ("MACs", "macs"), ("bytes", "bytes"))
        )
        return f"<table><tr><th></th><th>before</th><th>after</th></tr>{''.join(rows)}</table>"

    def save(
        self,
        path: str | Path,
        texts: Mapping[str, str] | None = None,
        moving: AbstractContextManager[None] | None = None,
    ) -> list[str]:
        """Write the model, and texts that appear only with it; each file appears whole or not at all.

        `texts` is path → content of other files, reports for one; `moving` is entered while finished files are moved
        into place.

        Returns:
            What could not be moved into place after the model was; one line for each.

        Raises:
            UdfcError: nothing was written.
        """
        if self.planned:
            raise RequestError("--dry-run makes no file: leave it out")
        return save(self.model, path_of(path), texts, moving)


def check_out(source: str | Path, out: str | Path) -> None:
    """Refuse an OUT that would take the place of what IN is made of.

    Raises:
        UdfcError: it holds weights of IN, or IN cannot be read.
    """
    places = [Path(out), Path(f"{out}.data")]  # the second is where the weights of a model above 2 GiB go
    if not any(place.exists() for place in places) or same_file(source, out):
        return
    for weights in weight_files(source):
        if any(same_file(weights, place) for place in places):
            raise RequestError(
                f"{out}: writing it would replace {weights.name}, which holds weights of IN; name another"
            )


@dataclass
class _Run:
    """One compression: its options and the clock of its stages."""

    options: Options
    callbacks: Callbacks
    original: Original | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, steps: int | None = None) -> Iterator[None]:
        """Time a stage and tell who listens."""
        let_go()
        self.callbacks.stage(name, steps)
        start = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def advance(self, layer: str) -> None:
        """One layer is done."""
        release()
        self.callbacks.advance(1, layer)


def compress(
    source: Source,
    options: Options | None = None,
    callbacks: Callbacks | None = None,
    *,
    original: Original | None = None,
    base: str | Path | None = None,
    **keywords: Unpack[Keywords],
) -> Result:
    """Compress a network.

    The source is a path, the content of a file, or a model, which is not changed; of one that is no path `base` is the
    folder of its external data, without which it has none. The trace of an `original`, the same source read before, is
    shared between compressions. Keywords are those of Options.

    Raises:
        UdfcError: the input or the request cannot be served, a gate is not met, or the result fails its check.
    """
    asked = replace(options or Options(), **read_options(Options, with_data(Options, keywords)))
    if base is not None and not isinstance(source, str | Path):
        source = whole(source, base)
    with blamed(source), one_thread(), workers(asked.threads or cores()), keeping(asked.memory_bound):
        return _answered(source, asked, callbacks or Silent(), original)


def _answered(source: Source, asked: Options, callbacks: Callbacks, original: Original | None) -> Result:
    """One compression, or the best of several where a goal or a bound is to be reached."""
    if asked.dry_run:
        return _compress(source, _Run(planned(asked) if asked.for_ else asked, callbacks, original))
    if not (asked.for_ or asked.max_loss is not None or asks_for_search(asked)):
        return _compress(source, _Run(asked, callbacks, original))
    asked.check()
    shared = original or read_original(source, asked)

    def compressed(trial: Options) -> Result:
        return _compress(source, _Run(trial, callbacks, shared))

    def share(found: Result) -> float | None:
        return share_of_time(with_samples(source), shared.network, with_samples(found.model, source), asked)

    if asked.for_:
        network = shared.network
        weights = bool(network.layers or find_unseen(network, asked.skip))
        result, notes = reached(asked, compressed, share, weights=weights)
    elif asked.max_loss is not None:
        result, note = smallest_within(asked, compressed)
        notes = (note,)
    else:
        result, found = smallest(asked, compressed)
        notes = (search_note(asked, found),)
    runtime = replace(result.report.runtime, notes=(*notes, *result.report.runtime.notes))
    return Result(result.model, replace(result.report, runtime=runtime))


def _compress(source: Source, run: _Run) -> Result:
    run.options.check()
    check_provider(asked_provider(run.options))
    with run.stage("read"):
        original = (run.original or read_original(source, run.options)).for_skip(run.options.skip)
        _check_possible(original, run.options)
    if run.options.dry_run:
        return _planned(source, run, original)
    runs = source if original.apart is None else original.apart
    try:
        outcome = _attempt(runs, run, original, run.options)
    except ModelError:
        if not take_singly(original.network):
            raise
        original.fed = original.trace = None
        outcome = _attempt(runs, run, original, run.options)
    stamp(outcome.emitted.model, run.options)
    found, outcome = outcome, _as_given(outcome, original, source)
    report = make_report(source, outcome, run.options, run.timings)
    if run.options.attribution:
        with run.stage("attribution"):
            report = _explained(report, found, original.network, run.options)
    fault = certain(report, outcome, run.options)
    if fault and not run.options.force:
        raise CheckError(f"{fault}, so nothing was written; --force writes it")
    check_requirements(run.options.require, {r.key: report.measured(r.key) for r in run.options.require})
    run.callbacks.done()
    return Result(outcome.emitted.model, report)


def _planned(source: Source, run: _Run, original: Original) -> Result:
    """The report of what would be done; the model is the original's."""
    subject = Subject(original.loaded, original.network, original.channels)
    if needs_run(original.network, original.channels, run.options):
        with run.stage("original network", len(original.network.layers)):
            trace = traced(original, run.options, balanced_inputs, run.advance)
        subject = replace(subject, network=trace.network, reference=trace.reference)
    with run.stage("plan"):
        report = plan_report(source, subject, run.options, run.timings)
    run.callbacks.done()
    model = bring(original.loaded.model)
    return Result(model if original.apart is None else as_given(model, source), report, planned=True)


def _as_given(outcome: Outcome, original: Original, source: Source) -> Outcome:
    """The outcome with a model that takes and gives what the source does, where it was worked on with samples."""
    if original.apart is None:
        return outcome
    model = as_given(outcome.emitted.model, source)
    open_session(model, threads=1, optimize=False)
    return replace(outcome, emitted=replace(outcome.emitted, model=model))


def _check_possible(original: Original, options: Options) -> None:
    """Refuse before any work what cannot be run, and what the network cannot hold."""
    network, unbounded = original.network, original.channels.shapes.unbounded
    if unbounded:
        raise ModelError(f"the network is too large to run: {unbounded}; look at onnx-udfc inspect")
    if options.activations is not None and options.bits != FLOAT:
        left = layers_meant(options.skip, network)
        check_activations(network, [name for name in network.layers if name not in left], options.target)
    if options.batch is not None:
        check_batch(input_specs_of(network), options.batch)


def _attempt(source: Source, run: _Run, original: Original, options: Options) -> Outcome:
    """Plan, repair, write and check by these options."""
    if METHODS[options.method].measured and asks_for_repair(options) and _can_change(original, options):
        ahead = partial(_answered_ahead, source, original, options)
        (network, plan, pruned, repaired, inputs, placement), answered = _measured(run, original, options, ahead)
    else:
        network, plan, pruned, repaired, inputs, placement = _from_weights(run, original)
        answered = None
    original.network.lighten()
    told = ""
    with run.stage("write"):
        if placement is not None and not options.budget:
            pruned, repaired.weights, told = filled(pruned, repaired.weights, placement, options.target, options.skip)
        unseen = rounded_unseen(asked_of_unseen(pruned.network, options, plan.bits), repaired.unseen)
        grids = repaired.activations or ({} if placement is not None and placement.kept else None)
        emitted = emit(pruned.network, repaired.weights, grids, options.target, placement, unseen)
        if original.network.together:
            declare_inputs(emitted.model, original.loaded.model)
        bring(emitted.model)
    if options.float16:
        with run.stage("float16"):
            emitted = halve(emitted, original.network, inputs, options)
    if asks_for_work(options):
        gone = shorten_names(emitted.model, pruned.network.layers, pruned.network.origin.names)
        emitted = replace(emitted, notes=(*emitted.notes, *gone))
    with run.stage("check"):
        judged, batch = _judged(original, options)
        checked = check_result(source, original.network, emitted.model, judged, batch, answered)
    about = unrepaired_notes(pruned.network, options, emitted.forms, unseen, repaired.unseen)
    notes = (*(words for words in (inputs.note, told) if words), *repaired.notes(), *about)
    return Outcome(
        original.loaded, network, original.channels, plan, pruned, repaired, emitted, notes, checked,
        inputs=input_reports(original.network, inputs), scale_is_assumed=inputs.scale_is_assumed,
    )  # fmt: skip


def _judged(original: Original, options: Options) -> tuple[Options, int]:
    """The options and the samples of a run that a result is checked by."""
    limits = limited(original, options)
    # Which of the real inputs are held out hangs on how many were taken.
    return limits.options if options.calibrate else options, limits.batch


def _answered_ahead(source: Source, original: Original, options: Options) -> Callable[[], Answered] | None:
    """Begin to find what the original answers to the inputs of the check, beside the repair, where that holds little.

    Most of a repair is one step after another, which leave half of the cores idle.
    """
    judged, batch = _judged(original, options)
    widest = max((math.prod(size) for size in original.channels.shapes.sizes.values()), default=0)
    light = original.loaded.bytes <= LIGHT and batch * widest <= BESIDE_REPAIR
    if judged.validate is not None or judged.provider != "cpu" or not light:
        return None
    return beside(partial(answer, source, original.network, judged, batch))


def _can_change(original: Original, options: Options) -> bool:
    """Whether there is anything that layers are refitted after: else the network need not be run for it."""
    network, channels = original.network, original.channels
    if options.bits != FLOAT or asked_damage(options) is not None:
        return bool(network.layers or (options.bits != FLOAT and cells_of(network)))
    return bool(prunable(channels, options) or factorable(network, channels, options))


def _explained(report: Report, outcome: Outcome, original: Network, options: Options) -> Report:
    """The report with what each layer lost, on the inputs of the final check."""
    from onnx_udfc.evaluate.attribution import Changes, explain

    network, pruned = outcome.network, outcome.pruned
    values = make_inputs(original, options, OTHER_IMAGES).values
    changes = Changes(pruned.kept_in, pruned.kept_out, network.scale, outcome.plan.parts)
    return explain(report, network.to_model(), outcome.emitted.model, input_specs_of(original), values, changes)


_Stages = tuple[Network, Plan, Pruned, Repaired, NetworkInputs, Placement | None]
_Ahead = Callable[[], Callable[[], Answered] | None]


def _measured(
    run: _Run, original: Original, options: Options, ahead: _Ahead
) -> tuple[_Stages, Callable[[], Answered] | None]:
    """Plan and repair on moments of the network's own runs; also what `ahead` begins beside the repair."""
    channels = original.channels
    with run.stage("original network", len(original.network.layers)):
        run_of_it = traced(original, options, balanced_inputs, run.advance)
    network, inputs, reference = run_of_it.network, run_of_it.inputs, run_of_it.reference
    plan = make_plan(network, channels, original.loaded, options, reference)
    pruned = prune(network, channels, plan.keep)
    plan = split_layers(pruned, plan)
    plan = averaged(pruned.network, plan, reference.rounding, options)
    plan, placement = placed(pruned.network, plan, options)
    with run.stage("compressed network", len(network.layers)):
        start = reference.network.copy()
        absorb_copies(start, network, channels, plan.keep)
        matched = prune(start, channels, plan.keep).network
        settings = RepairSettings(
            solve=METHODS[options.method].solve,
            damage=asked_damage(options),
            spared=layers_meant(options.skip, pruned.network),
            finer=finer_layers(pruned.network, options),
            unseen=asked_of_unseen(pruned.network, options, plan.bits),
        )
        parts, alone = split_matched(matched, plan.factors), run.original is None
        if alone:  # nobody else will ask for the trace, which is spent layer by layer
            original.trace = None
            reference.settle(plan.factors)
        del start, run_of_it
        answered = ahead()
        repaired = repair(pruned, matched, reference, plan.bits, settings, run.advance, parts, spend=alone)
    repaired.fallbacks |= {
        f"channels of {name}": f"ordered by their weights alone: {why}" for name, why in reference.unordered.items()
    }
    if placement is not None:
        # Ranges of the network as it is shipped: those of the matched domain cost MobileNetV1 20 points more.
        with run.stage("ranges"):
            placement, repaired.activations = _ranges(original, pruned.network, plan, placement, inputs, options)
    return (network, plan, pruned, repaired, inputs, placement), answered


def _from_weights(run: _Run, original: Original) -> _Stages:
    """Plan and repair on the weights alone; only activation ranges need a run."""
    options, method = run.options, METHODS[run.options.method]
    network, channels = original.network, original.channels
    with run.stage("weights"):
        plan = make_plan(network, channels, original.loaded, options)
        pruned = absorb_and_prune(network, channels, plan.keep, method)
        network.lighten()
        damage_weights(pruned.network, options)
        plan, placement = placed(pruned.network, plan, options)
        left = find_groups(pruned.network).groups if method.rescales and plan.bits else ()
        finer = finer_layers(pruned.network, options)
        repaired = Repaired(quantize_weights(pruned.network, left, plan.bits, method, finer))
    inputs = NetworkInputs({}, "synthetic")
    if placement is not None:
        with run.stage("ranges"):
            limits = limited(original, options)
            inputs = make_inputs(network, limits.options).noted(limits.note)
            placement, repaired.activations = _ranges(original, pruned.network, plan, placement, inputs, options)
    return network, plan, pruned, repaired, inputs, placement


def _ranges(
    original: Original, network: Network, plan: Plan, placement: Placement, inputs: NetworkInputs, options: Options
) -> tuple[Placement, dict[str, ActivationParams]]:
    """Grids of all quantized tensors of a network whose weights are final, and which tensors these are.

    A placement is made so that as many layers as possible run as integers; those whose quantized activations ruin what
    the network answers are taken out of it.
    """
    like, pieces = likeness(original.network, inputs), Pieces(asked_provider(options))
    slow = placement.slow_first
    layers = suited(network, plan.bits, slow)
    unknown, floated = unscaled(original.network, inputs, options), frozenset[str]()
    if unknown:
        floated = bound(network, placement, inputs.values, unknown, pieces)
    if floated:
        found = activation_tensors(network, layers, options.target, floated)
        placement = replace(found, slow_first=slow, reason=reason(unknown))
    measured = partial(measure_ranges, network, likeness=like, pieces=pieces)
    grids = measured(placement, inputs.values)

    def measure(changed: Placement, exact: bool) -> Mapping[str, ActivationParams]:
        return measured(changed, inputs.values, exact=exact)

    left = spared(network, layers, options.target, placement, grids, inputs.values, floated, measure)
    if left is placement:
        return placement, grids
    left = replace(left, slow_first=slow)
    return left, measured(left, inputs.values)
