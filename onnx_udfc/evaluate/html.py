"""The report as one HTML file that needs nothing else: no script, no font, no image, no request.

It follows the reader's light or dark setting, prints with everything opened, and every part is reached by keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from onnx_udfc.escapes import visible_all
from onnx_udfc.evaluate import svg
from onnx_udfc.evaluate.layer_chart import axis, layer_chart
from onnx_udfc.evaluate.page import (
    card,
    details,
    facts,
    figure,
    files_and_versions,
    outputs_table,
    page,
    table,
    verdict_html,
)
from onnx_udfc.evaluate.report import SYNTHETIC_CAVEAT, LayerLoss, LayerReport, Report, ratio
from onnx_udfc.evaluate.wording import decibel, percent
from onnx_udfc.options import command_line

WORST_DB = 60.0  # errors are drawn from -60 dB (nothing) to 0 dB (all is lost)
MOST_MULTIPLES = 24  # histograms that are seen at once


def to_html(report: Report) -> str:
    """Return the report as a page; its title is that of the files, where they have names."""
    report = visible_all(report)
    sections = (
        ("summary", "Summary", _summary(report)),
        ("where", "Where bytes, MACs and time are", _where(report)),
        ("layers", "Layers", _layers(report)),
        ("factored", "What was factored", _factored(report.layers)),
        ("losses", "Which layer lost what", _losses(report.attribution)),
        ("weights", "Weights before and after", _histograms(report)),
        ("groups", "Channel groups", _groups(report)),
        ("skipped", "Left alone", _skips(report)),
        ("runtime", "Running it", _runtime(report)),
        ("reproduce", "Reproduce", _reproduce(report)),
    )
    return page(_title(report), report.tool, sections, facts(report.source, report.created))


def _title(report: Report) -> str:
    names = [f.name for f in (report.source, report.result) if f is not None and f.name]
    return " → ".join(names) or "onnx-udfc report"


def _summary(report: Report) -> str:
    before, after, near = report.before, report.after, report.fidelity
    cards = [
        card(f"{100 * ratio(after.parameters, before.parameters):.1f} %", "of the parameters"),
        card(f"{100 * ratio(after.macs, before.macs):.1f} %", "of the MACs"),
        card(f"{100 * ratio(after.bytes, before.bytes):.1f} %", "of the bytes"),
        card(decibel(near.sqnr_db), f"SQNR on {near.inputs} inputs"),
    ]
    if near.agreement is not None:
        cards.append(card(percent(near.agreement), f"same answer on {near.count} {near.inputs} inputs"))
    cards.append(card(f"≥ {report.runtime.onnxruntime_min}", "onnxruntime"))
    rows = [
        (name, f"{b:,}", f"{a:,}", f"{ratio(a, b):.3f}")
        for name, b, a in (
            ("parameters", before.parameters, after.parameters),
            ("MACs for one input", before.macs, after.macs),
            ("bytes on disk", before.bytes, after.bytes),
        )
    ]
    caveat = f"<p class=soft>{SYNTHETIC_CAVEAT}</p>" if near.inputs == "synthetic" else ""
    verdict = verdict_html(report) + "".join(f"<p>{escape(text)}</p>" for text in report.advice)
    warnings = "".join(f"<p class=warn>{escape(w)}</p>" for w in report.warnings)
    command = f"<pre>{escape(_command(report))}</pre>"
    sizes = table(("", "before", "after", "ratio"), rows, "Sizes before and after", (1, 2, 3))
    shown = f"<ul class=cards>{''.join(cards)}</ul>{caveat}{sizes}{outputs_table(near.outputs)}"
    return f"{verdict}{warnings}{shown}{command}"


def _command(report: Report) -> str:
    return report.command or command_line(report.options)


def loss_share(relative_error: float | None) -> float:
    """Return where a relative error is drawn between nothing (0, −60 dB or less) and all (1, 0 dB)."""
    if not relative_error or relative_error <= 0:
        return 0.0
    return min(1.0, max(0.0, 1 + 10 * math.log10(relative_error) / WORST_DB))


def _where(report: Report) -> str:
    """The chart of layers or blocks, with what the time is."""
    chart = layer_chart(report.layers, report.other_ms)
    if not chart or report.other_ms is None:
        return chart
    timed = "Time is that of one input on one thread of the machine that compressed, by onnxruntime's own profile."
    return f"{chart}<p class=soft>{timed}</p>"


def _layers(report: Report) -> str:
    layers = report.layers
    if not layers:
        return ""
    names = axis([x.name for x in layers])
    kept = [ratio(x.channels_after or 0, x.channels_before or 0) for x in layers]
    channels = [f"{x.name}: {x.channels_after} of {x.channels_before} channels" for x in layers]
    bits = [f"{x.name}: {x.bits} bits" for x in layers]
    errors = [f"{x.name}: {_decibel(x.relative_error)}" for x in layers]
    most = max(x.bits for x in layers)
    charts = (
        figure(
            svg.columns(kept, channels, "Channels kept in each layer", back=True), "channels kept", "0 to 100 %", names
        ),
        figure(
            svg.columns([x.bits / most for x in layers], bits, "Bits of each layer's weights", "f-other"),
            "bits of the weights",
            f"0 to {most:g}",
            names,
        ),
        figure(
            svg.columns([loss_share(x.relative_error) for x in layers], errors, "Error of each layer", "f-bad"),
            "error at the layer's output",
            "-60 to 0 dB of the signal",
            names,
        ),
    )
    order = "<p class=soft>Layers from input to output, left to right; some are named.</p>"
    return order + "".join(charts) + details(f"All {len(layers)} layers as a table", _layer_table(layers))


def _layer_table(layers: Sequence[LayerReport]) -> str:
    rows = [
        (
            escape(x.name),
            escape(x.op_type),
            svg.bar(ratio(x.channels_after or 0, x.channels_before or 0), f"{x.channels_after} of {x.channels_before}"),
            f"{x.channels_after} / {x.channels_before}",
            f"{x.bits:g}",
            f"{x.parameters_before:,}",
            f"{x.parameters_after:,}",
            _decibel(x.error_before),
            _decibel(x.error_after),
            _decibel(x.relative_error),
            escape(x.form).replace("→", "→<wbr>"),
        )
        for x in layers
    ]
    head = ("layer", "op", "kept", "channels", "bits", "parameters", "after", "unrepaired", "repaired", "error", "form")
    return table(head, rows, "All layers", (3, 4, 5, 6, 7, 8, 9))


def _decibel(relative_error: float | None) -> str:
    """Return a relative error as dB of the signal."""
    if relative_error is None:
        return "–"
    return f"{10 * math.log10(relative_error):.1f} dB" if relative_error > 0 else "none"


def _factored(layers: Sequence[LayerReport]) -> str:
    """The layers for which two of lower rank stand."""
    rows = [
        (
            escape(x.name), str(x.rank), f"{x.parameters_before:,}", f"{x.parameters_after:,}",
            f"{x.macs_before or 0:,}", f"{x.macs_after or 0:,}", _decibel(x.error_after),
        )
        for x in layers
        if x.kind == "factored"
    ]  # fmt: skip
    if not rows:
        return ""
    head = ("layer", "rank", "parameters", "after", "MACs", "after", "error, repaired")
    told = "<p>Two layers in a row stand for each of these, with as many channels between them as the rank says.</p>"
    return told + table(head, rows, "Layers that were factored", (1, 2, 3, 4, 5, 6))


def _losses(rows: Sequence[LayerLoss]) -> str:
    if not rows:
        return ""

    def cells(row: LayerLoss) -> tuple[str, ...]:
        return (escape(row.name), _db(row.own_db), _db(row.arriving_db), escape(row.compared), escape(row.advice))

    head = ("layer", "its own", "arriving", "compared at", "what would help")
    explained = (
        "<p>Signal to noise in dB, more is better. <em>Its own</em>: the compressed layer on the original's input. "
        "<em>Arriving</em>: what is left at its output of all errors up to there. Worst first.</p>"
    )
    worst = table(head, map(cells, rows[:3]), "The three layers that lose most", (1, 2))
    every = table(head, map(cells, rows), "All layers by what they lose", (1, 2))
    return explained + worst + details(f"All {len(rows)} layers", every)


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _histograms(report: Report) -> str:
    """Small multiples: the layers that lose most, in their order; the others on demand."""
    shown = [x for x in report.layers if x.histogram is not None]
    if not shown:
        return ""
    worst = {row.name for row in report.attribution[:MOST_MULTIPLES]}
    first = [x for x in shown if x.name in worst] if len(shown) > MOST_MULTIPLES and worst else shown[:MOST_MULTIPLES]
    rest = [x for x in shown if x not in first]
    key = '<p><span class="key">before</span> &nbsp; <span class="key other">after</span></p>'
    return key + _multiples(first) + (details(f"{len(rest)} other layers", _multiples(rest)) if rest else "")


def _multiples(layers: Sequence[LayerReport]) -> str:
    return f"<div class=multiples>{''.join(_histogram(x) for x in layers)}</div>"


def _histogram(layer: LayerReport) -> str:
    h = layer.histogram
    assert h is not None
    chart = svg.steps((h.before, h.after), ("s-main", "s-other"), f"Weights of {layer.name}")
    ends = f"<span>{h.low:.3g}</span><span>{h.high:.3g}</span>"
    return f"<figure>{chart}<figcaption>{ends}</figcaption><p class=name>{escape(layer.name)}</p></figure>"


def _groups(report: Report) -> str:
    if not report.groups:
        return "<p>No channels can be pruned in this network.</p>"
    rows = [
        (
            escape(g.name),
            g.kind,
            f"{g.kept} / {g.channels}",
            svg.bar(ratio(g.kept, g.channels), f"{g.kept} of {g.channels} channels"),
            escape(g.status),
            escape(g.reason),
            escape(", ".join(g.producers)),
            escape(", ".join(g.consumers)),
        )
        for g in report.groups
    ]
    head = ("group", "kind", "channels", "kept", "status", "reason", "written by", "read by")
    return details(f"{len(rows)} groups", table(head, rows, "Channel groups", (2,)))


def _skips(report: Report) -> str:
    if not report.skips:
        return ""
    rows = [(escape(s.node), escape(s.reason), escape(s.detail)) for s in report.skips]
    return table(("node", "reason", "detail"), rows, "Nodes left alone")


def _runtime(report: Report) -> str:
    r = report.runtime
    facts = [
        f"Opset {r.opset}, IR {r.ir_version}; needs onnxruntime {r.onnxruntime_min} or newer.",
        *([f"Weights are written as {r.form}."] if r.form else []),
        *(["It is expected to run slower than the original."] if r.slower else []),
        *r.notes,
    ]
    lines = "".join(f"<p>{escape(f)}</p>" for f in facts)
    times = [(escape(k), f"{v:.2f}") for k, v in report.timings.items()]
    return lines + details("Time taken", table(("stage", "seconds"), times, "Time by stage", (1,)))


def _reproduce(report: Report) -> str:
    files = {"original": report.source, "result": report.result}
    return files_and_versions(_command(report), files, report.versions, report.created) + (
        "<p>With the same input, options, seed, package versions and kind of processor the same bytes come out,"
        " on any number of threads; what a latency budget allows is timed anew.</p>"
    )
