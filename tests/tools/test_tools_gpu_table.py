"""tools.measure.gpu_table: the files are made here, and run by nothing but numpy and onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tools.measure import gpu_files, gpu_table
from tools.measure.gpu_files import FILES, ResNet50

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_folded.onnx"
ALONE = """
import runpy, sys
for name in ("onnx", "onnx_udfc", "tools", "onnx_graphsurgeon"):
    sys.modules[name] = None
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gpu")
    gpu_files.make(made, None, {"digits": lambda: onnx.load(DIGITS)})
    return made


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "gpu_table.py"), "run", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_dry_run_on_the_processor(folder: Path) -> None:
    (network,) = json.loads((folder / gpu_table.LIST).read_text())
    labels = [row["label"] for row in network["files"]]
    assert len(labels) == sum(1 + len(file.settings) for file in FILES)
    done = run(folder, "--provider", "cpu", "--batches", "1", "3", "--seconds", "0.01")
    assert (done.returncode, done.stderr) == (0, "")
    head, _, *rows = done.stdout.splitlines()
    assert "nodes not on cpu / copies" in head
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["digits", label] for label in labels]
    for row in cells:
        assert row[3] == "0 / 0"
        assert all(0 < float(ratio) < 100 for ratio in row[4:6])
        assert float(row[6]) < 1e-3


def test_a_provider_that_does_not_load_is_one_line(folder: Path) -> None:
    done = run(folder, "--provider", "tensorrt")
    assert done.returncode == 1
    assert done.stderr == "this onnxruntime has no TensorrtExecutionProvider: install onnxruntime-gpu\n"


def test_no_time_is_told(folder: Path) -> None:
    done = run(folder, "--provider", "cpu", "--minutes", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("no time was left for 12 rows")


def test_a_profile_of_a_gpu_is_counted(tmp_path: Path) -> None:
    nodes = [("a", "Conv", "CUDA"), ("m", "MemcpyToHost", "CUDA"), ("b", "DequantizeLinear", "CPU")]
    events = [
        {"name": f"{n}_kernel_time", "args": {"op_name": op, "provider": f"{p}ExecutionProvider"}} for n, op, p in nodes
    ]
    (tmp_path / "p.json").write_text(json.dumps([{"name": "model_run"}, *events]))
    runner = gpu_table.Runner(tmp_path, "cuda", [1], 0.0)
    assert runner.placed(str(tmp_path / "p.json")) == (1, 1)
    assert not list(tmp_path.iterdir())


def test_the_resnet_50_is_one() -> None:
    model = ResNet50().model()
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert len(weights) == 53
    assert sum(t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3] for t in weights) == 23_454_912
