"""Constant nodes and constant expressions become initializers; every constant gets one user."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnx_udfc.carry import Origin, sorted_nodes
from onnx_udfc.layers import unique_name

Array = NDArray[Any]

FOLDABLE = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Clip",
        "Concat",
        "Div",
        "Equal",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "MatMul",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Sign",
        "Size",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
        "ConstantOfShape",
    ]
)
STORAGE = ("int8", "uint8", "int4", "uint4", "int2", "uint2")
LARGEST = 1 << 28


def fold_constants(graph: gs.Graph, origin: Origin) -> None:
    """Replaces Constant nodes and expressions over constants by initializers, names kept.

    Left alone: DequantizeLinear and Cast from an integer storage type to float (a weight that is compressed already),
    anything random, anything with a subgraph, results of more than 2^28 elements.
    """
    outputs = {id(t) for t in graph.outputs}
    folded: set[int] = set()
    for node in sorted_nodes(graph):
        values = None if any(id(t) in outputs for t in node.outputs) else _evaluate(node, graph, origin)
        if values is not None:
            for tensor, value in zip(list(node.outputs), values, strict=True):
                tensor.inputs.clear()
                tensor.to_constant(value)
            node.inputs.clear()
            folded.add(id(node))
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in folded]


def _evaluate(node: gs.Node, graph: gs.Graph, origin: Origin) -> list[Array] | None:
    """The outputs of a node over constants, or None where it is not one or should not be folded."""
    if node.domain or any(t.is_empty() for t in node.outputs):
        return None
    if node.op == "Constant":
        return _constant_value(node)
    if node.op not in FOLDABLE or not all(isinstance(t, gs.Constant) or t.is_empty() for t in node.inputs):
        return None
    if any(isinstance(t, gs.Constant) and isinstance(t._values, SparseValues) for t in node.inputs):
        return None
    if node.op == "Cast" and str(node.inputs[0].dtype) in STORAGE:
        return None
    return _run(node, graph, origin)


def _constant_value(node: gs.Node) -> list[Array] | None:
    """The value of a Constant node, whichever attribute holds it."""
    if len(node.attrs) != 1:
        return None
    name, value = next(iter(node.attrs.items()))
    if name == "value" and isinstance(value, gs.Constant):
        return [value.values]
    types: dict[str, Any] = {
        "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64,
        "value_string": object, "value_strings": object,
    }  # fmt: skip
    return [np.asarray(value, types[name])] if name in types else None


def _run(node: gs.Node, graph: gs.Graph, origin: Origin) -> list[Array] | None:
    """Evaluates one node by the reference implementation of its operator."""
    arrays = [None if t.is_empty() else t.values for t in node.inputs]
    if _too_large(node, arrays):
        return None
    from onnx.reference import ReferenceEvaluator  # slow to import, and most files have no constant expressions

    proto = origin.nodes[node.name]
    inputs = {t.name: a for t, a in zip(node.inputs, arrays, strict=True) if a is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    result_infos = [onnx.ValueInfoProto(name=t.name) for t in node.outputs]
    model = helper.make_model(
        helper.make_graph([proto], "constant", infos, result_infos),
        opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=origin.model.ir_version,
    )  # fmt: skip
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, inputs)
    except Exception:
        return None
    return [np.asarray(r) for r in results]


def _too_large(node: gs.Node, arrays: list[Array | None]) -> bool:
    """Whether the result of an operator that makes large tensors from small ones would be too large."""
    if node.op == "ConstantOfShape" and arrays[0] is not None:
        return bool(np.prod(arrays[0].astype(np.float64)) > LARGEST)
    if node.op == "Expand" and arrays[1] is not None:
        return bool(np.prod(np.maximum(arrays[1], 1).astype(np.float64)) > LARGEST)
    if node.op == "Tile" and arrays[0] is not None and arrays[1] is not None:
        return bool(arrays[0].size * np.prod(arrays[1].astype(np.float64)) > LARGEST)
    if node.op == "Range" and all(a is not None for a in arrays):
        start, limit, delta = (float(np.asarray(a).reshape(())) for a in arrays)
        return delta == 0 or (limit - start) / delta > LARGEST
    return False


def unshare(graph: gs.Graph, origin: Origin) -> None:
    """Gives every input slot of a top-level node its own constant, so that writing to one changes no other user.

    The first user keeps the name, unless a subgraph or a graph output uses the constant too. The arrays stay shared.
    """
    top = {id(node) for node in graph.nodes}
    ends = {id(t) for t in graph.outputs}
    names = set(graph.tensors())
    seen: set[int] = set()
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant):
                continue
            foreign = id(tensor) in ends or any(id(user) not in top for user in tensor.outputs)
            if not foreign and id(tensor) not in seen:
                seen.add(id(tensor))
                continue
            copy = gs.Constant(unique_name(f"{tensor.name}.{node.name}", names), tensor._values)
            origin.shared[copy.name] = origin.shared[tensor.name] = tensor.name
            node.inputs[slot] = copy


def is_lazy(tensor: gs.Constant) -> bool:
    """Whether the values have not been read yet."""
    return isinstance(tensor._values, LazyValues)
