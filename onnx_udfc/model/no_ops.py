"""Nodes that change nothing, taken out: they stand between what belongs together.

A batch norm behind an Identity is folded into no layer, and no integer kernel takes a Cast among its pairs. Exporters
leave them in, and turn channels to the end and back around every layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import bypass
from onnx_udfc.model.patterns import listed, scalar_beside, type_of, writer

ALONE = ("Concat", "Max", "Mean", "Min", "Sum")  # of one input are that
NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def drop_no_ops(graph: gs.Graph, kept: set[str]) -> None:
    """Lets the readers of such a node read what it reads, in place.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    gone: set[int] = set()
    for node in graph.nodes:
        source = None if node.domain or graph.opset < 7 else _unchanged(node)
        out = node.outputs[0] if node.outputs else None
        if source is None or out is None or isinstance(source, gs.Constant) or out.name in kept:
            continue
        if any(t.outputs or t.name in kept for t in node.outputs[1:]):
            continue
        bypass(node, source)
        gone.add(id(node))
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def _unchanged(node: gs.Node) -> gs.Tensor | None:
    """The tensor that the node's first output is equal to; None if there is none."""
    rule = RULES.get(node.op)
    if rule is None or not node.inputs:
        return node.inputs[0] if node.op in ALONE and len(node.inputs) == 1 else None
    return rule(node)


def _identity(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[0]


def _dropout(node: gs.Node) -> gs.Tensor | None:
    """Nothing is dropped outside of training."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None or training.is_empty():
        return node.inputs[0]
    off = isinstance(training, gs.Constant) and not np.any(training.values)
    return node.inputs[0] if off else None


def _cast(node: gs.Node) -> gs.Tensor | None:
    """To the type that is there."""
    source = node.inputs[0]
    return source if "to" in node.attrs and type_of(source) == node.attrs["to"] else None


def _neutral(node: gs.Node) -> gs.Tensor | None:
    """Plus 0, times 1."""
    found = scalar_beside(node)
    if found is None or found[1] != NEUTRAL[node.op] or (node.op in ("Sub", "Div") and node.inputs[0] is not found[0]):
        return None
    return found[0]


def _transpose(node: gs.Node) -> gs.Tensor | None:
    """Into the order that is there, or back into that before another Transpose."""
    perm, before = node.attrs.get("perm"), writer(node.inputs[0], "Transpose")
    if perm is None:
        return None
    if list(perm) == sorted(perm):
        return node.inputs[0]
    first = None if before is None else before.attrs.get("perm")
    if before is None or first is None or len(first) != len(perm):
        return None
    return before.inputs[0] if [first[axis] for axis in perm] == sorted(perm) else None


def _back(other: str) -> Callable[[gs.Node], gs.Tensor | None]:
    """Taking back what an Unsqueeze or a Squeeze of the same axes did."""

    def rule(node: gs.Node) -> gs.Tensor | None:
        before = writer(node.inputs[0], other)
        if before is None:
            return None
        there, here = _axes(before), _axes(node)
        return before.inputs[0] if there is not None and there == here else None

    return rule


def _axes(node: gs.Node) -> list[int] | None:
    axes = listed(node, "axes", 1)
    return None if axes is None else sorted(axes)


RULES: dict[str, Callable[[gs.Node], gs.Tensor | None]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    **dict.fromkeys(NEUTRAL, _neutral),
    "Transpose": _transpose,
    "Squeeze": _back("Unsqueeze"),
    "Unsqueeze": _back("Squeeze"),
}
