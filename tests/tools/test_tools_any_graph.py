from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import small_classifier
from tools.check import any_graph
from tools.check.any_graph import Row, examine, files, summary

OPTIONS = ("--prune", "0.5", "--bits", "8", "--method", "udfc", "--threads", "1")


def test_a_file_is_inspected_compressed_and_compared(tmp_path: Path) -> None:
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    row = examine("net", tmp_path / "in.onnx", OPTIONS, tmp_path)
    assert (row.name, row.outcome, row.detail) == ("net", "compressed", "")
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "in.onnx").stat().st_size


def test_what_onnxruntime_cannot_load_may_be_refused(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(b"damaged")
    assert examine("net", tmp_path / "in.onnx", OPTIONS, tmp_path).outcome == "refused"


def test_a_budget_out_of_reach_leaves_a_file_alone(tmp_path: Path) -> None:
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    options = ("--budget", "params=0.0001", "--factor", "on", "--threads", "1")
    row = examine("net", tmp_path / "in.onnx", options, tmp_path)
    assert row.outcome == "left alone"
    assert "the smallest that can be reached is" in row.detail
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("makes", [True, False])
def test_a_file_that_makes_its_weights_may_be_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makes: bool
) -> None:
    model = small_classifier()
    if makes:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4], np.int64), "length"))
        model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["length"], ["made"]))
    onnx.save(model, tmp_path / "in.onnx")
    grown = (3, "onnx-udfc: the file would be larger than the original (9 bytes instead of 8), so nothing was written")
    monkeypatch.setattr(any_graph, "call", lambda *words: (0, "") if words[0] == "inspect" else grown)
    assert examine("net", tmp_path / "in.onnx", OPTIONS, tmp_path).outcome == ("left alone" if makes else "FAILED")


@pytest.mark.parametrize("fault", ["refused", "renamed"])
def test_failures_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    other = small_classifier()
    other.graph.input[0].name = other.graph.node[0].input[0] = "other"

    def call(*words: str) -> tuple[int, str]:
        if words[0] == "inspect":
            return 0, ""
        onnx.save(other, words[1])
        return (1, "onnx-udfc: no") if fault == "refused" else (0, "")

    monkeypatch.setattr(any_graph, "call", call)
    assert examine("net", tmp_path / "in.onnx", OPTIONS, tmp_path).outcome == "FAILED"


def test_all_files_of_the_package_are_found() -> None:
    found = dict(files("*"))
    assert len([name for name in found if not name.startswith(("zoo/", "real/"))]) == 149
    assert len([name for name in found if name.startswith("light/")]) == 9
    assert len(set(found.values())) == len(found)


def test_the_summary_counts() -> None:
    rows = [Row("a/1", "compressed", 1.0), Row("a/2", "FAILED", 20.4), Row("b/1", "compressed", 2.0)]
    text = summary(rows)
    assert "a: 1 FAILED, 1 compressed" in text
    assert "all 3 files: 1 FAILED, 2 compressed" in text
    assert "slowest: a/2 20 s, b/1 2 s" in text
    assert np.count_nonzero([line.startswith("b:") for line in text.splitlines()]) == 1
