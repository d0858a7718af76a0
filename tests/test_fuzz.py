"""What nobody meant to give: damaged files and random graphs, through the whole command line.

The suite takes a part; all of it is `pytest tests/test_fuzz.py --fuzz 500`, or `python -m tools fuzz`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.command_line import small_classifier
from tools.check.fuzz import PRECIOUS, Tally, examine, fuzz_damaged, fuzz_graphs

DAMAGED, GRAPHS = 48, 12  # in every run of the suite: half a minute


@pytest.fixture
def full(request: pytest.FixtureRequest) -> int:
    """How many damaged files were asked for, 0 for the suite's part."""
    return int(request.config.getoption("--fuzz"))


def test_damaged_files_are_compressed_or_refused_in_one_line(assets: Path, full: int) -> None:
    tally = fuzz_damaged(assets / "zoo", full or DAMAGED)
    assert not tally.faults, tally.line()
    assert sum(tally.outcomes.values()) == (full or DAMAGED)
    assert min(tally.outcomes["compressed"], tally.outcomes["refused"]) > 0.1 * (full or DAMAGED)  # both are tried


def test_random_graphs_are_compressed(full: int) -> None:
    tally = fuzz_graphs(full * 3 // 5 or GRAPHS)
    assert not tally.faults, tally.line()
    assert tally.outcomes == {"compressed": full * 3 // 5 or GRAPHS}


def test_faults_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        (tmp_path / "out.onnx").write_bytes(b"half of it")
        (tmp_path / "rest.tmp").write_bytes(b"")
        raise KeyError("no such thing")

    monkeypatch.setattr(
        importlib.import_module("onnx_udfc.original"), "load_with_samples", fail
    )  # the package's attribute is the function
    tally = Tally()
    examine(small_classifier().SerializeToString(), ("--bits", "8"), tmp_path, tally)
    assert (tmp_path / "out.onnx").read_bytes() != PRECIOUS
    text = " ".join(tally.faults)
    assert all(word in text for word in ("internal error", "OUT was written", "left behind: rest.tmp")), text
