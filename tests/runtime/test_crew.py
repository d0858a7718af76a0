"""Processes that work through tasks: who does what, and what a lost one costs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import pytest

from onnx_udfc.errors import ModelError
from onnx_udfc.interrupts import serve_parent
from onnx_udfc.runtime.crew import work_through


@dataclass
class Writes:
    """Leaves a file for each task; remembers how many it did in this process."""

    folder: Path
    done: int = 0

    def __call__(self, task: str) -> None:
        """What the task's name says."""
        match task.split("-")[0]:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wrong":
                raise ModelError("no such thing")
            case "long":
                (self.folder / task).touch()
                time.sleep(60)
        self.done += 1
        (self.folder / task).write_text(f"{os.getpid()} {self.done}")


def kind(task: str) -> str:
    return task.split("-")[0]


def test_a_killed_process_costs_its_task_only(tmp_path: Path) -> None:
    tasks = ["a-1", "killed-1", "a-2", "killed-2", "b-1"]
    found = dict(work_through(tasks, Writes(tmp_path), 2, kind, serve_parent))
    assert found == {"a-1": "", "a-2": "", "b-1": "", "killed-1": "signal 9", "killed-2": "signal 9"}
    assert {p.name for p in tmp_path.iterdir()} == {"a-1", "a-2", "b-1"}
    assert not active_children()


def test_tasks_of_a_kind_are_done_by_one_process_that_remembers(tmp_path: Path) -> None:
    tasks = [f"{kind}-{i}" for i in range(4) for kind in "ab"]
    list(work_through(tasks, Writes(tmp_path), 2, kind, serve_parent))
    by_process = {name: {(tmp_path / f"{name}-{i}").read_text().split()[0] for i in range(4)} for name in "ab"}
    assert len(by_process["a"] | by_process["b"]) <= 2
    assert sorted((tmp_path / f"a-{i}").read_text().split()[1] for i in range(4))[-1] >= "4"


def test_what_is_raised_arrives_as_it_was_and_ends_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        list(work_through(["wrong-1", "a-1", "a-2", "a-3"], Writes(tmp_path), 2, kind, serve_parent))
    assert not active_children()


def test_processes_end_at_once_when_nobody_listens(tmp_path: Path) -> None:
    running = work_through(["long-1", "long-2", "a-1"], Writes(tmp_path), 3, kind, serve_parent)
    assert next(running) == ("a-1", "")
    deadline = time.monotonic() + 30
    while not (tmp_path / "long-1").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 2
    assert not active_children()
