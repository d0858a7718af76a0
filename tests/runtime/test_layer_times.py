"""What layers take, by onnxruntime's own profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc import compress
from onnx_udfc.errors import ModelError
from onnx_udfc.runtime.layer_times import layer_times

FEED = {"input": np.zeros((1, 1, 8, 8), np.float32)}


def layers_of(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]


def test_every_layer_is_found_again_however_it_was_fused(models: Path) -> None:
    source = models / "digits_resnet_bn.onnx"
    original = onnx.load(source)
    names = layers_of(original)
    assert len(names) == 16
    integers = compress(source, bits=8, activations=8, method="udfc", threads=1).model
    for model in (original, integers):
        found = layer_times(model, names, FEED, seconds=0)
        assert set(found.layers) == set(names)
        assert all(0 < ms < 1000 for ms in found.layers.values())


def test_layers_and_the_rest_are_all_there_is(models: Path) -> None:
    original = onnx.load(models / "digits_resnet_folded.onnx")
    names = layers_of(original)
    few = layer_times(original, names[:1], FEED, seconds=0)
    assert set(few.layers) == set(names[:1])
    assert few.others > sum(few.layers.values())  # fifteen layers are among them


def test_what_does_not_run_is_said(models: Path) -> None:
    original = onnx.load(models / "digits_resnet_folded.onnx")
    with pytest.raises(ModelError, match="onnxruntime cannot run"):
        layer_times(original, [], {"input": np.zeros((1, 3, 8, 8), np.float32)}, seconds=0)
