"""Temporary files: where there is no room for them, and that all of them go when a process must end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_udfc
from onnx_udfc import compress
from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.peak_memory import peak_memory
from onnx_udfc.outputs import write_text
from onnx_udfc.runtime.kernels import check_runtime
from onnx_udfc.runtime.profiles import profile
from onnx_udfc.runtime.sessions import as_file
from tests.quantized_graphs import network_of

FEED = {"x": np.zeros((1, 8, 6, 6), np.float32)}
LEAST = 4096  # bytes that a file may have where there is no room


def model() -> onnx.ModelProto:
    return network_of("(float[1,8,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (64, 8, 3, 3)}).to_model()


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is written beyond LEAST is lost, as on a full disk."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def opened() -> None:
    with as_file(model().SerializeToString()):
        pass


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("work", [opened, lambda: check_runtime(model()), lambda: profile(model(), FEED, seconds=0.2)])
def test_no_room_is_said_with_what_to_do(work: Callable[[], object]) -> None:
    with pytest.raises(RequestError, match="set TMPDIR to another folder"):
        work()


@pytest.mark.usefixtures("full")
def test_a_report_without_room_has_no_times_and_says_why(models: Path) -> None:
    report = compress(models / "digits_resnet_bn.onnx", bits=8, method="udfc", attribution=True).report
    assert {layer.ms_before for layer in report.layers} == {None}
    assert [w for w in report.warnings if "layers were not timed" in w and "TMPDIR" in w]


@pytest.mark.usefixtures("full")
def test_a_text_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="File too large"):
        write_text(tmp_path / "page.html", "x" * 2 * LEAST)
    assert not list(tmp_path.iterdir())


def test_no_such_place_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(RequestError, match="set TMPDIR to another folder"):
        opened()


def test_all_temporary_files_are_known_to_what_removes_them() -> None:
    package = Path(onnx_udfc.__file__).parent
    users = {path.name for path in package.rglob("*.py") if "import tempfile" in path.read_text(encoding="utf-8")}
    assert users == {"outputs.py"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_modules_in_the_user_s_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    (tmp_path / "json.py").write_text("raise SystemExit('run')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    assert peak_memory(tmp_path / "m.onnx", FEED) is not None
