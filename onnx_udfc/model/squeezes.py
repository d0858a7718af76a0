"""A Squeeze moved behind what works value by value, where it meets the Unsqueeze that takes it back.

Converters that have convolutions over one axis write them over two: Unsqueeze, Conv, Squeeze, the activation, Unsqueeze
… Integer kernels and activations are parted so.

    f(Sx) = S f(x)      Sx + Sy = S(x + y)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import BROADCASTING, BY_VALUE, bypass
from onnx_udfc.model.layout import with_fewer
from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.patterns import listed, rank_of, writer

MOVED = {"Squeeze", "Unsqueeze"}
AXES_OPSET = 13  # from here on axes are an input

Axes = tuple[int, ...]


def move_squeezes(graph: gs.Graph, kept: set[str]) -> gs.Graph:
    """The graph with fewer of both, a copy; the same graph where moving takes none away.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    if graph.opset < AXES_OPSET or not {node.op for node in graph.nodes} >= MOVED:
        return graph

    def step(node: gs.Node, names: Taken) -> list[gs.Node]:
        taken_back = _axes(node, "Unsqueeze")
        if taken_back is not None and _squeezed(node.inputs[0]) == taken_back:
            if node.outputs[0].name not in kept:
                bypass(node, node.inputs[0].inputs[0].inputs[0])
            return []
        axes = _passes(node)
        return [] if axes is None else [_behind(node, axes, names)]

    return with_fewer(graph, MOVED, step)


def _axes(node: gs.Node, op: str) -> Axes | None:
    """The axes of a Squeeze or Unsqueeze, counted from the front."""
    axes = listed(node, "axes", 1) if node.op == op and not node.domain else None
    return tuple(sorted(axes)) if axes and min(axes) >= 0 else None


def _squeezed(tensor: gs.Tensor) -> Axes | None:
    before = writer(tensor, "Squeeze")
    return None if before is None else _axes(before, "Squeeze")


def _passes(node: gs.Node) -> Axes | None:
    """Lets a node read what a Squeeze reads, and returns the axes that are to go behind it; None where it cannot."""
    if node.domain or len(node.outputs) != 1 or not node.inputs:
        return None
    slots = [i for i, tensor in enumerate(node.inputs) if not isinstance(tensor, gs.Constant)]
    if node.op in BY_VALUE or node.op == "BatchNormalization":
        slots = [0]
    elif node.op not in BROADCASTING:
        return None
    axes = {_squeezed(node.inputs[slot]) for slot in slots}
    found = axes.pop() if len(axes) == 1 else None
    if found is None or (node.op == "BatchNormalization" and min(found) < 2):
        return None
    fixed = [t for t in node.inputs if isinstance(t, gs.Constant)] if node.op in BROADCASTING else []
    wide = [t for t in fixed if len(t.shape) > 1 or int(np.prod(t.shape)) != 1]
    rank = rank_of(node.inputs[slots[0]].inputs[0].inputs[0]) if wide else None
    if wide and (rank is None or any(len(t.shape) > rank - len(found) for t in wide)):
        return None
    for tensor in wide:
        missing = (rank or 0) - len(found) - len(tensor.shape)
        tensor.values = np.expand_dims(tensor.values.reshape((1,) * missing + tuple(tensor.shape)), found)
    for slot in slots:
        node.inputs[slot] = node.inputs[slot].inputs[0].inputs[0]
    return found


def _behind(node: gs.Node, axes: Axes, names: Taken) -> gs.Node:
    """A Squeeze that writes what a node wrote."""
    name, out = unique_name(f"{node.name}.squeeze", names), node.outputs[0]
    node.outputs[0] = gs.Variable(unique_name(f"{name}.in", names), out.dtype)
    constant = gs.Constant(unique_name(f"{name}.axes", names), np.array(axes, np.int64))
    return gs.Node("Squeeze", name, {}, [node.outputs[0], constant], [out])
