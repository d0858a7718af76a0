"""The table of a sweep: what nothing beats, and its forms."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from onnx_udfc.errors import GateError, RequestError
from onnx_udfc.sweep_table import SweepRow, SweepTable
from tests.small_pages import sweep_table
from tools.check.browser import CHROMIUM, Shown, looked_at


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
    assert page.count('<b class="dot ') == 8 + 2 + 4  # four points and the original in two plots, and what they are
    assert "net&lt;1&gt;.onnx" in page
    assert "no &lt;memory&gt;" in page


def test_a_sweep_in_which_everything_failed_is_a_page_and_no_success() -> None:
    lost = replace(row("lost", None, None, "why"), exit_code=1)
    missed = replace(row("missed", None, None, "a gate"), exit_code=3)
    assert "All settings" in SweepTable("x", (lost,)).to_html()
    SweepTable("x", (row("made", 0.5, 0.9), lost, missed)).check_made()
    with pytest.raises(RequestError, match="no setting gave a result; lost: why"):
        SweepTable("x", (missed, lost)).check_made()
    with pytest.raises(GateError, match="missed: a gate"):
        SweepTable("x", (missed, missed)).check_made()


def test_the_smallest_that_keeps_the_accuracy_is_recommended() -> None:
    rows = (
        SweepRow("large", 0.1, 8, None, bytes=0.5, accuracy=0.905, verdict="good"),
        SweepRow("small", 0.1, 4, None, bytes=0.2, accuracy=0.9, verdict="degraded"),
        SweepRow("smaller", 0.1, 2, None, bytes=0.1, accuracy=0.89, verdict="good"),
        row("failed", None, None, "why"),
    )
    chosen = SweepTable("x", rows, accuracy=0.905).recommended()
    assert chosen is not None
    assert chosen.row.name == "small"
    assert chosen.why == "the smallest file within 1 point of the original's accuracy of 90.5 %"
    none = SweepTable("x", rows, accuracy=0.95).recommended()
    assert none is not None
    assert none.row.name == "large"
    assert none.why.startswith("there is none within 1 point")


def test_without_labels_the_verdict_decides_and_without_one_the_answers() -> None:
    rows = (
        SweepRow("a", 0.1, 8, None, bytes=0.5, agreement=0.99, verdict="good"),
        SweepRow("b", 0.1, 4, None, bytes=0.2, agreement=0.99, verdict="degraded"),
        SweepRow("c", 0.1, 4, None, bytes=0.3, agreement=0.96),
    )
    for table, name in ((SweepTable("x", rows), "c"), (SweepTable("x", rows[:2]), "a"), (SweepTable("x", ()), None)):
        chosen = table.recommended()
        assert (chosen.row.name if chosen else None) == name
    assert SweepTable("x", rows).to_dict()["recommended"]["name"] == "c"


def test_the_page_has_ticks_the_original_latency_and_the_recommended_one() -> None:
    timed = replace(
        TABLE, rows=tuple(replace(r, latency=r.bytes, accuracy=r.agreement) for r in TABLE.rows), accuracy=0.99
    )
    page = timed.to_html()
    assert page.count("<figure class=plot>") == 3
    assert "time of one run" in page
    assert page.count('title="the original: 99 %"') == 3
    assert 'class="dot chosen"' in page
    assert page.index("<b>big</b>: the smallest file") < page.index("<figure class=plot>")


def test_the_page_says_which_file_and_which_command() -> None:
    page = sweep_table().to_html()
    assert f"SHA-256 {12 * 'c'}… · 2026-01-31 12:00 UTC" in page
    assert "<pre>onnx-udfc sweep net.onnx results --prune" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
def test_no_text_is_cut_in_a_browser() -> None:
    shown = [Shown(sweep_table().to_html(), width, dark) for width in (400, 1280) for dark in (False, True)]
    assert [(found.cut, found.wide > 0) for found in looked_at(shown)] == [([], False)] * 4
