"""Graphs as graphsurgeon holds them: their order, their constants."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

Array = NDArray[Any]

FLOATS = ("float16", "bfloat16", "float32", "float64")
# Operators that work value by value: on one tensor, and on several that are spread to one shape.
BY_VALUE = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
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


def bypass(node: gs.Node, source: gs.Tensor | None = None) -> None:
    """Lets the readers of a node's first output read something else: what the node reads, if nothing is named."""
    out, source = node.outputs[0], node.inputs[0] if source is None else source
    for reader in list(out.outputs):
        for slot, tensor in enumerate(reader.inputs):
            if tensor is out:
                reader.inputs[slot] = source


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


def copy_graph(graph: gs.Graph, nodes: dict[int, gs.Node]) -> gs.Graph:
    """A copy with its own nodes and tensors; fills `nodes`: id of a node → its copy."""
    tensors: dict[int, gs.Tensor] = {}
    names: OrderedDict[str, gs.Tensor] = OrderedDict()
    for tensor in [*graph.inputs, *graph.outputs, *(t for n in graph.nodes for t in [*n.inputs, *n.outputs])]:
        if id(tensor) not in tensors:
            tensors[id(tensor)] = names[tensor.name] = _copy_tensor(tensor)
    for node in graph.nodes:
        inputs, outputs = [tensors[id(t)] for t in node.inputs], [tensors[id(t)] for t in node.outputs]
        nodes[id(node)] = node.copy(inputs, outputs, names)
    return gs.Graph(
        [nodes[id(n)] for n in graph.nodes], [tensors[id(t)] for t in graph.inputs],
        [tensors[id(t)] for t in graph.outputs], graph.name, graph.doc_string, graph.opset,
        list(graph.import_domains), ir_version=graph.ir_version,
    )  # fmt: skip


def _copy_tensor(tensor: gs.Tensor) -> gs.Tensor:
    """A tensor without users; a constant shares its array."""
    if isinstance(tensor, gs.Constant):
        return gs.Constant(tensor.name, tensor._values)
    shape = None if tensor.shape is None else list(tensor.shape)
    return gs.Variable(tensor.name, tensor.dtype, shape, tensor.type)
