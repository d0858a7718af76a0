"""The results of a sweep: a row for each setting, which of them nothing beats, and the table as JSON, CSV or a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any

from onnx_udfc.evaluate import svg
from onnx_udfc.evaluate.page import page, table
from onnx_udfc.evaluate.report import plain
from onnx_udfc.version import this_tool


@dataclass(frozen=True)
class SweepRow:
    """One setting.

    Attributes:
        name: File name without its ending.
        prune: Ratio.
        bits: Weight bits, or `auto`.
        activations: 8, or None.
        parameters: Of the result, as a share of the original's.
        macs: The same.
        bytes: The same.
        sqnr_db: Fidelity.
        cosine: Fidelity.
        agreement: Fidelity; None where no output looks like class scores.
        accuracy: Share of labelled images that are right; None without labels.
        seconds: Time it took.
        error: Why there is no result; empty if there is one.
    """

    name: str
    prune: float
    bits: int | str
    activations: int | None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class SweepTable:
    """All settings of a sweep.

    Attributes:
        source: Name of the original.
        rows: One for each setting.
        accuracy: Of the original; None without labels.
    """

    source: str
    rows: tuple[SweepRow, ...]
    accuracy: float | None = None

    def quality(self) -> str:
        """Return what rows are compared by: accuracy where any is known, else agreement, else SQNR."""
        known = (k for k in ("accuracy", "agreement", "sqnr_db") if any(getattr(r, k) is not None for r in self.rows))
        return next(known, "sqnr_db")

    def front(self, cost: str = "bytes") -> tuple[SweepRow, ...]:
        """Return the rows that no other beats in both cost and quality, the cheapest first.

        Args:
            cost: `bytes`, `macs` or `parameters`.
        """
        best: list[SweepRow] = []
        quality = self.quality()
        known = [(getattr(r, cost), getattr(r, quality), r) for r in self.rows]
        usable = [(c, q, r) for c, q, r in known if c is not None and q is not None]
        for _, q, row in sorted(usable, key=lambda t: (t[0], -t[1])):
            last = getattr(best[-1], quality) if best else None
            if last is None or q > last:
                best.append(row)
        return tuple(best)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values; `front` names the rows that nothing beats by bytes."""
        result: dict[str, Any] = plain(self)
        return {"tool": plain(this_tool()), **result, "front": [r.name for r in self.front()]}

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        out = io.StringIO()
        writer = csv.DictWriter(out, [f.name for f in fields(SweepRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in self.rows)
        return out.getvalue()

    def to_html(self) -> str:
        """Return the table with its plots as one self-contained page."""
        plots = "".join(self._plot(cost) for cost in ("bytes", "macs"))
        front = {r.name for r in self.front()} | {r.name for r in self.front("macs")}
        rows = [_cells(r, r.name in front) for r in self.rows]
        head = ("setting", "prune", "bits", "activations", *_FIGURES, "")
        inner = table(head, rows, "All settings", (1, 2, 3, 4, 5, 6, 7, 8, 9))
        sections = (("plot", "What each setting costs and keeps", plots), ("settings", "All settings", inner))
        return page(f"Sweep of {self.source}", this_tool(), sections)

    def _plot(self, cost: str) -> str:
        front = self.front(cost)
        named = {"accuracy": "accuracy", "agreement": "same answer", "sqnr_db": "SQNR dB"}
        quality = self.quality()
        points = [
            svg.Point(c, q, f"{r.name}: {cost} {c:.3f}, {named[quality]} {q:.3f}", r in front)
            for r in self.rows
            if (c := getattr(r, cost)) is not None and (q := getattr(r, quality)) is not None
        ]
        if not points:
            return ""
        chart, right, low, high = svg.scatter(points, f"{named[quality]} against {cost}")
        scale = f"upward: {escape(named[quality])}, {low:.3g} to {high:.3g}"
        across = f"to the right: {cost}, 0 to {right:.3g} of the original"
        key = '<span class="key">nothing is better and cheaper</span> <span class="key faint">the others</span>'
        caption = f"<span>{across}</span><span>{scale}</span><span>{key}</span>"
        return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


_FIGURES = ("parameters", "macs", "bytes", "sqnr_db", "agreement", "accuracy")


def _cells(row: SweepRow, front: bool) -> Sequence[str]:
    figures = ["–" if (v := getattr(row, k)) is None else f"{v:.3f}" for k in _FIGURES]
    last = escape(row.error) or ("<b>best</b>" if front else "")
    activations = "–" if row.activations is None else str(row.activations)
    return (escape(row.name), f"{row.prune:g}", str(row.bits), activations, *figures, last)
