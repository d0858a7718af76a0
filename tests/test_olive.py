"""A real `olive run` with the pass, against the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OLIVE = os.environ.get("OLIVE_PYTHON", sys.executable)


def has_olive() -> bool:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('olive') is None)"
    return subprocess.run([OLIVE, "-c", code], check=False).returncode == 0


QUIET = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1"}
pytestmark = pytest.mark.skipif(not has_olive(), reason="no Olive here; pip install 'onnx-udfc[olive]'")


@pytest.fixture
def workflow(tmp_path: Path, models: Path) -> Path:
    shutil.copy(models / "digits_resnet_bn.onnx", tmp_path / "in.onnx")
    workflow = {
        "input_model": {"type": "OnnxModel", "model_path": str(tmp_path / "in.onnx")},
        "passes": {"udfc": {"type": "OnnxUDFC", "prune": 0.5, "bits": 4, "threads": 1}},
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    return tmp_path


def test_the_package_config_keeps_olive_s_own_passes(tmp_path: Path) -> None:
    done = subprocess.run(
        [OLIVE, "-m", "onnx_udfc.olive"], capture_output=True, text=True, check=True, cwd=tmp_path, env=QUIET
    )
    passes = json.loads(done.stdout)["passes"]
    assert passes["OnnxUDFC"]["module_path"] == "onnx_udfc.olive.OnnxUDFC"
    assert "OnnxStaticQuantization" in passes
    assert "OnnxFloatToFloat16" in passes


def test_olive_run_gives_the_bytes_of_the_command_line(workflow: Path) -> None:
    config = subprocess.run(
        [OLIVE, "-m", "onnx_udfc.olive"], capture_output=True, text=True, check=True, env=QUIET
    ).stdout
    (workflow / "package.json").write_text(config, encoding="utf-8")
    files = ["--config", str(workflow / "workflow.json"), "--package-config", str(workflow / "package.json")]
    subprocess.run(
        [OLIVE, "-m", "olive", "run", *files], check=True, capture_output=True, timeout=600, cwd=workflow, env=QUIET
    )
    command = [OLIVE, "-m", "onnx_udfc", "in.onnx", "cli.onnx", "--prune", "0.5", "--bits", "4", "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=600, cwd=workflow)
    shutil.rmtree(workflow / "cache")
    (workflow / "again").mkdir()
    text = (workflow / "workflow.json").read_text(encoding="utf-8").replace('/out"', '/again"')
    (workflow / "again.json").write_text(text, encoding="utf-8")
    bare = [OLIVE, "-m", "onnx_udfc.olive", "run", "again.json"]  # and without a package file
    subprocess.run(bare, check=True, capture_output=True, timeout=600, cwd=workflow, env=QUIET)
    (again,) = (workflow / "again").rglob("*.onnx")
    assert again.read_bytes() == (workflow / "cli.onnx").read_bytes()
    made = list((workflow / "out").rglob("*.onnx"))
    assert len(made) == 1
    (workflow / "gated.json").write_text(text.replace('"threads"', '"require": ["sqnr>=200"], "threads"'))
    bare[-1] = "gated.json"  # Olive would end with 0, and leave the file of the run before
    gated = subprocess.run(bare, check=False, capture_output=True, text=True, timeout=600, cwd=workflow, env=QUIET)
    assert (gated.returncode, gated.stderr.splitlines()[-1][:32]) == (1, "onnx-udfc: Olive wrote no model;")
    assert made[0].read_bytes() == (workflow / "cli.onnx").read_bytes()
