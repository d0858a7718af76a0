"""A provider is what runs, not what was compiled in."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc.api import compress, sweep, validate
from onnx_udfc.channels.groups import Channels, find_groups
from onnx_udfc.cli.commands import app, run
from onnx_udfc.decide.footprint import Footprint, footprint
from onnx_udfc.decide.latency_table import Timing, layer_times
from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.peak_memory import peak_memory
from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.kernels import check_runtime
from onnx_udfc.runtime.profiles import fallbacks
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import open_session
from onnx_udfc.runtime.walk import Pieces
from tests.small_graphs import small_model

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def compiled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An onnxruntime that says it has everything, and falls back to the CPU."""
    model_session = ort.InferenceSession

    def falls_back(content: Any, options: Any, providers: list[Any], enable_fallback: int) -> ort.InferenceSession:
        assert not enable_fallback  # its message would go to standard output
        return model_session(content, options, providers=providers[-1:])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    return tmp_path / "capi"


def model() -> bytes:
    return bytes(small_model("g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }").SerializeToString())


def timed_network() -> tuple[Network, Channels, Footprint]:
    network = read(small_model("g (float[1,3,4,4] x, float[5,3,4,4] W) => (float[1,5,1,1] y) { y = Conv(x, W) }"))
    channels = find_groups(network)
    return network, channels, footprint(network, channels, channels.groups)


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


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.usefixtures("compiled_in")
def test_nothing_falls_back(provider: str, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(model())
    where = Provider(provider)
    said = f"^(--provider {provider}|provider='{provider}'): .* is in this onnxruntime, but"
    feed = {"x": np.zeros((1, 2), np.float32)}
    for work in (
        lambda: validate(path, path, provider=provider),
        lambda: compress(path, bits=8, provider=provider),
        lambda: sweep(path, tmp_path / "all", provider=provider),
        lambda: check_runtime(path, where),
        lambda: fallbacks(path, feed, where),
        lambda: Pieces(where).piece(onnx.load(path)),
        lambda: layer_times(*timed_network(), {}, Timing(provider=where)),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            work()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "all").exists()
    assert peak_memory(path, feed, 1, where) is None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("command", [["validate"], [], ["sweep"]])
def test_the_command_line_is_exit_1_with_one_line(
    command: list[str], provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path, out = tmp_path / "in.onnx", tmp_path / "out"
    path.write_bytes(model())
    words = [*command, str(path), str(path if command == ["validate"] else out), "--provider", provider, "--quiet"]
    assert run(lambda: app.main(words, standalone_mode=False), False) == 1
    printed = capsys.readouterr()
    name = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[provider]
    line = f"onnx-udfc: --provider {provider}: this onnxruntime has no {name}; install onnxruntime-gpu\n"
    assert (printed.out, printed.err) == ("", line)
    assert not out.exists()


def test_an_error_for_want_of_a_library_names_it(compiled_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with TensorRT, whose registration fails where its libraries are not."""
    (compiled_in / "libonnxruntime_providers_tensorrt.so").write_bytes(b"")

    def load(path: str) -> None:
        raise OSError(f"libnvinfer.so.10: cannot open shared object file: needed by {path}")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(ort, "InferenceSession", fails)
    with pytest.raises(RequestError, match=r"TensorrtExecutionProvider is in .*, but libnvinfer\.so\.10 is missing"):
        open_session(model(), "tensorrt")


def test_settings_go_to_the_provider_that_has_them() -> None:
    settings = {"device_id": "1", "trt_fp16_enable": "1", "use_tf32": "0"}
    assert Provider("tensorrt", settings).listed() == [
        ("TensorrtExecutionProvider", {"device_id": "1", "trt_fp16_enable": "1"}),
        ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"}),
        "CPUExecutionProvider",
    ]
    assert Provider("cuda", {"use_tf32": "0"}).listed()[0] == ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert CPU.listed() == ["CPUExecutionProvider"]


@pytest.mark.usefixtures("compiled_in")
def test_an_error_of_a_provider_is_not_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nmore")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    with pytest.raises(RequestError) as caught:
        open_session(model(), Provider("cuda", {"use_tf32": "0"}))
    assert str(caught.value) == (
        "--provider cuda --provider-option use_tf32=0: no session of the model (CUDA failure 100: no CUDA-capable"
        " device is detected more)"
    )


def test_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RequestError, match="this onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu"):
        open_session(model(), "cuda")
