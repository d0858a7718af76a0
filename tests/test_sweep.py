"""A sweep on a small network: what it leaves, that it continues, and that each setting is what it would be alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc.errors import UdfcError
from onnx_udfc.inputs.image_files import Labelled
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.sweep import sweep
from onnx_udfc.sweep_grid import Grid
from tests.command_line import call, small_classifier

GRID = Grid((0.0, 0.5), (8, 4), (None,))
OPTIONS = Options(threads=1)
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
    table = sweep(source, tmp_path / "out", GRID, OPTIONS)
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


def test_other_options_or_another_original_count_as_new(source: Path, tmp_path: Path) -> None:
    grid = Grid((0.5,), (8,))
    sweep(source, tmp_path / "out", grid, OPTIONS)
    steps = Steps()
    sweep(source, tmp_path / "out", grid, Options(threads=1, seed=1), callbacks=steps)
    assert steps.details == ["prune0.5_bits8"]
    model = small_classifier()
    model.doc_string = "another"
    onnx.save(model, source)
    steps = Steps()
    sweep(source, tmp_path / "out", grid, Options(threads=1, seed=1), callbacks=steps)
    assert steps.details == ["prune0.5_bits8"]


def test_processes_give_the_same(source: Path, tmp_path: Path) -> None:
    one = sweep(source, tmp_path / "one", GRID, OPTIONS)
    two = sweep(source, tmp_path / "two", GRID, OPTIONS, jobs=2)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert (a.name, a.bytes, a.sqnr_db) == (b.name, b.bytes, b.sqnr_db)


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
    assert not (tmp_path / "out" / "prune0.5_bits4.onnx").exists()


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
