"""Networks from onnx.parser text: inputs named in capitals become seeded random weights, V... positive."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnx_udfc.model.network import Network, read


def small_model(text: str, opset: int = 21, seed: int = 0) -> onnx.ModelProto:
    """Parse one graph.

    Args:
        text: of the graph, as onnx.parser reads it; nodes are named n0, n1, ...
        opset: of the standard domain.
        seed: of the weights.
    """
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "custom" : 1]>'
    model = parser.parse_model(f"{header}\n{text}")
    rng = np.random.default_rng(seed)
    for info in [i for i in model.graph.input if i.name[0].isupper()]:
        kind = info.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        values = rng.uniform(0.2, 1.0, shape) * rng.choice([-1, 1], shape if len(shape) > 1 else [1])
        values = np.abs(values) if info.name[0] == "V" else values  # a variance
        values = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(values, info.name))
        model.graph.input.remove(info)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"n{i}"
    return model


def small_network(text: str, opset: int = 21, seed: int = 0) -> Network:
    """The same, in canonical form."""
    return read(small_model(text, opset, seed))
