"""What a newcomer guesses: swapped names, advice of inspect, the chosen file of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnx_udfc
from onnx_udfc.cli.guards import check_swapped
from onnx_udfc.errors import GateError, RequestError
from onnx_udfc.evaluate.inspection import advice_for
from onnx_udfc.evaluate.report import LayerReport
from onnx_udfc.options import CombinationError, OptionError, Options, parse_requirement
from onnx_udfc.options.command_tables import Sweeping
from onnx_udfc.sweep_table import SweepRow, SweepTable
from tests.small_graphs import small_network

MODEL = "models/digits_resnet_folded.onnx"


def test_swapped_names_are_told(tmp_path: Path) -> None:
    there = tmp_path / "model.onnx"
    there.write_bytes(b"x")
    with pytest.raises(RequestError, match="are IN and OUT swapped"):
        check_swapped(str(tmp_path / "small.onnx"), str(there))
    check_swapped(str(there), str(there))
    check_swapped(str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"))  # one that is missing is named by who reads it


def layer(parameters: int) -> LayerReport:
    return LayerReport("a", "Conv", 32, parameters, parameters, None)


def test_advice_by_what_the_network_is() -> None:
    plain = advice_for([layer(1000)], 3, 4100, compact=False)
    assert "onnx-udfc IN OUT" in plain[0]
    assert "3 groups" in plain[1]
    assert "bits before channels" in advice_for([layer(1000)], 3, 4100, compact=True)[1]
    assert "no channels can go" in advice_for([layer(1000)], 0, 4100, compact=False)[1]
    assert "1 % of the bytes" in advice_for([layer(10)], 3, 4000, compact=False)[0]
    assert "none are" in advice_for([], 0, 4000, compact=False)[0]


@pytest.mark.parametrize("groups", [1, 4])
def test_a_network_of_depthwise_layers_is_compact(groups: int) -> None:
    arguments = f"float[1, 4, 8, 8] x, float[4, {4 // groups}, 3, 3] W"
    network = small_network(f"g ({arguments}) => (float[1, 4, 6, 6] y) {{ y = Conv<group = {groups}>(x, W) }}")
    assert network.compact == (groups > 1)


def test_inspect_ends_with_two_lines_of_advice() -> None:
    found = onnx_udfc.inspect(MODEL)
    assert len(found.advice) == 2
    assert found.to_dict()["advice"] == list(found.advice)


TABLE = SweepTable(
    "m",
    (
        SweepRow("large", 0.0, 8, None, bytes=0.5, predicted_loss=0.0, accuracy=0.9, verdict="good"),
        SweepRow("middle", 0.0, 6, None, bytes=0.3, predicted_loss=0.009, accuracy=0.85, verdict="good"),
        SweepRow("small", 0.0, 4, None, bytes=0.2, predicted_loss=0.2, accuracy=0.5, verdict="degraded"),
        SweepRow("broken", 0.0, 2, None, bytes=0.1, predicted_loss=0.0, error="it does not run"),
    ),
)


@pytest.mark.parametrize(
    ("asked", "picked"),
    [("loss<=0.01", "middle"), ("loss<=0.5", "small"), ("bytes<0.25", "small"), ("verdict=good", "middle")],
)
def test_the_smallest_that_meets_it_is_picked(asked: str, picked: str) -> None:
    assert TABLE.pick(Sweeping(pick=asked).pick).name == picked


def test_with_labels_the_loss_is_the_real_one() -> None:
    real = SweepTable("m", TABLE.rows, accuracy=0.9)
    assert real.pick(Sweeping(pick="loss<=0.01").pick).name == "large"
    assert real.measured(TABLE.rows[1], "loss") == pytest.approx(1 - 0.85 / 0.9)


def test_none_that_meets_it_is_a_gate_that_is_not_met() -> None:
    with pytest.raises(GateError, match="no setting meets it"):
        TABLE.pick(Sweeping(pick=["loss<=0.01", "bytes<=0.1"]).pick)
    with pytest.raises(OptionError, match="pick="):
        Sweeping(pick="size<=1")
    assert str(parse_requirement("loss<=0.01", ("loss",))) == "loss<=0.01"


def test_a_sweep_writes_what_was_picked(tmp_path: Path) -> None:
    table = onnx_udfc.sweep(MODEL, tmp_path, bits=[8, 6], method="none", jobs=1, threads=1, pick="bytes<=0.3")
    assert table.picked == "prune0_bits6"
    kept = (tmp_path / "prune0_bits6.onnx").read_bytes()
    assert (tmp_path / "picked.onnx").read_bytes() == kept
    assert json.loads((tmp_path / "sweep.json").read_text())["rows"]
    with pytest.raises(CombinationError, match="for one file"):
        onnx_udfc.sweep(MODEL, tmp_path, max_loss=0.01)


def test_what_a_notebook_shows_is_a_line() -> None:
    result = onnx_udfc.compress(MODEL, method="none", bits=np.int64(8), threads=1)
    assert repr(Options(bits=8, prune="50%")) == "Options(prune=0.5, bits=8)"
    assert repr(Options()) == "Options()"
    assert repr(result).startswith("Result(bytes 1,571,620 -> ")
    assert repr(result.report).startswith(f"Report({result.report.verdict}, ")
    assert repr(onnx_udfc.inspect(MODEL)).startswith("Inspection(")
    assert repr(TABLE) == "SweepTable('m', 4 settings, front ['small', 'middle', 'large'])"
    assert result._repr_html_().startswith("<table>")
