"""A sweep on a small network: what it leaves, that it continues, and that each setting is what it would be alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc.errors import UdfcError
from onnx_udfc.inputs.real import Labelled
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.sessions import open_session
from onnx_udfc.sweep import accuracy_of
from onnx_udfc.sweep import sweep as sweep_with
from onnx_udfc.sweep_grid import Grid
from tests.command_line import CLI, call, small_classifier
from tests.repair.test_equalize import model as uneven

sweep = partial(sweep_with, compress=compress)
GRID = Grid((0.0, 0.5), (8, 4), (None,))
OPTIONS = Options(threads=1, images=8)
NAMES = ["prune0_bits8", "prune0_bits4", "prune0.5_bits8", "prune0.5_bits4"]


class Steps:
    """Callbacks that remember what was advanced."""

    def __init__(self) -> None:
        self.details: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        pass

    def advance(self, n: int = 1, detail: str = "") -> None:
        if n:
            self.details.append(detail)

    def note(self, text: str) -> None:
        pass

    def done(self) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_every_setting_is_what_it_would_be_alone(source: Path, tmp_path: Path) -> None:
    table = sweep(source, tmp_path / "out", GRID, Options(threads=1))
    assert [r.name for r in table.rows] == NAMES
    for row in table.rows:
        options = Options(prune=row.prune, bits=int(row.bits), threads=1)
        compress(source, options).save(tmp_path / "alone.onnx")
        assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / "out" / f"{row.name}.onnx").read_bytes(), row.name
    for suffix in ("csv", "json", "html"):
        assert (tmp_path / "out" / f"sweep.{suffix}").exists()


def test_what_is_done_is_not_done_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = sweep(source, folder, Grid((0.5,), (8,)), OPTIONS)
    steps = Steps()
    second = sweep(source, folder, GRID, OPTIONS, callbacks=steps)
    assert steps.details == ["done before", *[n for n in NAMES if n != "prune0.5_bits8"]]
    assert second.rows[2] == first.rows[0]
    (folder / "prune0_bits8.json").write_text("half a fi")
    (folder / "prune0_bits4.onnx").unlink()
    steps = Steps()
    sweep(source, folder, GRID, OPTIONS, callbacks=steps)
    assert steps.details == ["done before", "prune0_bits8", "prune0_bits4"]
    (folder / "prune0_bits8.onnx").write_bytes((folder / "prune0_bits4.onnx").read_bytes())
    steps = Steps()
    sweep(source, folder, GRID, OPTIONS, callbacks=steps)
    assert steps.details == ["done before", "prune0_bits8"], "another file has come in its place"


def test_a_folder_that_takes_no_file_is_refused_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refused)
    steps = Steps()
    with pytest.raises(UdfcError, match=r"sweep.csv: cannot be written \(Read-only file system\)"):
        sweep(source, tmp_path / "out", GRID, OPTIONS, callbacks=steps)
    assert steps.details == []


def test_two_sweeps_of_other_options_in_one_folder_are_told_apart(source: Path, tmp_path: Path) -> None:
    class Other(Steps):
        def advance(self, n: int = 1, detail: str = "") -> None:
            super().advance(n, detail)
            (tmp_path / "out" / "prune0.5_bits8.json").write_text('{"key": "of another"}')

    with pytest.raises(UdfcError, match="something else writes"):
        sweep(source, tmp_path / "out", Grid((0.5,), (8,)), OPTIONS, callbacks=Other())


def test_other_options_or_another_original_count_as_new(source: Path, tmp_path: Path) -> None:
    grid = Grid((0.5,), (8,))
    sweep(source, tmp_path / "out", grid, OPTIONS)
    steps = Steps()
    sweep(source, tmp_path / "out", grid, replace(OPTIONS, seed=1), callbacks=steps)
    assert steps.details == ["prune0.5_bits8"]
    model = small_classifier()
    model.doc_string = "another"
    onnx.save(model, source)
    steps = Steps()
    sweep(source, tmp_path / "out", grid, replace(OPTIONS, seed=1), callbacks=steps)
    assert steps.details == ["prune0.5_bits8"]


@pytest.mark.parametrize(("order", "jobs"), [("forward", 2), ("backward", 1)])
def test_neighbours_jobs_and_interruptions_change_no_byte(tmp_path: Path, jobs: int, order: str) -> None:
    onnx.save(uneven(), tmp_path / "in.onnx")
    turn = 1 if order == "forward" else -1
    grid = Grid((0.0, 0.25), (8, 4)[::turn], (None, 8)[::turn])
    sweep(tmp_path / "in.onnx", tmp_path / "out", Grid((0.25,), (4,), (8,)), OPTIONS)  # was stopped after the first
    table = sweep(tmp_path / "in.onnx", tmp_path / "out", grid, OPTIONS, jobs=jobs)
    assert len(table.rows) == 8
    for row in table.rows:
        options = replace(OPTIONS, prune=row.prune, bits=int(row.bits), activations=row.activations)
        compress(tmp_path / "in.onnx", options).save(tmp_path / "alone.onnx")
        assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / "out" / f"{row.name}.onnx").read_bytes(), row.name


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    model = small_classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    rng = np.random.default_rng(0)
    x = rng.random((20, 3, 8, 8), np.float32)
    answers = open_session(small_classifier()).run(None, {"x": x})[0].argmax(1)
    y = np.where(np.arange(20) < 15, answers, (answers + 1) % 5)
    np.savez(tmp_path / "images.npz", x=x, y=y)
    assert accuracy_of(model, Labelled(str(tmp_path / "images.npz"))) == 0.75
    assert accuracy_of(small_classifier(), Labelled(str(tmp_path / "images.npz"))) == 0.75


def test_changed_weights_beside_the_file_and_changed_data_count_as_new(source: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(source), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = tmp_path / "data.npy"
    np.save(data, np.zeros((16, 3, 8, 8), np.float32))
    grid, options = Grid((0.5,), (8,)), replace(OPTIONS, calibrate=str(data))

    def again() -> list[str]:
        steps = Steps()
        sweep(source, tmp_path / "out", grid, options, callbacks=steps)
        return steps.details

    assert again() == ["prune0.5_bits8"]
    assert again() == ["done before"]
    np.save(data, np.ones((16, 3, 8, 8), np.float32))
    assert again() == ["prune0.5_bits8"]
    raw = bytearray((tmp_path / "weights.bin").read_bytes())
    raw[2] ^= 1
    (tmp_path / "weights.bin").write_bytes(raw)
    assert again() == ["prune0.5_bits8"]
    assert again() == ["done before"]


def test_what_cannot_be_read_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("none.onnx", "text.onnx"):
        with pytest.raises(UdfcError):
            sweep(tmp_path / name, tmp_path / "out", GRID, OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM to handle")
def test_a_signal_to_the_parent_alone_ends_all_processes(source: Path, tmp_path: Path) -> None:
    words = ["sweep", str(source), str(tmp_path / "out"), "--prune", "0.001:0.9:0.001", "--jobs", "2", "--threads", "1"]
    parent = subprocess.Popen([*CLI, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [int(c) for c in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    start = time.monotonic()
    parent.send_signal(signal.SIGTERM)
    parent.wait(timeout=30)
    assert time.monotonic() - start < 2
    assert parent.returncode == 130
    assert children
    while time.monotonic() - start < 2 and any(works(c) for c in children):
        time.sleep(0.02)
    assert not [c for c in children if works(c)]
    assert b"interrupted" in parent.communicate(timeout=30)[1]


def works(process: int) -> bool:
    """Whether a process is there that is one of ours, and not multiprocessing's own to tidy up."""
    command = Path(f"/proc/{process}/cmdline")
    try:
        return command.read_bytes() != b"" and b"resource_tracker" not in command.read_bytes()
    except OSError:
        return False


def test_labels_give_accuracy(source: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=rng.integers(0, 5, 20))
    table = sweep(
        source, tmp_path / "out", Grid((0.0,), (8,)), OPTIONS, labelled=Labelled(str(tmp_path / "images.npz"))
    )
    assert table.accuracy is not None
    assert table.rows[0].accuracy is not None


def test_a_setting_that_fails_is_a_row_with_its_reason(source: Path, tmp_path: Path) -> None:
    from onnx_udfc.options import parse_requirement

    options = Options(threads=1, require=(parse_requirement("sqnr>=30"),))
    table = sweep(source, tmp_path / "out", GRID, options)
    assert table.rows[0].error == ""
    assert "sqnr>=30" in table.rows[3].error
    assert [row.exit_code for row in table.rows] == [3 if row.error else 0 for row in table.rows]
    assert not (tmp_path / "out" / "prune0.5_bits4.onnx").exists()
    stricter = replace(options, require=(parse_requirement("sqnr>=190"),))
    (tmp_path / "out" / "prune0.5_bits4.onnx").write_bytes(b"not of a sweep")
    assert all(row.error for row in sweep(source, tmp_path / "out", GRID, stricter).rows)
    left = [path.name for path in (tmp_path / "out").glob("*.onnx")]
    assert left == ["prune0.5_bits4.onnx"], "what an earlier sweep made of other options"


def test_a_bad_request_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UdfcError):
        sweep(source, tmp_path / "out", Grid((1.0,), (8,)), OPTIONS)
    with pytest.raises(UdfcError):
        sweep(tmp_path / "none.onnx", tmp_path / "out", GRID, OPTIONS)


def test_the_command_prints_the_table_or_json(source: Path) -> None:
    words = ("sweep", "in.onnx", "out", "--prune", "0,0.5", "--bits", "8", "--method", "udfc")
    done = call(source.parent, *words)
    assert done.returncode == 0, done.stderr
    assert "prune0.5_bits8" in done.stdout
    found = json.loads(call(source.parent, *words, "--json").stdout)
    assert [r["name"] for r in found["rows"]] == ["prune0_bits8", "prune0.5_bits8"]
    done = call(source.parent, "sweep", "in.onnx", "none", "--bits", "8", "--method", "udfc", "--require", "sqnr>=190")
    assert done.returncode == 3
    assert "no setting gave a result; prune0_bits8: required but not met" in done.stderr
    assert (source.parent / "none" / "sweep.html").exists()
