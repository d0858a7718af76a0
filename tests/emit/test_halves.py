"""Weights that are stored as 16-bit floats and cast where they are used stay so: otherwise the file grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_udfc import compress
from tests.emit.test_notes_against_the_loaded_graph import loaded
from tests.quantized_graphs import run
from tests.small_graphs import small_model


def stored_in_half() -> onnx.ModelProto:
    text = """g (float[N,3,12,12] x, float16[48,3,3,3] V, float16[48,48,3,3] W, float[6,48,1,1] U)
        => (float[N,6,8,8] y) {
        v = Cast<to = 1>(V) a = Conv(x, v) r = Relu(a)
        w = Cast<to = 1>(W) b = Conv(r, w) s = Relu(b) y = Conv(s, U) }"""
    model = small_model(text)
    for tensor in model.graph.initializer[:2]:
        values = onnx.numpy_helper.to_array(tensor)
        width = float(np.prod(tensor.dims[1:])) ** 0.5
        tensor.CopyFrom(onnx.numpy_helper.from_array((values / width).astype(np.float16), tensor.name))
    return model


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in model.graph.initializer}


def test_nothing_asked_changes_nothing() -> None:
    model = stored_in_half()
    result = compress(model, bits=32).model
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)}
    np.testing.assert_array_equal(run(model, x)[0], run(result, x)[0])
    assert result.ByteSize() < 1.02 * model.ByteSize() + 500
    assert sorted(kinds(result).values()) == [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT16]


@pytest.mark.parametrize("asked", [{"prune": 0.25}, {"bits": 8}, {"bits": 8, "activations": 8}])
def test_what_is_asked_to_be_smaller_is(asked: dict[str, Any]) -> None:
    model = stored_in_half()
    result = compress(model, method="none", **asked).model
    assert result.ByteSize() < 0.8 * model.ByteSize()
    stored = kinds(result)
    if "bits" not in asked:
        cast = {node.output[0]: node.input[0] for node in result.graph.node if node.op_type == "Cast"}
        assert [stored[cast["v"]], stored[cast["w"]], stored["U"]] == [TensorProto.FLOAT16] * 2 + [TensorProto.FLOAT]
        assert "Cast" not in loaded(result)


def test_values_that_16_bits_cannot_hold_stay() -> None:
    text = """g (float[N,3,12,12] x, float16[8,3,3,3] V, float[8] B, float[8] M, float[8] VV)
        => (float[N,8,10,10] y) { v = Cast<to = 1>(V) a = Conv(x, v) y = BatchNormalization(a, B, M, M, VV) }"""
    model = small_model(text)
    next(t for t in model.graph.initializer if t.name == "B").CopyFrom(
        onnx.numpy_helper.from_array(np.full(8, 1e6, np.float32), "B")
    )
    result = compress(model, bits=32).model  # the folded batch norm makes the weights larger than 65,504
    assert set(kinds(result).values()) == {TensorProto.FLOAT}
