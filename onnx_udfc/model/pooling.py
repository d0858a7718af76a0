"""Means over both axes of space, written as the pooling that they are: onnxruntime has an integer kernel for that."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import FLOATS
from onnx_udfc.model.names import Taken, taken_in, unique_name
from onnx_udfc.model.patterns import listed, rank_of, writer

PICTURE = 4  # axes of a tensor that is pooled


def write_pooling(graph: gs.Graph, kept: set[str]) -> None:
    """Writes ReduceMean over the last two of four axes as GlobalAveragePool, in place; also where it is done twice.

    `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    if any(str(tensor.dtype) == "float64" for tensor in graph.tensors().values()):
        return  # onnxruntime has no kernel
    names: Taken | None = None
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        nodes.append(node)
        if node.op != "ReduceMean" or node.domain:
            continue
        source = _pooled(node, kept)
        if source is None:
            continue
        dropped = not node.attrs.get("keepdims", 1)
        node.op, node.inputs = "GlobalAveragePool", [source]
        node.attrs.clear()
        if dropped:
            names = taken_in(graph) if names is None else names
            name, out = unique_name(f"{node.name}.flatten", names), node.outputs[0]
            node.outputs = [gs.Variable(unique_name(f"{node.name}.pooled", names), out.dtype)]
            nodes.append(gs.Node("Flatten", name, {"axis": 1}, [node.outputs[0]], [out]))
    graph.nodes[:] = [node for node in nodes if node.outputs]


def _pooled(node: gs.Node, kept: set[str]) -> gs.Tensor | None:
    """What is pooled by a ReduceMean, together with one before it of the same kind that is read by nobody else."""
    source, axes, keepdims = node.inputs[0], listed(node, "axes", 1), node.attrs.get("keepdims", 1)
    before = writer(source, "ReduceMean")
    if before is not None and len(source.outputs) == 1 and source.name not in kept:
        first = listed(before, "axes", 1)
        if first is None or axes is None or len(first) != 1 or before.attrs.get("keepdims", 1) != keepdims:
            return None
        if rank_of(before.inputs[0]) != PICTURE:
            return None
        left = [axis for axis in range(PICTURE) if keepdims or axis != first[0] % PICTURE]
        source, axes = before.inputs[0], [*first, *(left[axis] for axis in axes)]
    if axes is None or rank_of(source) != PICTURE or sorted(axis % PICTURE for axis in axes) != [2, 3]:
        return None
    if source.dtype is not None and str(source.dtype) not in FLOATS:
        return None
    if before is not None and source is before.inputs[0]:
        before.inputs.clear()
        before.outputs.clear()
    return source
