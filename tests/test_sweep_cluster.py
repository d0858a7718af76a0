"""A sweep on a cluster of Dask: the same files as here, whatever happens to a worker."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.options import OptionError, Options, Sweeping
from onnx_udfc.pipeline import compress
from onnx_udfc.progress import Silent
from onnx_udfc.sweep import sweep as sweep_with
from onnx_udfc.sweep_grid import Grid
from tests.command_line import small_classifier

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="Dask is not installed (the extra `dask`)"
)
sweep = partial(sweep_with, compress=compress)
GRID = Grid(prune=(0.0, 0.25, 0.5), bits=(32, 8, 4, 2))
SHARED = Options(images=8, threads=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    onnx.save(small_classifier(), path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of one thread, each a process."""
    dask: Any = importlib.import_module("distributed")
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as made:
        yield made


def address(cluster: Any) -> str:
    return f"dask://{cluster.scheduler_address.removeprefix('tcp://')}"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.onnx")}


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = {path.stem: json.loads(path.read_text())["row"] for path in folder.glob("prune*.json")}
    return {name: {k: v for k, v in row.items() if k not in ("seconds", "latency")} for name, row in found.items()}


class Killing(Silent):
    """Ends one worker as soon as the first setting is done."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.killed, self.lock = cluster, 0, threading.Lock()

    def advance(self, n: int = 1, detail: str = "") -> None:
        with self.lock:
            if n and detail and not self.killed:
                worker = next(iter(self.cluster.workers.values()))
                self.killed = worker.process.pid
                os.kill(self.killed, signal.SIGKILL)


@needs_dask
def test_a_cluster_gives_the_same_files_also_when_a_worker_is_killed(
    cluster: Any, source: Path, tmp_path: Path
) -> None:
    sweep(source, tmp_path / "here", GRID, SHARED)
    sweep(source, tmp_path / "there", GRID, SHARED, executor=address(cluster))
    killing = Killing(cluster)
    sweep(source, tmp_path / "killed", GRID, SHARED, executor=address(cluster), callbacks=killing)
    assert killing.killed
    expected = files(tmp_path / "here")
    assert len(expected) == 12
    for folder in ("there", "killed"):
        assert files(tmp_path / folder) == expected
        assert rows(tmp_path / folder) == rows(tmp_path / "here")


@needs_dask
def test_what_fails_there_is_a_row_with_its_reason(cluster: Any, source: Path, tmp_path: Path) -> None:
    given = Options(images=8, require=("sqnr>=500",))
    table = sweep(source, tmp_path / "out", Grid(prune=(0.5,)), given, executor=address(cluster))
    assert "required but not met" in table.rows[0].error
    assert not files(tmp_path / "out")


@needs_dask
def test_no_scheduler_is_one_line(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_udfc.runtime.cluster.PATIENCE", 0.5)
    with pytest.raises(RequestError, match="no scheduler of Dask answers there"):
        sweep(source, tmp_path / "out", Grid(prune=(0.5,)), SHARED, executor="dask://127.0.0.1:1")


def test_without_dask_the_line_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(RequestError, match=r"pip install 'onnx-udfc\[dask\]'"):
        sweep(source, tmp_path / "out", Grid(prune=(0.5,)), SHARED, executor="dask://127.0.0.1:8786")


@pytest.mark.parametrize("wrong", ["127.0.0.1:8786", "dask://", "dask://host", "ray://host:1", ""])
def test_other_addresses_are_refused(wrong: str) -> None:
    with pytest.raises(OptionError, match="must be dask://HOST:PORT"):
        Sweeping(executor=wrong)
