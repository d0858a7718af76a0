"""What a trace costs: sessions of onnxruntime that it opens, patches that it gathers, shapes that it resolves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from onnx_udfc.channels import shapes
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.options import Options
from onnx_udfc.original import read_original, traced
from onnx_udfc.repair import reference

MODELS = Path(__file__).resolve().parents[1] / "models"
ONCE = 61  # sessions that a trace of the network opened at first: one for each layer and step


@pytest.mark.parametrize("name", ["digits_resnet_bn", "digits_resnet_folded"])
def test_a_trace_opens_few_sessions_and_does_nothing_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Counter[str]()

    def counted(owner: Any, attribute: str, key: str) -> None:
        real = getattr(owner, attribute)

        def call(*args: Any, **given: Any) -> Any:
            found[key] += 1
            return real(*args, **given)

        monkeypatch.setattr(owner, attribute, call)

    counted(onnxruntime, "InferenceSession", "sessions")
    counted(reference, "patches", "patches")
    counted(shapes, "_resolve", "resolved")
    options = Options(prune=0.5, bits=4, threads=1)
    original = read_original(str(MODELS / f"{name}.onnx"), options)
    run = traced(original, options, balanced_inputs, lambda _: None)
    assert len(run.reference.layers) == len(original.network.layers) == 16
    assert 0 < found["sessions"] <= ONCE // 3
    assert 0 < found["patches"] <= 16
    assert found["resolved"] <= 2, "once for the channels, once for what may be tried where inputs are chosen"
