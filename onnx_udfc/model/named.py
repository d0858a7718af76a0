"""What patterns of names mean: the layers that a user wants left alone; patterns that nothing has are refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import onnx

from onnx_udfc.errors import RequestError
from onnx_udfc.model.names import matches
from onnx_udfc.model.protos import subgraphs

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

_FOLDED = 4  # nodes that may have been folded into a layer
_LOOKED_AT = 2000  # names that are compared with one that nothing has


def check_named(patterns: Sequence[str], model: onnx.ModelProto, network: Network) -> None:
    """Refuse a pattern that nothing has: what it was meant for would silently be compressed.

    Names of the model count that reading it folds away, and those that nodes without one get on reading.

    Raises:
        RequestError: nothing is named so; the message has the name that comes nearest.
    """
    if not patterns:
        return
    names = set(_names(model.graph)) | {n.name for n in network.graph.nodes} | set(network.graph.tensors())
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in names):
            near = difflib.get_close_matches(pattern.strip("*?"), sorted(names)[:_LOOKED_AT], 1)
            meant = f"; did you mean {near[0]}?" if near else "; see onnx-udfc inspect"
            raise RequestError(f"--skip {pattern}: no node or tensor has such a name{meant}")


def layers_meant(patterns: Sequence[str], network: Network) -> frozenset[str]:
    """Names of the layers that are meant by names of theirs in the file.

    Those are the node's, of what its weight and bias are made of, of what it gives with or without its bias, and of the
    batch norm that was folded into it.
    """
    if not patterns:
        return frozenset()
    origins = Origins(network.origin.model.graph)
    return frozenset(
        name
        for name, layer in network.layers.items()
        if any(matches(other, patterns) for other in _names_of(layer, network, origins))
    )


class Origins:
    """What the constants of a graph are made of."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Tell what hangs on the inputs of the graph from what does not."""
        self.writers = {name: node for node in graph.node for name in node.output}
        self._varying = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            if subgraphs(node) or not self._varying.isdisjoint(node.input):
                self._varying.update(node.output)

    def varying(self, node: onnx.NodeProto) -> str:
        """The first input of a node that hangs on the graph's; empty where none does."""
        return next((name for name in node.input if name in self._varying), "")

    def names(self, tensors: Iterable[str]) -> set[str]:
        """Names of those tensors that are constants, and of all nodes and tensors that they are made of."""
        pending, found = [name for name in tensors if name and name not in self._varying], set[str]()
        while pending:
            name = pending.pop()
            if name not in found and (node := self.writers.get(name)) is not None:
                found.add(node.name)
                pending += node.input
            found.add(name)
        return found


def _names_of(layer: Layer, network: Network, origins: Origins) -> Iterator[str]:
    shared, own = network.origin.shared, network.origin.nodes.get(layer.name)
    constants = [tensor.name for tensor in (layer.constant, layer.bias_tensor) if tensor is not None]
    last = layer.bias_node or layer.node
    given = last.outputs[0].name
    yield from (layer.name, last.name, layer.node.outputs[0].name, given)
    yield from (*constants, *(shared[name] for name in constants if name in shared))
    if own is None:
        return
    yield from (*own.output, *origins.names([*own.input, *constants]))
    for _ in range(_FOLDED):
        node = origins.writers.get(given)
        if node is None or node is own or node.op_type not in ("BatchNormalization", "Add", "Mul", "Sub", "Div"):
            break
        yield from (node.name, *node.output, *origins.names(node.input))
        given = origins.varying(node)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of nodes and tensors, also inside of If and Loop."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in subgraphs(node):
            yield from _names(inner)
