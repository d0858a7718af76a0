"""The report as one HTML file that needs nothing else: no script, no font, no image, no request.

It follows the reader's light or dark setting, prints with everything opened, and every part is reached by keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from onnx_udfc.escapes import visible_all
from onnx_udfc.evaluate import svg
from onnx_udfc.evaluate.report import SYNTHETIC_CAVEAT, LayerLoss, LayerReport, OutputFidelity, Report, ratio
from onnx_udfc.evaluate.wording import answer_words, decibel, percent, verdict_words
from onnx_udfc.options import command_line
from onnx_udfc.version import Tool

WORST_DB = 60.0  # errors are drawn from -60 dB (nothing) to 0 dB (all is lost)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(report: Report, title: str = "onnx-udfc report") -> str:
    """Return the report as a page."""
    report = visible_all(report)
    sections = (
        ("summary", "Summary", _summary(report)),
        ("layers", "Layers", _layers(report)),
        ("losses", "Which layer lost what", _losses(report.attribution)),
        ("weights", "Weights before and after", _histograms(report.layers)),
        ("groups", "Channel groups", _groups(report)),
        ("skipped", "Left alone", _skips(report)),
        ("runtime", "Running it", _runtime(report)),
        ("reproduce", "Reproduce", _reproduce(report)),
    )
    return page(title, report.tool, sections)


def page(title: str, tool: Tool, sections: Iterable[tuple[str, str, str]]) -> str:
    """Return a self-contained page of sections (key, name, HTML); empty ones are left out."""
    shown = [s for s in sections if s[2]]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in shown)
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{inner}</section>' for key, name, inner in shown)
    style = resources.files("onnx_udfc.evaluate").joinpath("html_style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#{shown[0][0]}">To the content</a>'
        f"<header><h1>{escape(title)}</h1><p class=soft>{escape(tool.name)} {escape(tool.version)}</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, numbers: Sequence[int] = ()) -> str:
    """Return a table that scrolls by itself where it is too wide; cells are HTML already."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numbers else ' class=name' if i == 0 and tag == 'td' else ''}>{c}</{tag}>"
            for i, c in enumerate(row)
        )

    body = "".join(f"<tr>{cells(r, 'td')}</tr>" for r in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _details(name: str, inner: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(name)}</summary>{inner}</details>"


def _card(value: str, name: str) -> str:
    return f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>"


def _summary(report: Report) -> str:
    before, after, near = report.before, report.after, report.fidelity
    cards = [
        _card(f"{100 * ratio(after.parameters, before.parameters):.1f} %", "of the parameters"),
        _card(f"{100 * ratio(after.macs, before.macs):.1f} %", "of the MACs"),
        _card(f"{100 * ratio(after.bytes, before.bytes):.1f} %", "of the bytes"),
        _card(decibel(near.sqnr_db), f"SQNR on {near.inputs} inputs"),
    ]
    if near.agreement is not None:
        cards.append(_card(percent(near.agreement), f"same answer on {near.count} {near.inputs} inputs"))
    cards.append(_card(f"≥ {report.runtime.onnxruntime_min}", "onnxruntime"))
    rows = [
        (name, f"{b:,}", f"{a:,}", f"{ratio(a, b):.3f}")
        for name, b, a in (
            ("parameters", before.parameters, after.parameters),
            ("MACs for one input", before.macs, after.macs),
            ("bytes on disk", before.bytes, after.bytes),
        )
    ]
    caveat = f"<p class=soft>{SYNTHETIC_CAVEAT}</p>" if near.inputs == "synthetic" else ""
    warnings = "".join(f"<p class=warn>{escape(w)}</p>" for w in report.warnings)
    warnings += verdict_html(report.verdict, report.predicted_loss, report.predicted_range, report.verdict_reason)
    warnings += "".join(f"<p>{escape(text)}</p>" for text in report.advice)
    sizes = table(("", "before", "after", "ratio"), rows, "Sizes before and after", (1, 2, 3))
    return f"<ul class=cards>{''.join(cards)}</ul>{caveat}{warnings}{sizes}{outputs_table(near.outputs)}"


def verdict_html(verdict: str, loss: float | None, span: tuple[float, float] | None, reason: str) -> str:
    """Return the verdict, in its colour, with its reason."""
    words = escape(verdict_words(loss, span, reason))
    return f'<p class="verdict {verdict}"><b>Verdict: {verdict}</b>{words}</p>'


def outputs_table(outputs: Sequence[OutputFidelity]) -> str:
    """Return the figures of each output and of its parts."""
    rows = [
        (
            escape(o.name),
            o.kind,
            p.part if p else "",
            decibel(p.sqnr_db if p else o.sqnr_db),
            decibel(p.worst_db if p else None),
            _number(p.cosine if p else o.cosine),
            escape(", ".join(answer_words(o))),
        )
        for o in outputs
        for p in (o.parts or (None,))
    ]
    head = ("output", "kind", "part", "SQNR", "worst column", "cosine", "answers")
    return table(head, rows, "Outputs", (3, 4, 5)) if rows else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def loss_share(relative_error: float | None) -> float:
    """Return where a relative error is drawn between nothing (0, −60 dB or less) and all (1, 0 dB)."""
    if not relative_error or relative_error <= 0:
        return 0.0
    return min(1.0, max(0.0, 1 + 10 * math.log10(relative_error) / WORST_DB))


def _layers(report: Report) -> str:
    layers = report.layers
    if not layers:
        return ""
    kept = [ratio(x.channels_after or 0, x.channels_before or 0) for x in layers]
    channels = [f"{x.name}: {x.channels_after} of {x.channels_before} channels" for x in layers]
    bits = [f"{x.name}: {x.bits} bits" for x in layers]
    errors = [f"{x.name}: {_decibel(x.relative_error)}" for x in layers]
    most = max(x.bits for x in layers)
    charts = (
        _figure(svg.columns(kept, channels, "Channels kept in each layer", back=True), "channels kept", "0 to 100 %"),
        _figure(
            svg.columns([x.bits / most for x in layers], bits, "Bits of each layer's weights", "f-other"),
            "bits of the weights",
            f"0 to {most}",
        ),
        _figure(
            svg.columns([loss_share(x.relative_error) for x in layers], errors, "Error of each layer", "f-bad"),
            "error at the layer's output",
            "-60 to 0 dB of the signal",
        ),
    )
    order = "<p class=soft>Layers from input to output, left to right.</p>"
    return order + "".join(charts) + _details(f"All {len(layers)} layers as a table", _layer_table(layers))


def _figure(chart: str, name: str, scale: str) -> str:
    return f"<figure>{chart}<figcaption><span>{escape(name)}</span><span>{escape(scale)}</span></figcaption></figure>"


def _layer_table(layers: Sequence[LayerReport]) -> str:
    rows = [
        (
            escape(x.name),
            escape(x.op_type),
            svg.bar(ratio(x.channels_after or 0, x.channels_before or 0), f"{x.channels_after} of {x.channels_before}"),
            f"{x.channels_after} / {x.channels_before}",
            str(x.bits),
            f"{x.parameters_before:,}",
            f"{x.parameters_after:,}",
            _decibel(x.error_before),
            _decibel(x.error_after),
            _decibel(x.relative_error),
            escape(x.form),
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
    return explained + worst + _details(f"All {len(rows)} layers", every)


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _histograms(layers: Sequence[LayerReport]) -> str:
    shown = [x for x in layers if x.histogram is not None]
    if not shown:
        return ""
    parts = ['<p><span class="key">before</span> &nbsp; <span class="key other">after</span></p>']
    for x in shown:
        h = x.histogram
        assert h is not None
        chart = svg.steps((h.before, h.after), ("s-main", "s-other"), f"Weights of {x.name}")
        parts.append(_details(x.name, _figure(chart, f"{h.low:.4g}", f"{h.high:.4g}")))
    return "".join(parts)


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
    return _details(f"{len(rows)} groups", table(head, rows, "Channel groups", (2,)))


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
    return lines + _details("Time taken", table(("stage", "seconds"), times, "Time by stage", (1,)))


def _reproduce(report: Report) -> str:
    files = [
        (name, escape(f.name or "–"), f"{f.bytes:,}", escape(f.sha256 or "–"))
        for name, f in (("original", report.source), ("result", report.result))
        if f is not None
    ]
    packages = ", ".join(f"{escape(name)} {escape(version)}" for name, version in report.versions.items())
    return (
        f"<pre>{escape(report.command or command_line(report.options))}</pre>"
        + (table(("", "file", "bytes", "SHA-256"), files, "Files", (2,)) if files else "")
        + (f"<p>Made on {escape(report.created)} with {packages}.</p>" if packages else "")
        + "<p>With the same input, options, seed, package versions and kind of processor the same bytes come out,"
        " on any number of threads; what a latency budget allows is timed anew.</p>"
    )
