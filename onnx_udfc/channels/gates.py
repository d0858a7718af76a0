"""Branches that scale the channels of a map by one number each, as squeeze-and-excitation does (arXiv 1709.01507).

Their layers see each input once, pooled, so that they have about as many unknowns as samples wherever inputs are few.
What they write only scales, though: an error there is far less than one of the same share in what is scaled.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.model.network import Network

_MAP = 3  # axes from which on a tensor has positions


def gates(network: Network, sizes: Mapping[str, Size]) -> frozenset[str]:
    """Names of the layers of one position whose output does nothing but scale tensors of several.

    A layer whose output has no shape among the `sizes` is no gate.
    """
    outputs = {tensor.name for tensor in network.graph.outputs}
    written = {name: layer.node.outputs[0] for name, layer in network.layers.items()}
    single = {name: tensor for name, tensor in written.items() if tensor.name in sizes and not _spread(tensor, sizes)}
    return frozenset(name for name, tensor in single.items() if _only_scales(tensor, sizes, outputs))


def _spread(tensor: gs.Tensor, sizes: Mapping[str, Size]) -> bool:
    """Whether it has more than one position."""
    size = sizes.get(tensor.name, ())
    return len(size) >= _MAP and math.prod(size[2:]) > 1


def _only_scales(start: gs.Tensor, sizes: Mapping[str, Size], outputs: Collection[str]) -> bool:
    """Whether every way from a tensor ends in a product with one of more positions."""
    waiting, met = [start], {start.name}
    while waiting:
        tensor = waiting.pop()
        if tensor.name in outputs or not tensor.outputs:
            return False
        for node in tensor.outputs:
            if node.op == "Mul" and any(_spread(other, sizes) for other in node.inputs if other is not tensor):
                continue
            waiting += [t for t in node.outputs if t.name not in met]
            met |= {t.name for t in node.outputs}
    return True
