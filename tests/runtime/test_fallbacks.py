"""Nodes that run elsewhere than asked are known by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx_udfc.runtime.profiles import Fallbacks, fallbacks, read_profile
from onnx_udfc.runtime.providers import CPU
from tests.quantized_graphs import image, two_convs

CUDA = "CUDAExecutionProvider"


def event(name: str, op: str, provider: str, category: str = "Node") -> dict[str, Any]:
    return {"cat": category, "name": name, "args": {"op_name": op, "provider": provider}}


def test_a_profile_of_a_gpu() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 1},
        event("conv1_fence_before", "Conv", CUDA),
        event("Memcpy_token_1_kernel_time", "MemcpyToHost", CUDA),
        event("bias.dequantize_kernel_time", "DequantizeLinear", "CPUExecutionProvider"),
        event("Memcpy_token_2_kernel_time", "MemcpyFromHost", CUDA),
        event("conv1_kernel_time", "Conv", CUDA),
        event("other.dequantize_kernel_time", "DequantizeLinear", "CPUExecutionProvider"),
        event("shape_kernel_time", "Shape", "CPUExecutionProvider"),
    ]
    assert read_profile(events, CUDA) == Fallbacks(
        ("bias.dequantize", "other.dequantize", "shape"), {"DequantizeLinear": 2, "Shape": 1}, 2
    )


def test_a_real_profile_is_read_and_removed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = two_convs().to_model()
    assert fallbacks(model, image(), CPU, 1) == Fallbacks((), {}, 0)
    assert list(tmp_path.iterdir()) == []
