"""All of a network that the shapes of its tensors depend on, as something that can be compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

LARGE = 1024  # constants with more elements hold weights, not shapes
PLAIN = (bool, int, float, str, bytes, type, np.dtype)


@dataclass(frozen=True, eq=False)
class _Itself:
    """Something that is only equal to itself: a graph in a node, a tensor in an attribute."""

    what: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def outline(network: Network, inputs: Mapping[str, tuple[int, ...]]) -> Hashable:
    """Two networks with equal outlines have tensors of equal shapes.

    Of a network's constants only the small ones count by value, and not those that are weights or biases.
    """
    layers = network.layers.values()
    weights = {t.name for layer in layers for t in (layer.constant, layer.bias_tensor) if t is not None}
    tensors = network.graph.tensors().values()
    return (
        tuple(sorted(inputs.items())),
        tuple((t.name, str(t.dtype), tuple(t.shape or ()), t.shape is None) for t in network.graph.inputs),
        tuple(t.name for t in network.graph.outputs),
        tuple(_constant(t, t.name in weights) for t in tensors if isinstance(t, gs.Constant)),
        tuple((n.op, n.domain, n.name, tuple(_names(n)), tuple(_attributes(n))) for n in network.graph.nodes),
    )


def _constant(tensor: gs.Constant, weight: bool) -> Hashable:
    shape = tuple(tensor.shape)
    small = not weight and int(np.prod(shape)) <= LARGE
    return (tensor.name, shape, str(tensor.dtype), np.asarray(tensor.values).tobytes() if small else b"")


def _names(node: gs.Node) -> Iterator[Hashable]:
    yield tuple(t.name for t in node.inputs)
    yield tuple(t.name for t in node.outputs)


def _attributes(node: gs.Node) -> Iterator[Hashable]:
    for key, value in sorted(node.attrs.items()):
        items = tuple(value) if isinstance(value, list | tuple) else (value,)
        yield key, tuple(item if isinstance(item, PLAIN) else _Itself(item) for item in items)
