"""Layers of which only the largest values over all positions are handed on.

Text of any length and clouds of points end so: of each channel and sample one position says all that follows gets to
know, and a hundred others are hidden behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx_udfc.channels.rules.table import ELEMENTWISE, PASSING, RESIDUAL
from onnx_udfc.model.graph import MOVES

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

_LARGEST = ("GlobalMaxPool", "MaxPool", "ReduceMax")
_POINTWISE = frozenset((*PASSING, *ELEMENTWISE, *RESIDUAL, "BatchNormalization", *(MOVES - {"Concat", "Split"})))


def peaked(network: Network, sizes: Mapping[str, Size]) -> frozenset[str]:
    """Names of the layers of which whatever follows sees the largest values over all positions, and nothing else.

    Between them are operators that look at each position alone; `sizes` are those of all tensors.
    """
    outputs = {tensor.name for tensor in network.graph.outputs}
    return frozenset(name for name, layer in network.layers.items() if _is_peaked(layer, sizes, outputs))


def _is_peaked(layer: Layer, sizes: Mapping[str, Size], outputs: set[str]) -> bool:
    written = sizes.get(layer.node.outputs[0].name, ())
    if len(written) < 3:
        return False
    samples = written[0]
    waiting, seen = list(layer.node.outputs), set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor.name in outputs or not tensor.outputs:
            return False
        for node in tensor.outputs:
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.op in _LARGEST and math.prod(sizes.get(node.outputs[0].name, ())) == samples * layer.out_channels:
                continue
            if node.op not in _POINTWISE:
                return False
            waiting += node.outputs
    return True
