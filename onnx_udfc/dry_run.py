"""What a compression would do: the plan, and how large its file would be, with nothing repaired and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx_udfc.channels.prune import Pruned, prune
from onnx_udfc.decide.file_size import drafted
from onnx_udfc.decide.plan import FLOAT, Plan, factorable, make_plan, prunable, removals, split_layers
from onnx_udfc.evaluate.final_check import Checked
from onnx_udfc.evaluate.report import Report
from onnx_udfc.inputs.network_inputs import image_count, wanted_inputs
from onnx_udfc.integers import placed
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.elimination import MEASURED
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options import Options
from onnx_udfc.original import Original, Trace
from onnx_udfc.repair.refit import Repaired
from onnx_udfc.runtime.sessions import Source
from onnx_udfc.summary import Outcome, make_report

DRY = "a dry run: nothing was repaired, run or written"
START, EACH_LAYER, RATE = 2.0, 0.1, 2e9  # seconds, and multiply-accumulates a second of all that is done to an image


def needs_run(original: Original, options: Options) -> bool:
    """Whether the plan depends on runs of the original: on what channels, ranks and bits cost."""
    measured = METHODS[options.method].measured
    ordered = options.prunes and options.select in (None, *MEASURED)
    return measured and (ordered or options.bits == "auto" or bool(factorable(original.network, options)))


def plan_report(
    source: Source, original: Original, trace: Trace | None, options: Options, timings: Mapping[str, float]
) -> Report:
    """The report of a compression that was not made; its fidelity and loss are unknown.

    Args:
        source: as the user gave it.
        original: the network.
        trace: a run of it, where the plan needs one.
        options: what was asked for.
        timings: of what was done.

    Raises:
        UdfcError: it cannot be done.
    """
    network = original.network if trace is None else trace.network
    plan, pruned = _plan(network, original, trace, options)
    emitted = drafted(pruned.network, plan.bits, options)
    outcome = Outcome(
        original.loaded, network, original.channels, plan, pruned, Repaired(), emitted, (), Checked(None, (DRY,))
    )
    report = make_report(source, outcome, options, timings)
    seconds = _expected(report, original.network, options)
    runtime = replace(report.runtime, notes=(f"doing it would take about {seconds:.0f} s", *report.runtime.notes))
    return replace(report, runtime=runtime, advice=())


def _plan(network: Network, original: Original, trace: Trace | None, options: Options) -> tuple[Plan, Pruned]:
    """What would be kept and how it would be written."""
    groups = prunable(original.channels, options)
    run, file_bytes = None if trace is None else trace.reference, original.loaded.bytes
    orders = removals(network, groups, options, {} if run is None else run.removals)
    costs = (None, None) if run is None else (run.rounding, run.curves)
    plan = make_plan(network, original.channels, groups, orders, options, costs[0], file_bytes, costs[1])
    pruned = prune(network, original.channels, plan.keep)
    plan = split_layers(pruned, plan)
    if options.bits == FLOAT:
        return plan, pruned
    return placed(pruned.network, plan, options)[0], pruned


def _expected(report: Report, network: Network, options: Options) -> float:
    """Seconds that the compression would take: a guess by layers, images and multiply-accumulates."""
    images = options.number or image_count(wanted_inputs(network))
    return START + EACH_LAYER * len(network.layers) + images * report.before.macs / RATE
