"""What a model is once it was read: its operators, and that it still computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators of the nodes that are left, in their order."""
    return [node.op_type for node in read(load(model).model).to_model().graph.node]


def assert_same(model: onnx.ModelProto, x: NDArray[Any], rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """The first output for an input `x` is what it was."""
    before, after = run(model, {"x": x})[0], run(read(load(model).model).to_model(), {"x": x})[0]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=rtol, atol=atol)
