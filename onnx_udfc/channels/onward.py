"""Layers whose values lose nearly all on their way on: those that only scale others, those whose largest alone go on.

Branches that scale the channels of a map by one number each, as squeeze-and-excitation does (arXiv 1709.01507), have
layers that see each input once, pooled, so that they have about as many unknowns as samples wherever inputs are few.
What they write only scales, though: an error there is far less than one of the same share in what is scaled.

Text of any length and clouds of points end in the largest values over all positions: of each channel and sample one
position says all that follows gets to know, and a hundred others are hidden behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnx_udfc.channels.rules.table import ELEMENTWISE, PASSING, RESIDUAL
from onnx_udfc.model.graph import MOVES

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

_MAP = 3  # axes from which on a tensor has positions
_LARGEST = ("GlobalMaxPool", "MaxPool", "ReduceMax")
_POINTWISE = frozenset((*PASSING, *ELEMENTWISE, *RESIDUAL, "BatchNormalization", *(MOVES - {"Concat", "Split"})))


def gates(network: Network, sizes: Mapping[str, Size]) -> frozenset[str]:
    """Names of the layers of one position whose output does nothing but scale tensors of several.

    A layer whose output has no shape among the `sizes` is no gate.
    """

    def ends(node: gs.Node, tensor: gs.Tensor) -> bool | None:
        scales = node.op == "Mul" and any(_spread(other, sizes) for other in node.inputs if other is not tensor)
        return scales or None

    written = {name: layer.node.outputs[0] for name, layer in network.layers.items()}
    single = {name: tensor for name, tensor in written.items() if tensor.name in sizes and not _spread(tensor, sizes)}
    return frozenset(name for name, tensor in single.items() if _all_end(network, tensor, ends))


def _spread(tensor: gs.Tensor, sizes: Mapping[str, Size]) -> bool:
    """Whether it has more than one position."""
    size = sizes.get(tensor.name, ())
    return len(size) >= _MAP and math.prod(size[2:]) > 1


def peaked(network: Network, sizes: Mapping[str, Size]) -> frozenset[str]:
    """Names of the layers of which whatever follows sees the largest values over all positions, and nothing else.

    Between them are operators that look at each position alone; `sizes` are those of all tensors.
    """
    return frozenset(name for name, layer in network.layers.items() if _is_peaked(network, layer, sizes))


def _is_peaked(network: Network, layer: Layer, sizes: Mapping[str, Size]) -> bool:
    written = sizes.get(layer.node.outputs[0].name, ())

    def ends(node: gs.Node, _tensor: gs.Tensor) -> bool | None:
        left = math.prod(sizes.get(node.outputs[0].name, ()))
        if node.op in _LARGEST and left == written[0] * layer.out_channels:
            return True
        return None if node.op in _POINTWISE else False

    return len(written) >= _MAP and _all_end(network, layer.node.outputs[0], ends)


def _all_end(network: Network, start: gs.Tensor, ends: Callable[[gs.Node, gs.Tensor], bool | None]) -> bool:
    """Whether every way on from a tensor ends well.

    `ends` tells of a node, and the tensor that it reads, whether a way ends well there; None where it goes on.
    """
    outputs = {tensor.name for tensor in network.graph.outputs}
    waiting, met = [start], {start.name}
    while waiting:
        tensor = waiting.pop()
        if tensor.name in outputs or not tensor.outputs:
            return False
        for node in tensor.outputs:
            found = ends(node, tensor)
            if found is None:
                waiting += [t for t in node.outputs if t.name not in met]
                met |= {t.name for t in node.outputs}
            elif not found:
                return False
    return True
