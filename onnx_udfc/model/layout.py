"""Transposes moved behind what works value by value, where fewer of them are left.

Converters from frameworks with channels last put two around every layer that must have channels first. A batch norm or
bias between them is folded into no layer, and integer kernels are parted. A Transpose is moved on until it meets one
that takes it back:

    f(Tx) = T f(x)      Tx + Ty = T(x + y)     Tx + c = T(x + T⁻¹c)     mean of Tx over axes a = that of x over perm[a]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import BROADCASTING, BY_VALUE, bypass, copy_graph
from onnx_udfc.model.names import Taken, taken_in, unique_name
from onnx_udfc.model.patterns import listed, writer

REDUCING = frozenset((
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
))  # fmt: skip
SOFTMAX_OPSET = 13  # from here on it runs over one axis

Perm = list[int]


def move_transposes(graph: gs.Graph, kept: set[str]) -> gs.Graph:
    """The graph with fewer Transposes, a copy; the same graph where moving them takes none away.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    if sum(node.op == "Transpose" for node in graph.nodes) < 2:
        return graph

    def step(node: gs.Node, names: Taken) -> list[gs.Node]:
        _merge(node, kept)
        perm = _passes(node, graph.opset)
        return [] if perm is None else _behind(node, perm, names)

    return with_fewer(graph, {"Transpose"}, step)


def with_fewer(graph: gs.Graph, ops: set[str], step: Callable[[gs.Node, Taken], list[gs.Node]]) -> gs.Graph:
    """The graph as steps change it, a copy, where it has fewer nodes of some operators then; else the same graph.

    A step changes a node of the copy in place, and gives those that go behind it; new names are added to those taken.
    """
    moved = copy_graph(graph, {})
    names, nodes = taken_in(moved), list[gs.Node]()
    for node in moved.nodes:
        nodes += [node, *step(node, names)]
    ends = {id(t) for t in moved.outputs}
    for node in reversed(nodes):
        if node.op in ops and not any(t.outputs or id(t) in ends for t in node.outputs):
            node.inputs.clear()
            node.outputs.clear()
    moved.nodes[:] = [node for node in nodes if node.outputs or node.op not in ops]
    before, after = (sum(node.op in ops for node in g.nodes) for g in (graph, moved))
    return moved if after < before else graph


def _merge(node: gs.Node, kept: set[str]) -> None:
    """One Transpose for two in a row, none where the second takes the first back."""
    before = writer(node.inputs[0], "Transpose") if node.op == "Transpose" and not node.domain else None
    if before is None or "perm" not in before.attrs or "perm" not in node.attrs:
        return
    perm = [before.attrs["perm"][axis] for axis in node.attrs["perm"]]
    node.attrs["perm"], node.inputs[0] = perm, before.inputs[0]
    if perm == sorted(perm) and node.outputs[0].name not in kept:
        bypass(node)


def _behind(node: gs.Node, perm: Perm, names: Taken) -> list[gs.Node]:
    """A Transpose for each output of a node, which is given what it wrote."""
    made = []
    for slot, out in enumerate(list(node.outputs)):
        name = unique_name(f"{node.name}.transpose", names)
        inner = gs.Variable(unique_name(f"{name}.in", names), out.dtype)
        node.outputs[slot] = inner
        made.append(gs.Node("Transpose", name, {"perm": list(perm)}, [inner], [out]))
    return made


def _passes(node: gs.Node, opset: int) -> Perm | None:
    """Lets a node read what a Transpose reads, and returns what is to be done to its outputs; None where it cannot.

    A reduction that drops axes may need nothing done to it: then it is changed, too, and None comes back.
    """
    if node.domain or not node.inputs or any(t.is_empty() for t in node.outputs):
        return None
    before = writer(node.inputs[0], "Transpose")
    if node.op in BROADCASTING:
        return _together(node)
    perm = None if before is None else before.attrs.get("perm")
    if before is None or perm is None:
        return None
    if node.op in BY_VALUE and len(node.outputs) == 1:
        node.inputs[0] = before.inputs[0]
        return list(perm)
    if node.op == "Concat":
        return _together(node) if _turn_axis(node, perm, check=True) else None
    if node.op in REDUCING:
        return _reduced(node, before.inputs[0], list(perm))
    rule = ALONG_AXES.get(node.op)
    if rule is None or (node.op == "Softmax" and opset < SOFTMAX_OPSET) or not rule(node, list(perm)):
        return None
    node.inputs[0] = before.inputs[0]
    return list(perm)


def _together(node: gs.Node) -> Perm | None:
    """All inputs come from equal Transposes, or are constants that can be turned back."""
    sources, perms = {}, []
    for slot, tensor in enumerate(node.inputs):
        before = writer(tensor, "Transpose")
        if before is not None and "perm" in before.attrs:
            sources[slot] = before.inputs[0]
            perms.append(list(before.attrs["perm"]))
        elif not isinstance(tensor, gs.Constant):
            return None
    if not perms or any(perm != perms[0] for perm in perms) or len(node.outputs) != 1:
        return None
    perm, rank = perms[0], len(perms[0])
    fixed = {slot: t for slot, t in enumerate(node.inputs) if slot not in sources}
    if any(len(t.shape) > rank for t in fixed.values()) or (node.op == "Concat" and fixed):
        return None
    if node.op == "Concat":
        _turn_axis(node, perm)
    for tensor in fixed.values():
        if int(np.prod(tensor.shape)) != 1:
            wide = tensor.values.reshape((1,) * (rank - len(tensor.shape)) + tuple(tensor.shape))
            tensor.values = np.ascontiguousarray(wide.transpose(np.argsort(perm)))
    for slot, source in sources.items():
        node.inputs[slot] = source
    return perm


def _turn_axis(node: gs.Node, perm: Sequence[int], check: bool = False) -> bool:
    """The `axis` of a node as it is before the Transpose; with `check` only whether there is one."""
    axis = node.attrs.get("axis", -1 if node.op in ("Softmax", "LogSoftmax") else 0 if node.op == "Split" else None)
    if axis is None or not -len(perm) <= axis < len(perm):
        return False
    if not check:
        node.attrs["axis"] = int(perm[axis % len(perm)])
    return True


def _reduced(node: gs.Node, source: gs.Tensor, perm: Perm) -> Perm | None:
    axes = listed(node, "axes", 1)
    if not axes or len(node.outputs) != 1:
        return None
    turned = sorted(perm[axis % len(perm)] for axis in axes)
    left = [axis for axis in perm if axis not in turned]
    dropped = not node.attrs.get("keepdims", 1)
    if dropped and left != sorted(left):
        return None
    _write(node, "axes", 1, turned)
    node.inputs[0] = source
    return None if dropped else perm


def _pad(node: gs.Node, perm: Perm) -> bool:
    pads = listed(node, "pads", 1)
    if pads is None or len(pads) != 2 * len(perm) or len(node.inputs) > 3:
        return False
    rank = len(perm)
    turned = [0] * (2 * rank)
    for here, there in enumerate(perm):
        turned[there], turned[rank + there] = pads[here], pads[rank + here]
    _write(node, "pads", 1, turned)
    return True


def _slice(node: gs.Node, perm: Perm) -> bool:
    axes = listed(node, "", 3) if len(node.inputs) > 3 else None
    if not axes:
        return False
    _write(node, "", 3, [perm[axis % len(perm)] for axis in axes])
    return True


def _write(node: gs.Node, attribute: str, slot: int, values: list[int]) -> None:
    """Puts a list where the node has it: in a constant input of its own, or in an attribute."""
    if len(node.inputs) > slot:
        tensor = node.inputs[slot]
        tensor.values = np.array(values, tensor.values.dtype)
    else:
        node.attrs[attribute] = values


ALONG_AXES: dict[str, Callable[[gs.Node, Perm], bool]] = {
    "LogSoftmax": _turn_axis,
    "Pad": _pad,
    "Slice": _slice,
    "Softmax": _turn_axis,
    "Split": _turn_axis,
}
