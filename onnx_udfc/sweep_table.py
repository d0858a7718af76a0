"""The results of a sweep: a row for each setting, which of them nothing beats, and the table as JSON, CSV or a page.

The page begins with the setting that is recommended, and why; its plots have the original in them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape
from typing import Any, Literal

from onnx_udfc.errors import GateError, RequestError
from onnx_udfc.escapes import visible_all
from onnx_udfc.evaluate.page import card, facts, files_and_versions, page, table
from onnx_udfc.evaluate.report import FileReport, Verdict, plain
from onnx_udfc.evaluate.scatter import Dot, scatter
from onnx_udfc.evaluate.wording import percent
from onnx_udfc.options import VERDICTS, Requirement
from onnx_udfc.options.row import Share
from onnx_udfc.version import Tool, this_tool

LEAST_LOST = 0.01  # of the accuracy: what a recommended setting may lose
COSTS = {"bytes": "bytes", "macs": "MACs", "latency": "time of one run, one thread"}
QUALITIES = {"accuracy": "accuracy, %", "agreement": "same answer, %", "sqnr_db": "SQNR, dB"}
ORIGINAL = "O"
SAME = 0.95  # agreement of a recommended setting of whose verdict nothing is known


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
        verdict: As in the report of a compression.
        predicted_loss: The same.
        latency: Time of one run as a share of the original's, on one thread; None where it was not measured.
        seconds: Time it took.
        error: Why there is no result; empty if there is one.
        exit_code: What the command line would have ended with for this setting alone.
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
    agreement: Share | None = None
    accuracy: Share | None = None
    seconds: float | None = None
    error: str = ""
    verdict: Verdict = "unknown"
    predicted_loss: Share | None = None
    latency: float | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class SweepTable:
    """All settings of a sweep.

    Attributes:
        source: Name of the original.
        rows: One for each setting.
        accuracy: Of the original; None without labels.
        file: The original by its content.
        command: That makes the table again.
        versions: Of Python and of the packages that results depend on.
        created: When, as `2026-01-31T12:00:00+00:00`.
        picked: Name of the setting that `--pick` chose.
    """

    source: str
    rows: tuple[SweepRow, ...]
    accuracy: Share | None = None
    file: FileReport | None = None
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    picked: str = ""

    def __repr__(self) -> str:
        return f"SweepTable({self.source!r}, {len(self.rows)} settings, front {[r.name for r in self.front()]})"

    def measured(self, row: SweepRow, key: str) -> float | None:
        """Return what `--pick` names: `loss` is that of accuracy where it is known, else the predicted one."""
        if key == "loss" and self.accuracy and row.accuracy is not None:
            return max(0.0, 1 - row.accuracy / self.accuracy)
        if key == "verdict":
            return VERDICTS.get(row.verdict)
        named = {"loss": "predicted_loss", "sqnr": "sqnr_db", "params": "parameters"}
        found: float | None = getattr(row, named.get(key, key))
        return found

    def pick(self, wanted: Sequence[Requirement]) -> SweepRow:
        """Return the smallest file that meets all.

        Raises:
            GateError: None does.
        """
        made = [row for row in self.rows if not row.error and row.bytes is not None]
        met = [row for row in made if all(gate.met(self.measured(row, gate.key)) for gate in wanted)]
        if not met:
            asked = ", ".join(str(gate) for gate in wanted)
            raise GateError(f"--pick {asked}: no setting meets it; the table is in the folder")
        return min(met, key=lambda row: (row.bytes or 0.0, row.name))

    def check_made(self) -> None:
        """Refuse a table without one result.

        Raises:
            GateError: All settings miss a gate, or the final check.
            RequestError: There is none for other reasons, too.
        """
        if self.rows and all(row.error for row in self.rows):
            first = min(self.rows, key=lambda row: row.exit_code)
            kind = GateError if first.exit_code == GateError.exit_code else RequestError
            raise kind(f"no setting gave a result; {first.name}: {first.error}")

    def quality(self) -> str:
        """Return what rows are compared by: accuracy where any is known, else agreement, else SQNR."""
        known = (k for k in ("accuracy", "agreement", "sqnr_db") if any(getattr(r, k) is not None for r in self.rows))
        return next(known, "sqnr_db")

    def front(self, cost: str = "bytes") -> tuple[SweepRow, ...]:
        """Return the rows that no other beats in both cost and quality, the cheapest first.

        `cost` is `bytes`, `macs`, `parameters` or `latency`.
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

    def recommended(self) -> Recommended | None:
        """Return the smallest file that keeps what the original does; where none does, the one that keeps most.

        Kept is an accuracy within LEAST_LOST of the original's; without labels a verdict `good`, and, where no verdict
        is known, an agreement of SAME.
        """
        usable = [r for r in self.rows if not r.error and r.bytes is not None]
        if not usable:
            return None
        kept = [r for r in usable if self._keeps(r)]
        if kept:
            return Recommended(min(kept, key=lambda r: (r.bytes or 0.0, r.name)), f"the smallest file {self._what()}")
        quality = self.quality()
        best = max(usable, key=lambda r: (getattr(r, quality) or -math.inf, -(r.bytes or 0.0)))
        return Recommended(best, f"there is none {self._what()}; this one keeps most")

    def _keeps(self, row: SweepRow) -> bool:
        if self.accuracy is not None:
            return row.accuracy is not None and row.accuracy >= self.accuracy - LEAST_LOST
        return row.verdict == "good" or (row.verdict == "unknown" and (row.agreement or 0.0) >= SAME)

    def _what(self) -> str:
        if self.accuracy is not None:
            return f"within {100 * LEAST_LOST:g} point of the original's accuracy of {100 * self.accuracy:.1f} %"
        return "whose verdict is good on made-up inputs; labelled ones would tell more (--labelled)"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values, with what is derived from them."""
        best = self.recommended()
        front = tuple(row.name for row in self.front())
        chosen = Chosen(best.row.name, best.why) if best else None
        result: dict[str, Any] = plain(Derived(this_tool(), front, chosen))
        return {**result, **plain(self)}

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        out = io.StringIO()
        writer = csv.DictWriter(out, [f.name for f in fields(SweepRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in self.rows)
        return out.getvalue()

    def to_html(self) -> str:
        """Return the table with its plots as one self-contained page."""
        return _page(self)


@dataclass(frozen=True)
class Recommended:
    """One of the settings, and why."""

    row: SweepRow
    why: str


@dataclass(frozen=True)
class Chosen:
    """The setting that is recommended, by its name, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Derived:
    """What JSON holds beside the table: settings by their names.

    Attributes:
        front: Those that nothing beats in both bytes and quality, the smallest first.
        recommended: One of all; None where no setting gave a result.
    """

    tool: Tool
    front: tuple[str, ...]
    recommended: Chosen | None


def _page(result: SweepTable) -> str:
    shown = visible_all(result)
    chosen = shown.recommended()
    numbers = {row.name: str(i + 1) for i, row in enumerate(shown.front())}
    plots = [_plot(shown, cost, numbers, chosen) for cost in COSTS]
    drawn = f"<div class=plots>{''.join(plots)}</div>{_key(shown, numbers, chosen)}" if any(plots) else ""
    reproduce = files_and_versions(shown.command, {"original": shown.file}, shown.versions, shown.created)
    sections = (
        ("recommended", "Recommended", _recommended(chosen)),
        ("plot", "What each setting costs and keeps", drawn),
        ("settings", "All settings", _settings(shown, numbers, chosen)),
        ("reproduce", "Reproduce", reproduce),
    )
    return page(f"Sweep of {shown.source}", this_tool(), sections, facts(shown.file, shown.created))


def _recommended(chosen: Recommended | None) -> str:
    if chosen is None:
        return ""
    row = chosen.row
    cards = [card(percent(v), f"of the {name}") for name, v in (("bytes", row.bytes), ("MACs", row.macs)) if v]
    cards += [card(percent(row.latency), "of the time")] if row.latency is not None else []
    known = next((k for k in QUALITIES if getattr(row, k) is not None), None)
    cards += [card(_quality_words(row, known), QUALITIES[known].partition(",")[0])] if known else []
    return (
        f'<p class="verdict {escape(row.verdict)}"><b>{escape(row.name)}</b>: {escape(chosen.why)}.</p>'
        f"<ul class=cards>{''.join(cards)}</ul>"
    )


def _quality_words(row: SweepRow, quality: str) -> str:
    value = getattr(row, quality)
    return f"{value:.1f} dB" if quality == "sqnr_db" else percent(value)


def _scaled(value: float, quality: str) -> float:
    return value if quality == "sqnr_db" else 100 * value


def _plot(shown: SweepTable, cost: str, numbers: dict[str, str], chosen: Recommended | None) -> str:
    """One plot; empty where no row has its figures."""
    quality = shown.quality()
    front = {row.name for row in shown.front(cost)}
    dots = []
    for row in shown.rows:
        x, y = getattr(row, cost), getattr(row, quality)
        if x is None or y is None:
            continue
        is_chosen = chosen is not None and row.name == chosen.row.name
        kind: Literal["chosen", "front", "plain"] = "chosen" if is_chosen else "front" if row.name in front else "plain"
        told = f"{row.name}: {COSTS[cost]} {x:.3f}, {QUALITIES[quality]} {_scaled(y, quality):.4g}"
        dots.append(Dot(x, _scaled(y, quality), told, kind, numbers.get(row.name, "")))
    if not dots:
        return ""
    original = {"accuracy": shown.accuracy, "agreement": 1.0}.get(quality)
    if original is not None:
        told = f"the original: {100 * original:.4g} %"
        dots.append(Dot(1.0, _scaled(original, quality), told, "original", ORIGINAL))
    dots.sort(key=lambda dot: ("plain", "original", "front", "chosen").index(dot.kind))
    return scatter(dots, f"{COSTS[cost]}, share of the original's", QUALITIES[quality])


def _key(shown: SweepTable, numbers: dict[str, str], chosen: Recommended | None) -> str:
    """What the dots are."""
    told = [("original", ORIGINAL, "the original")] if shown.quality() != "sqnr_db" else []
    told += [("chosen", numbers.get(chosen.row.name, ""), f"{chosen.row.name}, recommended")] if chosen else []
    told += [("front", number, name) for name, number in numbers.items() if chosen is None or name != chosen.row.name]
    told += [("plain", "", "another setting is smaller and no worse")]
    lines = (f'<li><b class="dot {kind}">{mark}</b>{escape(name)}</li>' for kind, mark, name in told)
    numbered = (
        "<p class=soft>Numbered: nothing is smaller and better; blue: nothing is cheaper in that plot and better.</p>"
    )
    return f"<ul class=key-of-dots>{''.join(lines)}</ul>{numbered}"


_FIGURES = {
    "parameters": "parameters", "macs": "MACs", "bytes": "bytes", "latency": "time", "sqnr_db": "SQNR dB",
    "agreement": "same answer", "accuracy": "accuracy",
}  # fmt: skip


def _settings(shown: SweepTable, numbers: dict[str, str], chosen: Recommended | None) -> str:
    named = [(key, head) for key, head in _FIGURES.items() if any(getattr(r, key) is not None for r in shown.rows)]
    best = {row.name for cost in COSTS for row in shown.front(cost)}

    def cells(row: SweepRow) -> Sequence[str]:
        figures = ["–" if (v := getattr(row, key)) is None else f"{v:.3f}" for key, _ in named]
        marks = "recommended" if chosen and row.name == chosen.row.name else "best" if row.name in best else ""
        last = escape(row.error) or (f"<b>{marks}</b>" if marks else "")
        activations = "–" if row.activations is None else str(row.activations)
        number = f"{numbers[row.name]} · " if row.name in numbers else ""
        verdict = "" if row.error else escape(row.verdict)
        return (number + escape(row.name), f"{row.prune:g}", str(row.bits), activations, *figures, verdict, last)

    head = ("setting", "prune", "bits", "activations", *(head for _, head in named), "verdict", "")
    return table(head, map(cells, shown.rows), "All settings", range(1, 4 + len(named)))
