"""The ways of models above 2 GB, taken by a small one because the limits are lowered.

A real one is compressed by `python -m tools large_model`, which takes minutes and several gigabytes.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_udfc.errors import CheckError
from onnx_udfc.evaluate import final_check
from onnx_udfc.evaluate.validate import validate
from onnx_udfc.model import files as model_io
from onnx_udfc.model import protos, saving
from onnx_udfc.options import Judging, Options
from onnx_udfc.pipeline import Result, compress
from onnx_udfc.runtime.sessions import open_session
from tools.measure.large_model import SIZE, build, runs
from tools.measure.large_model import compress as run_command

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3,12,12] x) => (float[N,40] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu (a)
    b = Conv <pads=[1,1,1,1]> (r, w2)  s = Relu (b)
    p = GlobalAveragePool (s)  f = Flatten (p)  y = Gemm (f, w3)
}"""
SHAPES = {"w1": (160, 3, 3, 3), "w2": (200, 160, 3, 3), "w3": (200, 40)}
MIB = 1 << 20
SETTINGS = [
    {"prune": 0.3, "bits": 8, "method": "udfc"},
    {"prune": 0.1, "method": "udfc"},
    {"bits": 8, "method": "none"},
    {"prune": 0.2, "bits": 4, "bits_uniform": True, "allocate": "global"},  # an average: of unequal files
    {"prune": 0.2, "bits": 8, "activations": 8, "allocate": "uniform"},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of 1.2 MB with its weights in a file beside it."""
    rng, model = np.random.default_rng(0), parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save_model(model, tmp_path / "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    return tmp_path / "in.onnx"


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which that model is large: its weights are mapped, and what is written has external data."""
    for module in ("model.saving", "evaluate.final_check"):
        monkeypatch.setattr(importlib.import_module(f"onnx_udfc.{module}"), "ROOMY", 1)
    monkeypatch.setattr(final_check, "HEAVY", 1)
    monkeypatch.setattr(protos, "INLINE_TENSOR", 1 << 14)
    monkeypatch.setattr(model_io, "resolve", functools.partial(protos.resolve, inline_total=0))
    monkeypatch.setattr(saving, "LARGEST_FILE", MIB // 2)


def options(setting: dict[str, object]) -> Options:
    return Options(threads=1, images=8, align=1, **setting)  # type: ignore[arg-type]


def outputs(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    return np.asarray(open_session(path, threads=1).run(None, {"x": x})[0])


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_result_is_the_same(
    source: Path, tmp_path: Path, setting: dict[str, object], request: pytest.FixtureRequest
) -> None:
    plain = compress(source, options(setting))
    plain.save(tmp_path / "plain.onnx")
    request.getfixturevalue("lowered")
    large = compress(source, options(setting))
    large.save(tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").exists() == (setting.get("bits") is None)
    assert np.array_equal(outputs(tmp_path / "large.onnx"), outputs(tmp_path / "plain.onnx"))
    assert plain.report.fidelity is not None
    assert large.report.fidelity is not None
    assert large.report.fidelity.sqnr_db == pytest.approx(plain.report.fidelity.sqnr_db, abs=0.1)
    assert large.report.after.bytes == pytest.approx(_size(tmp_path / "large.onnx"), rel=0.02)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))


@pytest.mark.usefixtures("lowered")
def test_attribution_and_validation_of_large_models(source: Path, tmp_path: Path) -> None:
    result: Result = compress(source, Options(prune=0.1, method="udfc", threads=1, images=8, attribution=True))
    assert len(result.report.attribution) == 3
    result.save(tmp_path / "out.onnx")
    found = validate(source, tmp_path / "out.onnx", Judging(limit=8, seconds=0, memory=False))
    assert found.bytes.compressed == _size(tmp_path / "out.onnx")
    assert found.kernels is not None
    assert len(found.kernels.floating) == 3


@pytest.mark.usefixtures("lowered")
def test_a_large_result_that_does_not_load_is_refused(source: Path) -> None:
    loaded = model_io.load(source)
    network = importlib.import_module("onnx_udfc.model.network").read(loaded.model)
    broken = network.to_model()
    broken.graph.node[0].op_type, broken.graph.node[0].domain = "NoSuchOperator", "custom"
    broken.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    with pytest.raises(CheckError, match="does not load"):
        final_check.check_result(source, network, broken, Options(threads=1))


def test_the_tool_builds_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure.large_model.WIDTHS", (4, 8, 8, 16, 16))
    monkeypatch.setattr("tools.measure.large_model.HIDDEN", 32)
    path = build(tmp_path, 5e-5)
    found = run_command(path, tmp_path / "out.onnx", ["--bits", "8", "--method", "none", "--quiet"])
    assert found.before == _size(path) >= 50_000
    assert found.after < found.before
    assert found.memory > 0
    assert runs(tmp_path / "out.onnx")
    assert SIZE == 32
