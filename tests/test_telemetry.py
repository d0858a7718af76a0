"""Nothing is sent and nothing is written to the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.command_line import CLI, names, small_classifier

FROM_PYTHON = """
import onnx_udfc
onnx_udfc.compress("in.onnx", bits=8).save("out.onnx")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    onnx.save(small_classifier(), tmp_path / "work" / "in.onnx")
    return tmp_path / "home"


def run(home: Path, *words: str, **given: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | {"HOME": str(home)} | given
    env.pop("ORT_DISABLE_TELEMETRY", None)
    return subprocess.run(words, cwd=home.parent / "work", env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        (*CLI, "in.onnx", "out.onnx", "--bits", "8", "--quiet"),
        (*CLI, "validate", "in.onnx", "in.onnx", "--seconds", "0", "--quiet"),
        (*CLI, "sweep", "in.onnx", "dir", "--bits", "8,4", "--method", "none", "--jobs", "2", "--quiet"),
        (sys.executable, "-c", FROM_PYTHON),
    ],
    ids=["compress", "validate", "sweep", "python"],
)
def test_the_home_folder_stays_empty(home: Path, words: tuple[str, ...]) -> None:
    done = run(home, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert names(home) == set()


def test_a_home_that_cannot_be_written_to_is_nothing_to_speak_of(home: Path) -> None:
    done = run(home, *CLI, "in.onnx", "out.onnx", "--bits", "8", "--quiet", HOME="/proc/none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_user_has_set_stays(home: Path) -> None:
    code = "import os, onnx_udfc; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = os.environ | {"ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
