"""Figures of fidelity in words, the same in the terminal and on the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.evaluate.parts import PartFidelity
from onnx_udfc.evaluate.report import Fidelity, OutputFidelity, Report

if TYPE_CHECKING:
    from onnx_udfc.evaluate.validate import Validation

_MOST_OUTPUTS = 6


def headline(f: Fidelity) -> str:
    """Return one line about all outputs."""
    where = f"against the original on {f.count} {_fed(f)}"
    if f.sqnr_db is None and f.agreement is None and not any(o.matched is not None for o in f.outputs):
        return f"{where}: nothing was measured: {f.unmeasured or 'the check did not run'}"
    figures = [f"SQNR {decibel(f.sqnr_db)}", f"cosine {'-' if f.cosine is None else format(f.cosine, '.5f')}"]
    figures = ["identical outputs"] if f.sqnr_db == MAX_DB else figures
    figures += [f"same answer in {percent(f.agreement)}"] if f.agreement is not None else []
    return f"{where}: {', '.join(figures)}"


def _fed(f: Fidelity) -> str:
    """What the inputs are."""
    if f.inputs == "synthetic":
        return "made-up inputs"
    if f.inputs == "validation":
        return "real inputs that nothing was fitted on"
    return "real inputs that were held out" if f.held_out else "real inputs, the same that were fitted"


def output_lines(f: Fidelity) -> list[str]:
    """Return a line for each output, where there is more to say than the headline does."""
    plain = len(f.outputs) == 1 and f.outputs[0].kind in ("classes", "regression")
    lines = [] if plain else [f"  {output_line(o)}" for o in f.outputs[:_MOST_OUTPUTS]]
    more = len(f.outputs) - _MOST_OUTPUTS
    lines += [f"  and {more} more outputs"] if more > 0 else []
    return lines + ([f"  not measured: {f.unmeasured}"] if f.unmeasured else [])


def output_line(o: OutputFidelity) -> str:
    """Return name, kind and figures of one output."""
    figures = [part_words(p, alone=len(o.parts) == 1) for p in o.parts if p.sqnr_db is not None]
    return f"{o.name} ({o.kind}): {', '.join([*figures, *answer_words(o)]) or 'does not change with the inputs'}"


def part_words(p: PartFidelity, alone: bool) -> str:
    """Return the figures of one part."""
    worst = f", worst {decibel(p.worst_db)}" if p.worst_db != p.sqnr_db else ""
    return f"{'' if alone else p.part + ' '}{decibel(p.sqnr_db)}{worst}"


def answer_words(o: OutputFidelity) -> list[str]:
    """Return what an output answers, by its kind."""
    free = o.answers is not None and o.answers <= 1
    words = {
        "classes": (o.agreement, "same class in", "the original says one class every time"),
        "sequence": (o.agreement, "same string in", "the original reads nothing"),
        "detection": (o.matched, "boxes matched:", "the original finds no box"),
        "segmentation": (o.iou, "overlap of what is found:", "the original finds nothing"),
        "embedding": (o.neighbours, "same nearest neighbour in", ""),
    }
    share, said, nothing = words.get(o.kind, (None, "", ""))
    if share is not None:
        return [f"{said} {percent(share)}"]
    return [nothing] if nothing and free else []


def decibel(value: float | None) -> str:
    """Return `12.3 dB`, `identical` for what stands for it, or a dash."""
    return "-" if value is None else "identical" if value >= MAX_DB else f"{value:.1f} dB"


def percent(value: float | None) -> str:
    """Return `93.8 %`, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def verdict_words(report: Report | Validation) -> str:
    """Return what stands behind the verdict: the predicted loss with its range, and the reason."""
    loss, span, reason = report.predicted_loss, report.predicted_range, report.verdict_reason
    if loss is None or span is None:
        return f" ({reason})" if reason else ""
    return f", {percent(loss)} of the score lost ({percent(span[0])} to {percent(span[1])}; {reason})"


def unusable_words(report: Report | Validation) -> str:
    """Return the line that is printed for a result that cannot be used; empty for others."""
    return f"warning: the result is unusable{verdict_words(report)}" if report.verdict == "unusable" else ""
