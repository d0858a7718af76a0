"""Where bytes, MACs and time are, layer by layer, before and after: one row for a layer, or for a block of them.

A network of more layers than are read at once is drawn by blocks: runs of layers whose names begin alike, as deep as
the rows allow, or equal shares of the layers where names tell nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from onnx_udfc.evaluate import svg
from onnx_udfc.evaluate.report import LayerReport

MOST_ROWS = 24
FEWEST_BLOCKS = 4  # fewer show nothing
MOST_TICKS = 6


@dataclass(frozen=True)
class Block:
    """Layers in a row.

    The name is what theirs begin with; the layer's own where there is one.
    """

    name: str
    layers: tuple[LayerReport, ...]

    def total(self, key: str) -> float | None:
        """Return the sum of a figure; None where no layer has it."""
        known = [v for layer in self.layers if (v := getattr(layer, key)) is not None]
        return sum(known) if known else None


def blocks(layers: Sequence[LayerReport], most: int = MOST_ROWS) -> tuple[Block, ...]:
    """Return at most so many blocks that hold all layers in their order."""
    if len(layers) <= most:
        return tuple(Block(x.name, (x,)) for x in layers)
    deepest = max(len(_parts(x.name)) for x in layers)
    for depth in range(deepest, 0, -1):
        found = _by_beginning(layers, depth)
        if FEWEST_BLOCKS <= len(found) <= most:
            return found
    size = -(-len(layers) // most)
    runs = [tuple(layers[i : i + size]) for i in range(0, len(layers), size)]
    return tuple(Block(run[0].name if len(run) == 1 else f"{run[0].name} … {run[-1].name}", run) for run in runs)


def _parts(name: str) -> list[str]:
    """A name with what separates its parts: `/a/b.c` → ['/a', '/b', '.c']."""
    return re.findall(r"[/.]*[^/.]+", name) or [name]


def _by_beginning(layers: Sequence[LayerReport], depth: int) -> tuple[Block, ...]:
    runs = itertools.groupby(layers, key=lambda x: "".join(_parts(x.name)[:depth]))
    return tuple(
        Block(beginning if len(run) > 1 else run[0].name, run) for beginning, run in ((b, tuple(r)) for b, r in runs)
    )


@dataclass(frozen=True)
class _Figure:
    """One column: its head, the fields it adds up, and how a value is written."""

    head: str
    before: str
    after: str
    text: Callable[[float], str]


def quantity(value: float) -> str:
    """Return a number with three digits that count and a k, M or G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value:.3g}"


FIGURES = (
    _Figure("bytes", "bytes_before", "bytes_after", quantity),
    _Figure("MACs", "macs_before", "macs_after", quantity),
    _Figure("time, µs", "ms_before", "ms_after", lambda ms: f"{1000 * ms:,.0f}"),
)


def layer_chart(layers: Sequence[LayerReport], others: tuple[float, float] | None = None) -> str:
    """Return the chart; empty without layers.

    `others` are milliseconds before and after of all that is no layer, where layers were timed.
    """
    rows = blocks(layers)
    shown = [f for f in FIGURES if any(b.total(f.before) is not None for b in rows)]
    if not rows or not shown:
        return ""
    tops = {f.head: _top(rows, f, others) for f in shown}
    body = "".join(_row(block, shown, tops) for block in rows)
    body += _others(shown, tops, others) if others is not None else ""
    head = "".join(f"<th>{f.head}</th>" for f in shown)
    what = "block" if any(len(block.layers) > 1 for block in rows) else "layer"
    return (
        f'<table class="where"><thead><tr><th>{what}</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        '<p class=soft><span class="key faint">before</span> &nbsp; <span class="key">after</span></p>'
    )


def _top(rows: Sequence[Block], shown: _Figure, others: tuple[float, float] | None) -> float:
    values = [block.total(key) or 0.0 for block in rows for key in (shown.before, shown.after)]
    beside = others or () if shown.before == "ms_before" else ()
    return max([*values, *beside]) or 1.0


def _row(block: Block, shown: Sequence[_Figure], tops: dict[str, float]) -> str:
    count = f" <small>{len(block.layers)} layers</small>" if len(block.layers) > 1 else ""
    cells = "".join(_cell(block.name, f, block.total(f.before), block.total(f.after), tops[f.head]) for f in shown)
    return f"<tr><td class=name>{escape(block.name)}{count}{_tags(block.layers)}</td>{cells}</tr>"


def _others(shown: Sequence[_Figure], tops: dict[str, float], others: tuple[float, float]) -> str:
    cells = (_cell("all else", f, *others, tops[f.head]) if f.before == "ms_before" else "<td></td>" for f in shown)
    return f"<tr><td class=name>all that is no layer</td>{''.join(cells)}</tr>"


def _cell(name: str, shown: _Figure, before: float | None, after: float | None, top: float) -> str:
    if before is None:
        return f'<td data-h="{shown.head}">–</td>'
    later = before if after is None else after
    words = f"{shown.text(before)} → {shown.text(later)}" if after is not None else shown.text(before)
    chart = svg.pair(before / top, later / top, f"{name}: {shown.head} {words}")
    return f'<td data-h="{shown.head}">{chart}<small>{words}</small></td>'


def _tags(layers: Sequence[LayerReport]) -> str:
    """What was done to the layers besides what the bars show."""
    told = []
    factored = [x for x in layers if x.kind == "factored"]
    if factored:
        ranks = ", ".join(str(x.rank) for x in factored)
        told.append(f"split, rank {ranks}")
    bits = sorted({x.bits for x in layers})
    if bits and bits != [32]:
        told.append(f"{bits[0]:g} bits" if len(bits) == 1 else f"{bits[0]:g} to {bits[-1]:g} bits")
    return "".join(f" <small class=tag>{escape(t)}</small>" for t in told)


def axis(names: Sequence[str]) -> str:
    """Return names of some layers below a chart with one column for each, each at its place."""
    count = min(MOST_TICKS, len(names))
    if not count:
        return ""
    shown = [names[i * len(names) // count] for i in range(count)]
    return f"<ol class=axis aria-hidden=true>{''.join(f'<li>{escape(name)}</li>' for name in shown)}</ol>"
