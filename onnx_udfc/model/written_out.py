"""Functions of a model, and branches whose condition is fixed, written out where they are called.

Exporters that keep modules as functions leave no layer in the main graph; PyTorch before 2.0 wrote a squeeze as an If
on the size of an axis. onnxruntime writes out both when it loads a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import inferred
from onnx_udfc.model.names import Taken, names_in, unique_name
from onnx_udfc.model.plain_operators import computed
from onnx_udfc.model.protos import (
    attribute,
    constants,
    opset_of,
    set_nodes,
    shell,
    skeleton,
    sort_nodes,
    subgraphs,
)

LARGEST = 1 << 14  # bytes of an initializer that may be part of a condition
MOVING = ("Concat", "Gather", "Slice", "Squeeze", "Unsqueeze")  # sizes that are not known pass these
COMPARING: Mapping[str, Callable[..., Any]] = {
    "And": np.logical_and, "Equal": np.equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Not": np.logical_not, "Or": np.logical_or,
}  # fmt: skip

Array = NDArray[Any]


def write_out(model: onnx.ModelProto, functions: bool = True) -> tuple[onnx.ModelProto, list[str]]:
    """The model without calls of its own functions and without If nodes whose condition is known.

    `functions` says whether the former are written out.

    Returns:
        The model, the same if there are none, and notes for the user. What cannot be written out stays.
    """
    notes = []
    if model.functions and functions:
        called, model = {(f.domain, f.name) for f in model.functions}, _without_functions(model)
        gone = called - {(f.domain, f.name) for f in model.functions}
        notes += [f"functions of the model were written out where they are called ({len(gone)})"] if gone else []
    branches = 0
    while taken := _branch(model):
        branches, model = branches + taken[0], taken[1]
    notes += [f"If nodes whose condition is fixed became the branch that runs ({branches})"] if branches else []
    return model, notes


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """All calls written out by onnx, which sees the model without its larger weights; the same model if it fails."""
    light = skeleton(model, LARGEST)
    try:
        inlined = inliner.inline_local_functions(light, convert_version=True)
    except Exception:  # whatever its C++ code raises; among it models that are too large
        return model
    result = shell(model, {"node"})
    del result.functions[:]
    result.functions.extend(inlined.functions)
    known = {(d.domain, d.version) for d in result.opset_import}
    domains = {d.domain for d in result.opset_import}
    result.opset_import.extend(
        d for d in inlined.opset_import if (d.domain, d.version) not in known and d.domain not in domains
    )
    result.graph.node.extend(inlined.graph.node)
    stored = {t.name for t in model.graph.initializer}
    result.graph.initializer.extend(t for t in inlined.graph.initializer if t.name not in stored)
    written = {name for node in result.graph.node for name in node.output} | stored
    infos = [info for info in model.graph.value_info if info.name in written]
    del result.graph.value_info[:]
    result.graph.value_info.extend(infos)
    return result


def _branch(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto] | None:
    """The model with the branches that run in place of the outermost If nodes of a known condition, and how many."""
    asked = [n for n in model.graph.node if n.op_type == "If" and standard(n.domain)]
    if not asked:
        return None
    flags = _conditions(model, {node.input[0] for node in asked if node.input})
    nodes: list[onnx.NodeProto] = []
    found: list[onnx.TensorProto] = []
    taken = Taken(names_in(model.graph))
    count = 0
    for node in model.graph.node:
        flag = flags.get(node.input[0]) if node.op_type == "If" and standard(node.domain) and node.input else None
        body = None if flag is None else attribute(node, "then_branch" if flag else "else_branch")
        if body is None or body.sparse_initializer:
            nodes.append(node)
            continue
        count += 1
        inner, weights = _unwrapped(body, node, taken)
        nodes.extend(inner)
        found.extend(weights)
    if not count:
        return None
    result = shell(model, set())
    set_nodes(result.graph, nodes)
    result.graph.initializer.extend(found)
    set_nodes(result.graph, sort_nodes(result.graph))
    return count, result


def _unwrapped(
    body: onnx.GraphProto, node: onnx.NodeProto, taken: Taken
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights of a branch for the graph around it, where they have names of their own."""
    own = [t.name for t in body.initializer] + [name for inner in body.node for name in inner.output if name]
    written = {name for inner in body.node for name in inner.output}
    names = {name: unique_name(f"{node.output[0]}.{name}", taken) for name in own}
    copies = []
    for end, out in zip(body.output, node.output, strict=False):
        if end.name in written and names[end.name] not in node.output:
            names[end.name] = out
        else:
            copies.append(helper.make_node("Identity", [names.get(end.name, end.name)], [out], f"{out}.copy"))
    copied = onnx.GraphProto(node=body.node, initializer=body.initializer)
    for tensor in copied.initializer:
        tensor.name = names[tensor.name]
    for inner in copied.node:
        inner.name = f"{node.name}.{inner.name}" if inner.name else ""
        _rename(inner, names)
    return [*copied.node, *copies], list(copied.initializer)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Other names for what a node reads and writes, in its subgraphs too."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(node):
        for end in graph.output:
            end.name = names.get(end.name, end.name)
        for inner in graph.node:
            _rename(inner, names)


def _conditions(model: onnx.ModelProto, wanted: set[str]) -> dict[str, bool]:
    """Conditions that follow from constants and from sizes that are fixed."""
    light = skeleton(model, LARGEST)
    del light.graph.value_info[:]  # which may be stale
    small = {name: tensor for name, tensor in constants(light.graph).items() if len(tensor.dims) <= 1}
    known: dict[str, Array] = {name: numpy_helper.to_array(tensor) for name, tensor in small.items()}
    sizes: dict[str, list[int | None]] | None = None
    for node in model.graph.node:
        if node.op_type == "Shape" and standard(node.domain):
            sizes = _sizes(light) if sizes is None else sizes
            if node.input[0] in sizes:
                shape = sizes[node.input[0]][attribute(node, "start", 0) : attribute(node, "end")]
                known[node.output[0]] = np.array([np.nan if n is None else n for n in shape], np.float64)
        elif standard(node.domain) and node.input and all(name in known for name in node.input if name):
            result = _result(node, [known[name] if name else None for name in node.input], opset_of(model) or 1)
            if result is not None:
                known[node.output[0]] = result
    flags = {name: known[name] for name in wanted if name in known and known[name].size == 1}
    return {name: bool(value.reshape(())) for name, value in flags.items() if not _unknown(value)}


def _unknown(value: Array | None) -> bool:
    return value is not None and value.dtype.kind == "f" and bool(np.any(np.isnan(value)))


def _result(node: onnx.NodeProto, values: list[Array | None], opset: int) -> Array | None:
    """What a node computes; None where that is not known."""
    if node.op_type == "Identity":
        return values[0]
    if node.op_type == "Size":  # of a shape: the rank
        return None if values[0] is None else np.array(values[0].size)
    if any(_unknown(v) for v in values) and node.op_type not in MOVING:
        return None
    try:
        if node.op_type in COMPARING:
            return np.asarray(COMPARING[node.op_type](*values))
        results = computed(node, opset, values)
    except Exception:  # whatever numpy raises for values that do not fit
        return None
    return None if results is None else results[0]


def _sizes(light: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Shapes as far as they are known, of what has a known rank."""
    graph = inferred(light).graph
    kinds = {i.name: i.type.tensor_type for i in [*graph.value_info, *graph.input, *graph.output]}
    return {
        name: [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
        for name, kind in kinds.items()
        if kind.HasField("shape")
    }
