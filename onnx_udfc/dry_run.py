"""What a compression would do: the plan, and how large its file would be, with nothing repaired and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx_udfc.channels.prune import Pruned, prune
from onnx_udfc.decide.asked import Plan, factorable, widths_of
from onnx_udfc.decide.average_bits import averaged
from onnx_udfc.decide.counts_and_bits import make_plan
from onnx_udfc.decide.file_size import drafted
from onnx_udfc.decide.plan import placed, split_layers
from onnx_udfc.emit.short_names import shorten_names
from onnx_udfc.evaluate.report import Checked
from onnx_udfc.inputs.how_many import image_count
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.numerics.elimination import MEASURED
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options.words import FLOAT
from onnx_udfc.repair.repaired import Repaired
from onnx_udfc.summary import Outcome, asks_for_work, make_report

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import Channels
    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.model.files import LoadedModel
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options
    from onnx_udfc.repair.reference import Reference
    from onnx_udfc.runtime.sessions import Source

DRY = "a dry run: nothing was repaired, run or written"
START, EACH_LAYER, RATE = 2.0, 0.1, 2e9  # seconds, and multiply-accumulates a second of all that is done to an image


@dataclass(frozen=True)
class Subject:
    """What is planned for.

    The network is equalized where that would be done; `reference` is a run of it, where `needs_run`.
    """

    loaded: LoadedModel
    network: Network
    channels: Channels
    reference: Reference | None = None


def needs_run(network: Network, channels: Channels, options: Options) -> bool:
    """Whether the plan depends on runs of the original: on what channels, ranks and bits cost."""
    measured = METHODS[options.method].measured
    ordered = options.prunes and options.select in (None, *MEASURED)
    return measured and (ordered or bool(widths_of(options)) or bool(factorable(network, channels, options)))


def plan_report(source: Source, subject: Subject, options: Options, timings: Mapping[str, float]) -> Report:
    """The report of a compression that was not made; its fidelity and loss are unknown.

    Raises:
        UdfcError: it cannot be done.
    """
    network, channels = subject.network, subject.channels
    plan, pruned = _plan(subject, options)
    emitted = drafted(pruned.network, plan.bits, options)
    if asks_for_work(options):
        shorten_names(emitted.model, pruned.network.layers, pruned.network.origin.names)
    checked = Checked(None, (DRY,))
    outcome = Outcome(subject.loaded, network, channels, plan, pruned, Repaired(), emitted, (), checked)
    report = make_report(source, outcome, options, timings)
    seconds = _expected(report, network, options)
    runtime = replace(report.runtime, notes=(f"doing it would take about {seconds:.0f} s", *report.runtime.notes))
    return replace(report, runtime=runtime, advice=())


def _plan(subject: Subject, options: Options) -> tuple[Plan, Pruned]:
    """What would be kept and how it would be written."""
    network, channels, run = subject.network, subject.channels, subject.reference
    plan = make_plan(network, channels, subject.loaded, options, run)
    pruned = prune(network, channels, plan.keep)
    plan = split_layers(pruned, plan)
    plan = plan if run is None else averaged(pruned.network, plan, run.rounding, options)
    return (plan if options.bits == FLOAT else placed(pruned.network, plan, options)[0]), pruned


def _expected(report: Report, network: Network, options: Options) -> float:
    """Seconds that the compression would take: a guess by layers, images and multiply-accumulates."""
    images = options.number or image_count(wanted_inputs(network))
    return START + EACH_LAYER * len(network.layers) + images * report.before.macs / RATE
