"""Parameters and MACs of layers, for one input (the batch axis does not count).

Conv           output positions · output channels · input channels of a group · kernel
ConvTranspose  input positions  · input channels · output channels of a group · kernel
Gemm, MatMul   rows of a sample · inputs · outputs
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer


Size = tuple[int, ...]


@dataclass(frozen=True)
class Count:
    """Weights and biases of a layer, and its multiply-accumulates for one input."""

    parameters: int
    macs: int


def count(layer: Layer, sizes: Mapping[str, Size]) -> Count:
    """Count a layer, given the shapes of its tensors; MACs are 0 where the shape is unknown."""
    weight = math.prod(layer.constant.shape)
    bias = 0 if layer.bias_tensor is None else layer.out_channels
    return Count(weight + bias, _positions(layer, sizes) * weight)


def counts(layers: Mapping[str, Layer], sizes: Mapping[str, Size]) -> dict[str, Count]:
    """Layer name → its count."""
    return {name: count(layer, sizes) for name, layer in layers.items()}


def _positions(layer: Layer, sizes: Mapping[str, Size]) -> int:
    """Return how often each weight is used for one input; 0 if unknown."""
    tensor = layer.node.inputs[0] if layer.stuffed else layer.node.outputs[0]
    size = sizes.get(tensor.name)
    if size is None:
        return 0
    if layer.kernel:
        return math.prod(size[2:])
    return math.prod(size[1:-1])


def totals(counts: Mapping[str, Count]) -> Count:
    """Return the sum over layers."""
    return Count(sum(c.parameters for c in counts.values()), sum(c.macs for c in counts.values()))
