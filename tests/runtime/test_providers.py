"""A provider is what runs, not what was compiled in."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.validate import validate
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def compiled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An onnxruntime that says it has everything, and falls back to the CPU."""
    model_session = ort.InferenceSession

    def falls_back(content: Any, options: Any, providers: list[str]) -> ort.InferenceSession:
        return model_session(content, options, providers=providers[-1:])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    return tmp_path / "capi"


def model() -> bytes:
    return bytes(small_model("g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }").SerializeToString())


@pytest.mark.parametrize(("provider", "name"), [("cuda", ALL[1]), ("tensorrt", ALL[0])])
@pytest.mark.usefixtures("compiled_in")
def test_a_fallback_is_an_error(provider: str, name: str) -> None:
    assert open_session(model(), "cpu").get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(
        RequestError, match=f"--provider {provider}: {name} is in this onnxruntime, but it does not load"
    ):
        open_session(model(), provider)


def test_the_missing_library_is_named(compiled_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (compiled_in / "libonnxruntime_providers_cuda.so").write_bytes(b"")

    def load(path: str) -> None:
        raise OSError(f"libcublasLt.so.13: cannot open shared object file: needed by {path}")

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(RequestError, match=r"but libcublasLt\.so\.13 is missing") as caught:
        open_session(model(), "cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("compiled_in")
def test_validate_does_not_fall_back_either() -> None:
    with pytest.raises(RequestError, match="--provider cuda"):
        validate(model(), model(), provider="cuda")


def test_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RequestError, match="this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu"):
        open_session(model(), "cuda")
