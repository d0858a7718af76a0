"""Signals at any moment: the process ends, OUT is whole or untouched, nothing is left, and what is said is true."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from tests.command_line import CLI, PRECIOUS, names, small_classifier

LIMIT = 2.0  # seconds
WORDS = {
    "compress": ("in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4", "--quiet"),
    "sweep": ("sweep", "in.onnx", "dir", "--prune", "0,0.3,0.5", "--bits", "8,4", "--jobs", "2", "--quiet"),
    "validate": ("validate", "in.onnx", "in.onnx", "--seconds", "60"),
    "endless": ("validate", "loop.onnx", "loop.onnx", "--seconds", "60", "--no-memory"),
}
LOOP = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1,3] x) => (float[1,3] y) {
  n = Constant <value: tensor = int64 {1000000000}> ()
  c = Constant <value: tensor = bool {1}> ()
  y = Loop (n, c, x) <
    body = b (int64 i, bool d, float[1,3] v) => (bool e, float[1,3] w) { e = Identity (d) w = Relu (v) }>
}"""  # a run of it takes half an hour inside onnxruntime


SWEPT = "what was finished is in dir, and the same command goes on from there"


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    (tmp_path / "in.onnx").write_bytes((models / "digits_resnet_bn.onnx").read_bytes())
    (tmp_path / "out.onnx").write_bytes(PRECIOUS)
    onnx.save(parser.parse_model(LOOP), tmp_path / "loop.onnx")
    return tmp_path


def interrupted(folder: Path, words: tuple[str, ...], how: signal.Signals, after: float) -> tuple[int, str, float]:
    """Exit code, standard error, and seconds from the signal to the end."""
    process = subprocess.Popen([*CLI, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not _catches(process.pid):  # before, it is not our program that runs but the start of Python
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(how)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors, time.monotonic() - start


def _catches(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    caught = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
    return not caught or bool(caught[0] >> (signal.SIGTERM - 1) & 1)


def temporary(folder: Path) -> Iterator[Path]:
    return folder.rglob(".onnx-udfc.*")


def workers(folder: Path) -> set[int]:
    """Processes that a command in this folder has started."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"spawn_main" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == folder.resolve():
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.15, 0.4, 0.9, 1.6, 2.5])
def test_a_compression_ends_at_once_and_tells_the_truth(folder: Path, how: signal.Signals, after: float) -> None:
    code, errors, took = interrupted(folder, WORDS["compress"], how, after)
    assert took < LIMIT
    assert not list(temporary(folder))
    written = (folder / "out.onnx").read_bytes() != PRECIOUS
    if code == 0:  # it was quicker than the signal
        onnx.checker.check_model(onnx.load(folder / "out.onnx"))
        assert errors in ("", "onnx-udfc: interrupted; out.onnx was already written\n")
        return
    assert (code, errors) == (130, "onnx-udfc: interrupted; nothing was written\n")
    assert not written


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["endless", "validate"])
def test_long_runs_of_onnxruntime_end_at_once(folder: Path, how: signal.Signals, command: str) -> None:
    code, errors, took = interrupted(folder, WORDS[command], how, 3.0)
    assert (code, errors) == (130, "onnx-udfc: interrupted; nothing was written\n")
    assert took < LIMIT


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.5, 4.0])
def test_a_sweep_ends_with_all_its_processes(folder: Path, how: signal.Signals, after: float) -> None:
    code, errors, took = interrupted(folder, WORDS["sweep"], how, after)
    assert took < LIMIT
    assert code == 130
    if (folder / "dir").exists() or after > 1:
        assert errors == f"onnx-udfc: interrupted; {SWEPT}\n"
    assert not list(temporary(folder))
    time.sleep(0.3)  # they are killed, and the system takes them down
    assert not workers(folder)
    for model in (folder / "dir").glob("*.onnx") if (folder / "dir").exists() else ():
        onnx.checker.check_model(onnx.load(model))


def test_workers_end_with_a_parent_that_was_killed(folder: Path) -> None:
    parent = subprocess.Popen([*CLI, *WORDS["sweep"]], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not workers(folder) and time.monotonic() < end:
        time.sleep(0.02)
    assert workers(folder)
    parent.kill()
    parent.wait(timeout=30)
    end = time.monotonic() + 30
    while workers(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not workers(folder)


def test_a_killed_compression_leaves_out_as_it_was(folder: Path) -> None:
    code, _, _ = interrupted(folder, WORDS["compress"], signal.SIGKILL, 1.0)
    assert code == -signal.SIGKILL
    assert (folder / "out.onnx").read_bytes() == PRECIOUS


def test_an_interrupt_during_the_imports_is_one_line(tmp_path: Path) -> None:
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    for after in np.linspace(0.0, 0.4, 8):
        code, errors, _ = interrupted(tmp_path, ("in.onnx", "out.onnx", "--quiet"), signal.SIGINT, float(after))
        assert "Traceback" not in errors
        assert code == (0 if (tmp_path / "out.onnx").exists() else 130)
        assert len(errors.splitlines()) <= 1
        (tmp_path / "out.onnx").unlink(missing_ok=True)
    assert names(tmp_path) == {"in.onnx"}


MOVING = """
import os, signal, sys, threading, time
from pathlib import Path
from onnx_udfc.interrupts import Interrupts
interrupts = Interrupts()
interrupts.install()
with interrupts.moving("x was already written"):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    Path("first").write_text("1")
    Path("second").write_text("2")
time.sleep(5)
"""


def test_moves_are_not_interrupted_and_then_the_command_has_succeeded(tmp_path: Path) -> None:
    done = subprocess.run([CLI[0], "-c", MOVING], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "onnx-udfc: interrupted; x was already written\n")
    assert names(tmp_path) == {"first", "second"}


LEAVING = """
import atexit, os, signal
from onnx_udfc.interrupts import Interrupts
interrupts = Interrupts()
interrupts.install()
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(signal.SIGTERM)):
        kill(pid, number)  # while Python takes itself down, after it has given up the handlers
import builtins
builtins.last = Last()
interrupts.leave()
"""


def test_a_signal_while_python_takes_itself_down_does_not_change_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [CLI[0], "-c", LEAVING], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    without = LEAVING.replace("interrupts.leave()", "")
    done = subprocess.run(
        [CLI[0], "-c", without], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == -signal.SIGTERM  # so the test tests something
