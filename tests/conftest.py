"""What all tests share: the assets, and a report to show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_udfc.evaluate.report import (
    Fidelity,
    FileReport,
    GroupReport,
    Histogram,
    LayerLoss,
    LayerReport,
    Report,
    Runtime,
    Size,
    SkipReport,
)
from onnx_udfc.options import Options
from onnx_udfc.version import this_tool

ROOT = Path(__file__).resolve().parents[1]


SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--assets", type=Path, help=f"folder with test models and images [{SHARED / 'assets'}]")
    parser.addoption("--realnets", type=Path, help=f"folder with real networks and data [{SHARED / 'realnets'}]")
    parser.addoption("--fuzz", type=int, default=0, help="damaged files in tests/test_fuzz.py, and 3/5 as many graphs")


def _folder(request: pytest.FixtureRequest, name: str) -> Path:
    """A folder that does not come with the repository; tests that need it are skipped where it is not.

    It must be there where it was named; and, with CI=true, where the folder around it is.
    """
    named: Path | None = request.config.getoption(f"--{name}")
    folder = named or SHARED / name
    if not (folder / "manifest.json").is_file():
        reason = f"no {name} in {folder}; say --{name} FOLDER"
        if named or (os.environ.get("CI") == "true" and SHARED.is_dir()):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def assets(request: pytest.FixtureRequest) -> Path:
    """The folder of real models and labelled images."""
    return _folder(request, "assets")


@pytest.fixture(scope="session")
def realnets(request: pytest.FixtureRequest) -> Path:
    """The folder of larger real networks with data to score them on."""
    return _folder(request, "realnets")


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the models that ship with the repository."""
    return ROOT / "models"


def sample_layer(i: int) -> LayerReport:
    counts = tuple((7 * j * (i + 1)) % 50 for j in range(32))
    return LayerReport(
        name=f"/stage{i // 8}/block{i % 8}/Conv",
        op_type="Conv",
        bits=4,
        parameters_before=36_928,
        parameters_after=18_464,
        relative_error=10 ** (-i / 20 - 0.5),
        error_before=0.5,
        error_after=0.05,
        channels_before=64,
        channels_after=32 + i % 3,
        macs_before=1_000_000,
        macs_after=500_000,
        form="Cast(INT4→FLOAT)→Mul",
        histogram=Histogram(-1.0, 1.0, counts, counts[::-1]),
    )


@pytest.fixture
def report() -> Report:
    """A report with everything in it, of 54 layers; names hold what HTML must escape."""
    layers = tuple(sample_layer(i) for i in range(54))
    return Report(
        tool=this_tool(),
        options=Options(prune=0.5, bits=4, skip=("<&'\">*",)).to_dict(),
        before=Size(25_557_032, 4_089_184_256, 102_442_450),
        after=Size(9_102_311, 1_402_113_024, 5_012_345),
        groups=(
            GroupReport("a", 64, 32, ("a",), ("b", "c"), "pruned"),
            GroupReport("s<1>", 256, 256, ("d", "e"), ("f",), "kept", "--prune-stream off", "stream"),
        ),
        layers=layers,
        fidelity=Fidelity("synthetic", 18.25, 0.9925, 0.9375, 32, 1.5),
        runtime=Runtime(21, 10, "1.23.0", ("Weights are unpacked when the file is loaded.",), "Cast(INT4→FLOAT)→Mul"),
        timings={"read": 0.5, "repair": 10.25, "total": 11.0},
        skips=(
            SkipReport("NonMaxSuppression_7", "its channels reach an operator that mixes them", "<script>alert(1)"),
        ),
        warnings=("3 channels of /stage0/block1/Conv were dead",),
        attribution=tuple(
            LayerLoss(x.name, 5.0 + i, 4.0 + i / 2, "output", "more bits there") for i, x in enumerate(layers)
        ),
        peak_memory=1 << 30,
        source=FileReport("in <b>.onnx", 64 * "a", 102_442_450),
        result=FileReport("out.onnx", 64 * "b", 5_012_345),
        versions={"numpy": "2.0"},
        command="onnx-udfc IN.onnx OUT.onnx --prune 0.5 --bits 4",
        created="2026-01-31T12:00:00+00:00",
    )
