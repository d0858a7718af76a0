"""What a trace costs: sessions of onnxruntime that it opens, patches that it gathers, shapes that it resolves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from onnx_udfc import compress
from onnx_udfc.channels import shapes
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.options import Options
from onnx_udfc.original import read_original, traced
from onnx_udfc.repair import reference

MODELS = Path(__file__).resolve().parents[1] / "models"
ONCE = 61  # sessions that a trace of the network opened at first: one for each layer and step
IMAGES = 160  # that it opened them for: layers that take long get one of their own


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts sessions, layers whose patches are gathered, and networks whose shapes are resolved, from now on."""
    found = Counter[str]()

    def count(owner: Any, attribute: str, key: str) -> None:
        real = getattr(owner, attribute)

        def call(*args: Any, **given: Any) -> Any:
            found[key] += 1
            return real(*args, **given)

        monkeypatch.setattr(owner, attribute, call)

    count(onnxruntime, "InferenceSession", "sessions")
    count(reference, "patches", "patches")
    count(shapes, "_resolve", "resolved")
    return found


@pytest.mark.parametrize("name", ["digits_resnet_bn", "digits_resnet_folded"])
def test_a_trace_opens_few_sessions_and_does_nothing_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch)
    options = Options(prune=0.5, bits=4, images=IMAGES, threads=1)
    original = read_original(str(MODELS / f"{name}.onnx"), options)
    run = traced(original, options, balanced_inputs, lambda _: None)
    assert len(run.reference.layers) == len(original.network.layers) == 16
    assert 0 < found["sessions"] <= ONCE // 3
    assert 0 < found["patches"] <= 16
    assert found["resolved"] == 1


@pytest.mark.parametrize(
    ("setting", "networks", "sessions"),
    [
        ({"prune": 0.5, "bits": 4}, 2, ONCE // 3),
        ({"bits": 8, "activations": 8}, 1, 48),
        ({"prune": 0.3, "bits": 8, "activations": 8}, 2, 48),
        ({"budget": {"bytes": "0.2"}, "bits": "auto"}, 1, ONCE // 3),
    ],
    ids=str,
)
def test_a_compression_resolves_the_shapes_of_a_network_once(
    setting: dict[str, Any], networks: int, sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for the original, and once more for the result where it has other shapes."""
    found = counted(monkeypatch)
    compress(MODELS / "digits_resnet_bn.onnx", Options(threads=1, images=IMAGES, **setting))
    assert found["resolved"] == networks
    assert 0 < found["sessions"] <= sessions
    assert found["patches"] <= 16
