"""The table of a sweep: what nothing beats, and its forms."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

from onnx_udfc.sweep_table import SweepRow, SweepTable


def row(name: str, size: float | None, quality: float | None, error: str = "") -> SweepRow:
    return SweepRow(name, 0.5, 4, None, size, size, size, 10.0, 0.9, quality, None, 1.0, error)


TABLE = SweepTable(
    "net<1>.onnx",
    (row("big", 0.9, 0.99), row("small", 0.1, 0.5), row("beaten", 0.95, 0.98), row("equal", 0.9, 0.9),
     row("failed", None, None, "no <memory>")),
)  # fmt: skip


def test_the_front_is_what_nothing_beats() -> None:
    assert [r.name for r in TABLE.front()] == ["small", "big"]
    assert [r.name for r in TABLE.front("macs")] == ["small", "big"]
    assert SweepTable("x", ()).front() == ()


def test_rows_are_compared_by_one_figure_and_accuracy_comes_first() -> None:
    one, other = (
        SweepRow("a", 0.5, 4, None, bytes=0.5, agreement=0.9),
        SweepRow("b", 0.5, 4, None, bytes=0.6, sqnr_db=9),
    )
    assert SweepTable("x", (replace(one, accuracy=0.7), other)).quality() == "accuracy"
    assert SweepTable("x", (other,)).quality() == "sqnr_db"
    assert SweepTable("x", ()).quality() == "sqnr_db"
    mixed = SweepTable("x", (one, other))
    assert mixed.quality() == "agreement"
    assert mixed.front() == (one,)  # 9 dB are not more than an agreement of 0.9


def test_json_csv_and_page() -> None:
    found = json.loads(json.dumps(TABLE.to_dict(), allow_nan=False))
    assert found["front"] == ["small", "big"]
    assert len(found["rows"]) == 5
    lines = list(csv.DictReader(TABLE.to_csv().splitlines()))
    assert [x["name"] for x in lines] == ["big", "small", "beaten", "equal", "failed"]
    assert lines[0]["bytes"] == "0.9"
    page = TABLE.to_html()
    assert page.count("<circle") == 8  # four points in two plots
    assert "net&lt;1&gt;.onnx" in page
    assert "no &lt;memory&gt;" in page


def test_a_sweep_in_which_everything_failed_is_a_page() -> None:
    assert "All settings" in SweepTable("x", (row("failed", None, None, "why"),)).to_html()
