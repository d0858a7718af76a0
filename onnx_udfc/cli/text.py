"""Reports as rich tables that fit any width."""

from __future__ import annotations

import io
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_udfc.escapes import some, visible_all
from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.evaluate.report import SYNTHETIC_CAVEAT, GroupReport, LayerLoss, Report, SkipReport, ratio
from onnx_udfc.evaluate.wording import answer_words, headline, output_lines, verdict_words

if TYPE_CHECKING:
    from onnx_udfc.evaluate.inspection import Inspection
    from onnx_udfc.evaluate.validate import Slowest, Validation
    from onnx_udfc.sweep_table import SweepTable

_MOST_REASONS = 6
_PIPE_WIDTH = 120


def rendered(renderable: RenderableType) -> str:
    """Return text for standard output; colours only on a terminal, and not with NO_COLOR."""
    shown, terminal = io.StringIO(), sys.stdout.isatty()
    Console(
        file=shown,
        force_terminal=terminal,
        width=None if terminal else _PIPE_WIDTH,
        soft_wrap=False,
        highlight=False,
        markup=False,  # names are text
        emoji=False,
    ).print(renderable)
    return shown.getvalue()


def summary(report: Report, written: str | None = None) -> RenderableType:
    """Return the closing summary of a compression."""
    report, written = visible_all(report), visible_all(written)
    blank = Text()
    parts: list[RenderableType] = [_sizes(report), blank, Text(_fidelity(report))]
    parts += [_reasons(report.skips, report.groups)] if report.skips or _left(report.groups) else []
    parts += [blank, losses(report.attribution[:3])] if report.attribution else []
    parts += [blank, *(Text(f"note: {n}") for n in report.runtime.notes)]
    parts += [Text(f"warning: {w}", style="yellow") for w in report.warnings]
    parts.append(_verdict(report))
    parts.append(Text(_time(report)))
    if written:
        parts.append(Text(f"written: {written}", style="bold"))
    return Group(*parts)


def plan(report: Report) -> RenderableType:
    """Return what a dry run found: sizes, what would go where, notes."""
    report = visible_all(report)
    pruned = _table("channels", "before", "after", right=(1, 2))
    for group in report.groups:
        if group.status == "pruned":
            pruned.add_row(group.name, str(group.channels), str(group.kept))
    layers = _table("layer", "bits", "parameters", "after", "form", right=(1, 2, 3))
    for layer in report.layers:
        rank = f", rank {layer.rank}" if layer.rank is not None else ""
        sizes = f"{layer.parameters_before:,}", f"{layer.parameters_after:,}"
        layers.add_row(layer.name, f"{layer.bits:g}", *sizes, (layer.form or "float") + rank)
    blank = Text()
    parts: list[RenderableType] = [layers, blank, _sizes(report), blank]
    parts = [pruned, blank, *parts] if pruned.row_count else parts
    parts += [Text(f"note: {n}") for n in report.runtime.notes]
    parts += [Text(f"warning: {w}", style="yellow") for w in report.warnings]
    return Group(*parts)


def _sizes(report: Report) -> Table:
    table = _table("", "before", "after", "ratio", right=(1, 2, 3))
    for name, before, after in (
        ("parameters", report.before.parameters, report.after.parameters),
        ("MACs", report.before.macs, report.after.macs),
        ("bytes", report.before.bytes, report.after.bytes),
    ):
        table.add_row(name, f"{before:,}", f"{after:,}", f"{ratio(after, before):.3f}")
    return table


STYLES = {"good": "green", "degraded": "yellow", "unusable": "bold red", "unknown": "yellow"}


def _verdict(report: Report | Validation) -> RenderableType:
    """Return the verdict, coloured, with its reason and what would help."""
    text = Text("verdict: ").append(report.verdict, style=STYLES[report.verdict])
    text.append(verdict_words(report))
    for advice in getattr(report, "advice", ()):
        text.append(f"\n  {advice}")
    return text


def _fidelity(report: Report) -> str:
    f = report.fidelity
    caveat = [SYNTHETIC_CAVEAT] if f.inputs == "synthetic" else []
    return "\n".join([headline(f), *output_lines(f), *caveat])


def _time(report: Report) -> str:
    stages = {k: v for k, v in report.timings.items() if k != "total"}
    total = report.timings.get("total", sum(stages.values()))
    if not stages:
        return f"took {total:.1f} s"
    slowest = max(stages, key=lambda k: stages[k])
    return f"took {total:.1f} s, most of it in: {slowest} ({stages[slowest]:.1f} s)"


def _left(groups: Sequence[GroupReport]) -> list[GroupReport]:
    return [g for g in groups if g.status == "skipped"]


def _reasons(skips: Sequence[SkipReport], groups: Sequence[GroupReport]) -> RenderableType:
    """Return skipped nodes by reason, the commonest first."""
    counts = Counter(s.reason for s in skips) or Counter(g.reason for g in _left(groups))
    lines = [f"  {n} x {reason}" for reason, n in counts.most_common(_MOST_REASONS)]
    more = len(counts) - _MOST_REASONS
    lines += [f"  and {more} more reasons"] if more > 0 else []
    return Text("left alone (onnx-udfc inspect names each):\n" + "\n".join(lines))


def losses(rows: Sequence[LayerLoss]) -> Table:
    """Return layers with what each loses, worst first."""
    table = _table("layers that lose most", "own dB", "arriving dB", "what would help", right=(1, 2))
    for row in rows:
        table.add_row(row.name, _db(row.own_db), _db(row.arriving_db), row.advice)
    return table


def _db(value: float | None) -> str:
    return "-" if value is None else "identical" if value >= MAX_DB else f"{value:.1f}"


def inspection(found: Inspection) -> RenderableType:
    """Return groups, and the layers that cannot be pruned with their reasons."""
    found = visible_all(found)
    s = found.size
    head = Text(f"{s.parameters:,} parameters, {s.macs:,} MACs, {s.bytes:,} bytes, opset {found.opset}")
    groups = _table("group", "channels", "kind", "written by", "read by", right=(1,))
    for g in found.groups:
        groups.add_row(g.name, str(g.channels), g.kind, some(g.producers), some(g.consumers))
    skips = _table("not prunable", "reason", "detail")
    for skip in found.skips:
        skips.add_row(skip.node, skip.reason, skip.detail)
    coded = _table("quantized", "operator", "bits", "form", "weights", right=(2, 4))
    for layer in (layer for layer in found.layers if layer.form):
        coded.add_row(layer.name, layer.op_type, f"{layer.bits:g}", layer.form, f"{layer.parameters_before:,}")
    parts: list[RenderableType] = [head]
    nothing = "no channels can be pruned; --bits still applies"
    if all(layer.form for layer in found.layers):
        nothing = "nothing to compress: no convolution or matrix product with constant weights"
    parts += [groups] if found.groups else [Text(nothing)]
    parts += [skips] if found.skips else []
    parts += [Text(_lower_ranks(found))] if any(layer.stays_one is not None for layer in found.layers) else []
    parts += [coded] if coded.row_count else []
    parts += [Text(f"note: {n}") for n in found.notes]
    parts += [Text(f"advice: {line}") for line in found.advice]
    return Group(*parts)


def _lower_ranks(found: Inspection) -> str:
    """Return how many layers may become two of lower rank, and why the others do not."""
    reasons = Counter(layer.stays_one for layer in found.layers if layer.stays_one is not None)
    may, whole = reasons.pop("", 0), reasons.total()
    others = "; ".join(f"{count} not ({reason})" for reason, count in reasons.most_common())
    return f"low rank: {may} of {may + whole} layers may become two" + (f"; {others}" if others else "")


def swept(result: SweepTable) -> RenderableType:
    """Return the settings of a sweep; those that nothing beats by bytes are marked."""
    result = visible_all(result)
    front = set(result.front())
    table = _table(
        "setting", "parameters", "MACs", "bytes", "SQNR dB", "same answer", "accuracy", "", right=range(1, 7)
    )
    for r in result.rows:
        figures = [_share(v) for v in (r.parameters, r.macs, r.bytes)]
        quality = [_db(r.sqnr_db), _share(r.agreement), _share(r.accuracy)]
        table.add_row(r.name, *figures, *quality, r.error or ("best" if r in front else ""))
    chosen = result.recommended()
    parts: list[RenderableType] = [table]
    parts += [] if chosen is None else [Text(f"recommended: {chosen.row.name}: {chosen.why}")]
    parts += [Text(f"picked: {result.picked}, written as picked.onnx", style="bold")] if result.picked else []
    return Group(*parts)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def validation(v: Validation) -> RenderableType:
    """Return everything that validate measured."""
    v = visible_all(v)
    outputs = _table("output", "kind", "SQNR dB", "cosine", "largest difference", "answers", right=(2, 3, 4))
    for o in v.outputs:
        near = _db(o.sqnr_db), "-" if o.cosine is None else f"{o.cosine:.5f}", f"{o.max_difference:.3g}"
        outputs.add_row(o.name, o.kind, *near, ", ".join(answer_words(o)) or "-")
    kind = "made-up" if v.inputs == "synthetic" else "real"
    figures = _table(f"on {v.count} {kind} inputs", "original", "compressed", "", right=(1, 2, 3))
    if v.accuracy:
        a = v.accuracy
        change = f"{100 * (a.compressed - a.original):+.2f}"
        figures.add_row("accuracy %", f"{100 * a.original:.2f}", f"{100 * a.compressed:.2f}", change)
    if v.latency:
        t = v.latency
        ratio_text = f"{t.ratio:.3f} ({t.low:.3f} to {t.high:.3f})"
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in v.latency_inputs)
        figures.add_row(f"latency ms ({shapes})", f"{t.original_ms:.3f}", f"{t.compressed_ms:.3f}", ratio_text)
    for name, pair in (("peak memory", v.peak_memory), ("bytes", v.bytes)):
        if pair:
            share = f"{ratio(pair.compressed, pair.original):.3f}"
            figures.add_row(name, f"{pair.original:,}", f"{pair.compressed:,}", share)
    parts: list[RenderableType] = [outputs, figures]
    parts += [Text(f"matched boxes: {100 * v.matched:.1f} %")] if v.matched is not None else []
    parts += [Text(f"not measured: {v.unmeasured}")] if v.unmeasured else []
    parts += [Text(f"{v.changes} inputs have another class; --report lists them")] if v.changes else []
    parts.append(_verdict(v))
    parts += [Text(line) for line in (*_kernels(v), *_fallbacks(v))]
    parts += [_slowest(v.slowest)] if v.slowest else []
    return Group(*parts)


def _slowest(found: Slowest) -> Table:
    """The slowest nodes of both, side by side."""
    table = _table("slowest nodes of the original", "ms", "of the compressed", "ms", right=(1, 3))
    for first, second in itertools.zip_longest(found.original, found.compressed):
        cells = [(f"{n.op_type} {n.name}", f"{n.milliseconds:.3f}") if n else ("", "") for n in (first, second)]
        table.add_row(*cells[0], *cells[1])
    return table


def _kernels(v: Validation) -> list[str]:
    """Return which layers of a quantized network fell back to floating point, by name."""
    k = v.kernels
    if k is None or not (k.integer or k.unpacking):
        return []
    lines = [f"integer kernels: {len(k.integer)} of {len(k.integer) + len(k.floating)} layers"]
    lines += [f"in floating point: {some(k.floating, 12)}"] if k.integer and k.floating else []
    lines += [f"dequantized in every run (slower): {some(k.unpacking, 12)}"] if k.unpacking else []
    return lines


def _fallbacks(v: Validation) -> list[str]:
    """Return which nodes the provider left to another, by name."""
    found = v.fallbacks
    if found is None:
        return []
    if not found.nodes:
        return [f"all of it runs on {v.provider}; {found.copies} copies on the way"]
    counts = ", ".join(f"{count} {op}" for op, count in found.operators.items())
    return [f"not run by {v.provider} ({counts}; {found.copies} copies): {some(found.nodes, 12)}"]


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", overflow="fold")
    return table
