"""Small networks with batch norm, with weights that a trained network could have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.quantized_graphs import fetch
from tests.small_graphs import small_model


def norm(name: str, channels: int) -> str:
    """Declares the parameters of one batch norm: S (γ), D (β), M (mean), V (variance) and its number."""
    return ", ".join(f"float[{channels}] {p}{name}" for p in "SDMV")


RESIDUAL = f"""g (float[N,3,12,12] x, float[8,3,3,3] W1, {norm("1", 8)}, float[6,8,3,3] W2, {norm("2", 6)},
    float[8,6,3,3] W3, {norm("3", 8)}, float[6,8,3,3] W4, {norm("4", 6)}, float[8,6,3,3] W5, {norm("5", 8)},
    float[5,8] W6, float[5] B6) => (float[N,5] y) {{
    a1 = Conv<pads = [1,1,1,1]>(x, W1) b1 = BatchNormalization(a1, S1, D1, M1, V1) r1 = Relu(b1)
    a2 = Conv<pads = [1,1,1,1]>(r1, W2) b2 = BatchNormalization(a2, S2, D2, M2, V2) r2 = Relu(b2)
    a3 = Conv<pads = [1,1,1,1]>(r2, W3) b3 = BatchNormalization(a3, S3, D3, M3, V3) s3 = Add(b3, r1) r3 = Relu(s3)
    a4 = Conv<pads = [1,1,1,1]>(r3, W4) b4 = BatchNormalization(a4, S4, D4, M4, V4) r4 = Relu(b4)
    a5 = Conv<pads = [1,1,1,1]>(r4, W5) b5 = BatchNormalization(a5, S5, D5, M5, V5) s5 = Add(r3, b5) r5 = Relu(s5)
    p = GlobalAveragePool(r5) f = Flatten(p) y = Gemm<transB = 1>(f, W6, B6) }}"""

CHAIN = f"""g (float[N,3,12,12] x, float[16,3,3,3] W1, {norm("1", 16)}, float[12,16,3,3] W2, {norm("2", 12)},
    float[5,12,3,3] W3, float[5] B3) => (float[N,5,6,6] y) {{
    a1 = Conv(x, W1) b1 = BatchNormalization(a1, S1, D1, M1, V1) r1 = Relu(b1)
    a2 = Conv(r1, W2) b2 = BatchNormalization(a2, S2, D2, M2, V2) r2 = Relu(b2)
    y = Conv(r2, W3, B3) }}"""


def scaled_model(text: str, seed: int = 0, opset: int = 21) -> onnx.ModelProto:
    """Parse a graph as `small_model` does; weights keep the variance, batch norms get plausible parameters.

    Args:
        text: weights are named W…, the parameters of batch norms S (γ), D (β), M (mean) and V (variance).
        seed: of all values.
        opset: of the standard domain.
    """
    model = small_model(text, opset, seed)
    rng = np.random.default_rng(seed + 1)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 or tensor.name[0] in "SDMVB":
            values = _plausible(tensor.name[0], tuple(tensor.dims), rng)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    return model


def _plausible(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if kind == "S":
        signs: NDArray[np.float64] = rng.choice(np.array([1.0, 1.0, 1.0, -1.0]), shape)
        return rng.uniform(0.5, 1.5, shape) * signs
    if kind == "V":
        return rng.uniform(0.5, 2, shape)
    if kind in "DMB":
        return rng.normal(0, 0.3, shape)
    return rng.normal(0, math.sqrt(2 / max(1, math.prod(shape[1:]))), shape)


def parameter(model: onnx.ModelProto, name: str) -> NDArray[np.float64]:
    """A weight in float64."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor).astype(np.float64)


def with_parameters(model: onnx.ModelProto, values: Mapping[str, NDArray[np.floating]]) -> onnx.ModelProto:
    """A copy with other weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return copy


def settled(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy whose batch norms hold the statistics of these inputs, as if it had been trained on them."""
    for index, node in enumerate(n for n in model.graph.node if n.op_type == "BatchNormalization"):
        value = fetch(model, node.input[0], dict(feeds)).astype(np.float64)
        axes = (0, *range(2, value.ndim))
        model = with_parameters(model, {f"M{index + 1}": value.mean(axes), f"V{index + 1}": value.var(axes)})
    return model
