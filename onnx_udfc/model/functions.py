"""How much the functions of a model come to when they are written out, known before anybody writes them out."""

from __future__ import annotations

import onnx

from onnx_udfc.errors import ModelError
from onnx_udfc.model.protos import subgraphs

MOST_NODES = 1_000_000

Key = tuple[str, str]


def check_functions(model: onnx.ModelProto) -> int:
    """The nodes that a model comes to with its functions written out.

    Refuses functions that call themselves, or that come to more nodes than anything could hold.

    Functions that call a few others each grow by a factor a level: forty levels of ten are 10^40 nodes, and both onnx
    and onnxruntime write them out.

    Raises:
        ModelError: one line that names the function.
    """
    bodies: dict[Key, list[onnx.NodeProto]] = {(f.domain, f.name): list(f.node) for f in model.functions}
    sizes: dict[Key, int] = {}
    for root in bodies:
        _measure(root, bodies, sizes)
    total = _written_out(list(model.graph.node), bodies, sizes)
    if total > MOST_NODES:
        largest = max(sizes, key=lambda key: sizes[key])
        raise ModelError(
            f"the functions of the model come to {_count(total)} nodes ('{largest[1]}' alone to "
            f"{_count(sizes[largest])}), more than can be computed with; export it without nested functions"
        )
    return total


def _measure(root: Key, bodies: dict[Key, list[onnx.NodeProto]], sizes: dict[Key, int]) -> None:
    """Fills in the nodes that a function comes to, after those of all that it calls; nothing here is recursive."""
    pending, open_ = [root], set[Key]()
    while pending:
        key = pending[-1]
        if key in sizes:
            pending.pop()
            continue
        calls = {k for k in _calls(bodies[key]) if k in bodies and k not in sizes}
        if not calls:
            sizes[key] = _written_out(bodies[key], bodies, sizes)
            open_.discard(key)
            pending.pop()
        elif key in calls or not calls.isdisjoint(open_):
            raise ModelError(f"function '{key[1]}' of the model calls itself; export the model again")
        else:
            open_.add(key)
            pending.extend(sorted(calls))


def _calls(nodes: list[onnx.NodeProto]) -> list[Key]:
    """Every node as what it calls, those in subgraphs too."""
    pending, found = list(nodes), []
    while pending:
        node = pending.pop()
        found.append((node.domain, node.op_type))
        pending.extend(inner for graph in subgraphs(node) for inner in graph.node)
    return found


def _written_out(nodes: list[onnx.NodeProto], bodies: dict[Key, list[onnx.NodeProto]], sizes: dict[Key, int]) -> int:
    """Nodes that these come to."""
    return sum(sizes[key] if key in bodies else 1 for key in _calls(nodes))


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"10^{len(str(number)) - 1}"
