from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tools.measure import prior_table
from tools.measure.prior_table import Row, cell, real_inputs


def found(score: float | None, error: str = "") -> dict[str, Any]:
    return {"score": score, "kinds": "", "error": error}


def run(monkeypatch: pytest.MonkeyPatch, cache: Path, *options: str) -> list[tuple[Row, str, int]]:
    """Print a table, every row of which scores 50; what was measured for it."""
    measured = []

    def measure(row: Row, column: str, seed: int, target: Path) -> dict[str, Any]:
        assert target.parent == cache
        measured.append((row, column, seed))
        return found(50.0 + seed)

    monkeypatch.setattr(prior_table, "_measure", measure)
    monkeypatch.setattr(sys, "argv", ["prior_table", "--cache", str(cache), *options])
    assert prior_table.main() == 0
    return measured


def test_a_row_that_was_measured_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--rows", "squeezenet", "--seeds", "2")
    first = run(monkeypatch, tmp_path, *asked)
    assert [(row.options[-1], column, seed) for row, column, seed in first] == [
        (ratio, column, seed) for ratio in ("0.1", "0.2") for column in ("auto", "real") for seed in (0, 1)
    ]
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "| network, options | auto | real |"
    assert printed.count("| 50.5 (50.0, 51.0) | 50.5 (50.0, 51.0) |") == 2
    assert run(monkeypatch, tmp_path, *asked) == []
    assert capsys.readouterr().out == printed


def test_no_row_is_begun_when_the_minutes_are_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path, "--rows", "magika")
    assert run(monkeypatch, tmp_path, "--rows", "magika|silero", "--minutes", "-1") == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 rows are left: the same command again goes on"
    assert sum("magika" in line for line in lines[4:]) == 2


def test_the_table_of_scales_tells_the_scale_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = run(monkeypatch, tmp_path, "--scale", "--rows", "resnet20")
    assert [(row.network, column) for row, column, _ in measured] == [
        (f"resnet20_cifar10_{kind}", column) for kind in ("bn", "folded") for column in ("auto", "untold")
    ]
    assert {" ".join(row.options) for row, _, _ in measured} == {"--bits 8 --activations 8"}


@pytest.mark.parametrize(("column", "told"), [("auto", True), ("untold", False), ("real", True)])
def test_what_is_said_of_the_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, column: str, told: bool) -> None:
    commands: list[list[str]] = []

    def refused(command: list[str], **_: object) -> object:
        commands.append(command)
        return type("Done", (), {"returncode": 1, "stderr": "onnx-udfc: no\n"})()

    monkeypatch.setattr("tools.measure.prior_table.subprocess.run", refused)
    monkeypatch.setattr(prior_table, "source", lambda _: (tmp_path / "in.onnx", ["--input-range=0,1"]))
    monkeypatch.setattr(prior_table, "real_inputs", lambda *_: tmp_path / "real")
    monkeypatch.setattr(sys, "argv", ["", "--cache", str(tmp_path), "--columns", column, "--rows", "basic_pitch"])
    prior_table.main()
    (command,) = commands
    assert ("--input-range=0,1" in command) == told
    assert ("--calibrate" in command) == (column == "real")
    assert ("--images" in command) == (column == "auto")


def test_a_cell_is_a_mean_or_the_reason_why_there_is_none() -> None:
    assert cell([found(50.0)]) == "50.0"
    assert cell([found(50.0), found(51.0)]) == "50.5 (50.0, 51.0)"
    assert cell([found(50.0), found(None, "onnx-udfc: no")]) == "onnx-udfc: no"


@pytest.mark.usefixtures("assets", "realnets")
def test_no_photograph_that_is_fitted_on_is_scored(tmp_path: Path) -> None:
    taken = {path.name for path in real_inputs("squeezenet_v1.1_imagenet", tmp_path).iterdir()}
    scored = prior_table._unseen(tmp_path)
    with zipfile.ZipFile(scored) as images:
        names = {Path(name).name for name in images.namelist() if name.endswith(".jpg")}
    assert len(taken) == 32
    assert not taken & names
    assert len(names) == 875 - 32
