"""A validation as one HTML page: before and after, outputs, changed answers, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from onnx_udfc.evaluate.page import outputs_table, page, table, verdict_html
from onnx_udfc.evaluate.report import ratio
from onnx_udfc.evaluate.wording import percent

if TYPE_CHECKING:
    from onnx_udfc.evaluate.validate import Validation


def to_page(v: Validation, title: str = "onnx-udfc validation") -> str:
    """Return the page."""
    sections = (
        ("summary", "Summary", _summary(v)),
        ("outputs", "Outputs", outputs_table(v.outputs)),
        ("changed", "Changed answers", _changed(v)),
    )
    return page(title, v.tool, sections)


def _summary(v: Validation) -> str:
    unmeasured = f"<p class=warn>not measured: {escape(v.unmeasured)}</p>" if v.unmeasured else ""
    verdict = verdict_html(v.verdict, v.predicted_loss, v.predicted_range, v.verdict_reason)
    figures = table(("", "original", "compressed", ""), _figures(v), "Before and after", (1, 2, 3))
    return f"<p>On {v.count} {v.inputs} inputs.</p>{verdict}{unmeasured}{figures}"


def _figures(v: Validation) -> Iterator[tuple[str, str, str, str]]:
    """Rows: name, before, after, change."""
    if v.accuracy:
        a = v.accuracy
        yield "accuracy", percent(a.original), percent(a.compressed), f"{100 * (a.compressed - a.original):+.2f}"
    if v.matched is not None:
        yield "matched boxes", "", percent(v.matched), ""
    if v.latency:
        t = v.latency
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in v.latency_inputs)
        times = f"{t.original_ms:.3f}", f"{t.compressed_ms:.3f}", f"{t.ratio:.3f}"
        yield (f"latency ms ({escape(shapes)})", *times)
    for name, pair in (("peak memory", v.peak_memory), ("bytes", v.bytes)):
        if pair:
            share = f"{ratio(pair.compressed, pair.original):.3f}"
            yield name, f"{pair.original:,}", f"{pair.compressed:,}", share


def _changed(v: Validation) -> str:
    if not v.changes:
        return ""
    rows = [
        (escape(c.name), str(c.original), str(c.compressed), "–" if c.label is None else str(c.label))
        for c in v.changed
    ]
    more = f"<p>{v.changes} of {v.count} inputs have another class; the first {len(rows)}:</p>"
    return more + table(("input", "original", "compressed", "label"), rows, "Changed answers", (1, 2, 3))
