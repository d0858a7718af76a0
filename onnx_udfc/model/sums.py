"""Sums of tensors written as Adds: onnxruntime has an integer kernel for an Add, and for no other sum.

Sum(a, b, c) = (a + b) + c      Sum(a, 0) = a      Concat of (1, …) over a new axis, summed over that axis = a sum
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.names import Taken, taken_in, unique_name
from onnx_udfc.model.patterns import listed, rank_of, writer


def write_sums(graph: gs.Graph, kept: set[str]) -> None:
    """Writes sums as Adds, in place.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    names: Taken | None = None
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        terms = None if node.domain else _terms(node, kept)
        if terms is None:
            nodes.append(node)
            continue
        names = taken_in(graph) if names is None else names
        nodes.extend(_adds(node, terms, names))
    graph.nodes[:] = nodes


def _terms(node: gs.Node, kept: set[str]) -> list[gs.Tensor] | None:
    """What is added up by a sum that is no Add, two tensors or more; None for any other node."""
    if node.op == "Sum":
        terms = [t for t in node.inputs if not _is_nothing(t, node.inputs)]
        return terms if len(terms) > 1 else None
    return _stacked(node, kept) if node.op == "ReduceSum" else None


def _is_nothing(tensor: gs.Tensor, others: list[gs.Tensor]) -> bool:
    """Whether a term is a constant 0 that gives the sum no axes."""
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) != 1 or np.any(tensor.values):
        return False
    ranks = [rank_of(other) for other in others if not isinstance(other, gs.Constant)]
    return any(rank is not None and rank >= len(tensor.shape) for rank in ranks)


def _stacked(node: gs.Node, kept: set[str]) -> list[gs.Tensor] | None:
    """The tensors that were laid one after the other along a new axis, over which they are summed."""
    joined, axes = writer(node.inputs[0], "Concat"), listed(node, "axes", 1)
    if joined is None or axes is None or len(axes) != 1 or node.attrs.get("keepdims", 1):
        return None
    if len(joined.inputs) < 2 or joined.outputs[0].name in kept or joined.attrs.get("axis") != axes[0]:
        return None
    parts = [writer(t, "Unsqueeze") for t in joined.inputs]
    sources = [part.inputs[0] for part in parts if part is not None and listed(part, "axes", 1) == axes]
    return sources if len(sources) == len(parts) else None


def _adds(node: gs.Node, terms: list[gs.Tensor], names: Taken) -> Iterator[gs.Node]:
    """A chain of Adds, the last one of which is the node."""
    total = terms[0]
    for term in terms[1:-1]:
        name = unique_name(f"{node.name}.add", names)
        out = gs.Variable(unique_name(f"{name}.out", names), node.outputs[0].dtype)
        yield gs.Node("Add", name, {}, [total, term], [out])
        total = out
    node.op, node.inputs = "Add", [total, terms[-1]]
    node.attrs.clear()
    yield node
