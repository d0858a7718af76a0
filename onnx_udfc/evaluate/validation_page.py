"""A validation as one HTML page: the verdict, before and after, outputs, classes, changed answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from onnx_udfc.escapes import visible_all
from onnx_udfc.evaluate import svg
from onnx_udfc.evaluate.page import card, details, facts, files_and_versions, outputs_table, page, table, verdict_html
from onnx_udfc.evaluate.report import ratio
from onnx_udfc.evaluate.wording import percent

if TYPE_CHECKING:
    from onnx_udfc.evaluate.shown_boxes import ShownBoxes
    from onnx_udfc.evaluate.side_by_side import ClassCount
    from onnx_udfc.evaluate.validate import Validation

MOST_CLASSES = 20  # that are seen at once, those that lose most first


def to_page(v: Validation) -> str:
    """Return the page; its title is that of the files, where they have names."""
    v = visible_all(v)
    names = [f.name for f in (v.source, v.result) if f is not None and f.name]
    files = {"original": v.source, "compressed": v.result}
    sections = (
        ("summary", "Summary", _summary(v)),
        ("outputs", "Outputs", outputs_table(v.outputs)),
        ("classes", "Classes", _classes(v)),
        ("changed", "Changed answers", _changed(v)),
        ("boxes", "Boxes", _boxes(v)),
        ("kernels", "How its layers run", _kernels(v)),
        ("reproduce", "Reproduce", files_and_versions(v.command, files, v.versions, v.created)),
    )
    return page(" against ".join(names) or "onnx-udfc validation", v.tool, sections, facts(v.source, v.created))


def _summary(v: Validation) -> str:
    unmeasured = f"<p class=warn>not measured: {escape(v.unmeasured)}</p>" if v.unmeasured else ""
    verdict = verdict_html(v)
    figures = table(("", "original", "compressed", "change"), _figures(v), "Before and after", (1, 2, 3))
    kind = "made-up" if v.inputs == "synthetic" else "real"
    cards = f"<ul class=cards>{''.join(_cards(v))}</ul>"
    return f"{verdict}{unmeasured}{cards}<p class=soft>On {v.count:,} {kind} inputs.</p>{figures}"


def _cards(v: Validation) -> Iterator[str]:
    """What is read first."""
    if v.accuracy:
        change = 100 * (v.accuracy.compressed - v.accuracy.original)
        yield card(percent(v.accuracy.compressed), f"accuracy, {change:+.1f} points")
    if v.agreement is not None:
        yield card(percent(v.agreement), f"same answer; {v.changes} of {v.count} changed")
    if v.matched is not None:
        yield card(percent(v.matched), "of the boxes matched")
    if v.latency:
        yield card(percent(v.latency.ratio), "of the time")
    yield card(percent(ratio(v.bytes.compressed, v.bytes.original)), "of the bytes")


def _figures(v: Validation) -> Iterator[tuple[str, str, str, str]]:
    """Rows: name, before, after, change."""
    if v.accuracy:
        a = v.accuracy
        change = f"{100 * (a.compressed - a.original):+.2f} points"
        yield f"accuracy on {a.images} inputs", percent(a.original), percent(a.compressed), change
    if v.changes:
        yield "changed answers", "", f"{v.changes:,} of {v.count:,}", percent(v.changes / max(1, v.count))
    if v.matched is not None:
        yield "matched boxes", "", percent(v.matched), ""
    if v.latency:
        t = v.latency
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in v.latency_inputs)
        times = f"{t.original_ms:.3f}", f"{t.compressed_ms:.3f}", f"{t.ratio:.3f} ({t.low:.3f} to {t.high:.3f})"
        yield (f"latency, ms ({escape(shapes)})", *times)
    for name, pair in (("peak memory, bytes", v.peak_memory), ("bytes on disk", v.bytes)):
        if pair:
            share = f"{ratio(pair.compressed, pair.original):.3f}"
            yield name, f"{pair.original:,}", f"{pair.compressed:,}", share


def _classes(v: Validation) -> str:
    """Classes by what they lose."""
    if len(v.classes) < 2:
        return ""
    rows = sorted(v.classes, key=lambda c: ((c.compressed - c.original) / c.images, c.label))
    whose = "inputs with this label" if v.accuracy else "inputs that the original gives this class"
    told = f"<p class=soft>Of the {whose}, how many each network gives it; what loses most comes first.</p>"
    more = rows[MOST_CLASSES:]
    return (
        told
        + _class_table(rows[:MOST_CLASSES])
        + (details(f"{len(more)} other classes", _class_table(more)) if more else "")
    )


def _class_table(rows: Sequence[ClassCount]) -> str:
    cells = [
        (
            str(c.label),
            f"{c.images:,}",
            percent(c.original / c.images),
            percent(c.compressed / c.images),
            f"{100 * (c.compressed - c.original) / c.images:+.1f}",
            svg.pair(
                c.original / c.images, c.compressed / c.images, f"class {c.label}: {c.original}, then {c.compressed}"
            ),
        )
        for c in rows
    ]
    head = ("class", "inputs", "original", "compressed", "points", "before, after")
    return table(head, cells, "Classes", (1, 2, 3, 4))


def _changed(v: Validation) -> str:
    if not v.changes:
        return ""
    rows = [
        (escape(c.name), str(c.original), str(c.compressed), "–" if c.label is None else str(c.label))
        for c in v.changed
    ]
    more = f"{v.changes} of {v.count} inputs have another class; the first {len(rows)}"
    return details(more, table(("input", "original", "compressed", "label"), rows, more, (1, 2, 3)), len(rows) <= 20)


def _boxes(v: Validation) -> str:
    """Pictures with the boxes of both networks, those that differ most first."""
    if not v.boxes:
        return ""
    told = '<p><span class="key">original</span> &nbsp; <span class="key other">compressed</span></p>'
    return told + "".join(map(_picture, v.boxes))


def _picture(b: ShownBoxes) -> str:
    counts = f"{len(b.original)} boxes before, {len(b.compressed)} after, {b.matched} of them the same"
    drawn = svg.framed(
        b.picture, b.width, b.height, ((b.original, "b-main"), (b.compressed, "b-other")), f"{b.name}: {counts}"
    )
    return f"<figure>{drawn}<figcaption><span>{escape(b.name)}</span><span>{counts}</span></figcaption></figure>"


def _kernels(v: Validation) -> str:
    """How onnxruntime runs the layers of the second network."""
    if v.kernels is None or not (v.kernels.integer or v.kernels.floating):
        return ""
    k = v.kernels
    lists = (
        ("as integers", k.integer),
        ("in floating point", k.floating),
        ("with their weights unpacked", k.unpacking),
    )
    shown = [(f"{len(names)} layers {how}", names) for how, names in lists if names]
    return "".join(details(told, f"<p>{escape(', '.join(names))}</p>") for told, names in shown)
