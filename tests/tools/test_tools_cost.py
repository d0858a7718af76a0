"""tools.measure.cost: what a run of the command line takes, with options as they are given to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.measure import cost

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_bn.onnx"


def test_the_setting_reaches_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "source_of", lambda *_: DIGITS)
    words = ["--networks", "digits", "--no-peer", "--threads", "1", "--setting", "--bits 4 --method none"]
    monkeypatch.setattr(sys, "argv", ["cost", *words, "--out", str(tmp_path)])
    cost.main()
    (row,) = json.loads((tmp_path / "cost.json").read_text())
    assert row["tool"] == "onnx-udfc --bits 4 --method none"
    assert row["error"] is None
    assert row["seconds"] > 0
    assert (tmp_path / "digits_resnet_bn.ours.onnx").stat().st_size < DIGITS.stat().st_size / 5
