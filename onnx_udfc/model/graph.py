"""Graphs as graphsurgeon holds them: their order, their constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

Array = NDArray[Any]

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Operators whose outputs hold values of their inputs and nothing else.
MOVES = frozenset(("Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Identity", "Split", "Flatten"))


def constant_input(node: gs.Node) -> gs.Constant | None:
    """The only constant among the two inputs of an element-wise node, or None."""
    constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
    return constants[0] if len(node.inputs) == 2 and len(constants) == 1 else None


def is_dense(tensor: gs.Tensor) -> bool:
    """Whether the tensor is a constant of a float type, stored densely."""
    if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, gs.ir.tensor.SparseValues):
        return False
    return str(tensor.dtype) in FLOATS


def position(graph: gs.Graph, node: gs.Node) -> int:
    """The index of this very node in the graph (list.index would compare whole nodes)."""
    return next(i for i, other in enumerate(graph.nodes) if other is node)


def peek(constant: gs.Constant) -> Array:
    """The values of a constant, which does not keep them where it can read them again."""
    held = constant._values
    array: Array = held.load() if isinstance(held, LazyValues) else constant.values
    return array


def standard(domain: str | None) -> bool:
    """Whether the domain is the one of the standard operators, which has two names."""
    return not domain or domain == "ai.onnx"


def is_closed(shape: Any) -> bool:
    """Whether a shape is fixed."""
    return shape is not None and all(isinstance(d, int | np.integer) and d >= 0 for d in shape)
