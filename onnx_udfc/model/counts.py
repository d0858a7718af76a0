"""Parameters and MACs of layers, for one input (the batch axis does not count).

Conv           output positions · output channels · input channels of a group · kernel
ConvTranspose  input positions  · input channels · output channels of a group · kernel
Gemm, MatMul   rows of a sample · inputs · outputs
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network


Size = tuple[int, ...]
MULTIPLYING = ("Conv", "MatMul", "Gemm")  # parts of the names of operators that have weights, as codes or not


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


def totals(counts: Mapping[str, Count], repeated: Collection[str] = ()) -> Count:
    """Return the sum over layers; the weights of those that are `repeated` are those of others."""
    parameters = sum(c.parameters for name, c in counts.items() if name not in repeated)
    return Count(parameters, sum(c.macs for c in counts.values()))


def work(network: Network, sizes: Mapping[str, Size]) -> int:
    """Return the multiply-accumulates of a run on one input: of the layers, and of those that are quantized already."""
    others = (n for n in network.graph.nodes if n.name not in network.layers)
    codes = (n for n in others if any(word in n.op for word in MULTIPLYING))
    return totals(counts(network.layers, sizes)).macs + sum(_of_codes(node, sizes) for node in codes)


def _of_codes(node: gs.Node, sizes: Mapping[str, Size]) -> int:
    """MACs of a node that reads its weights as codes, or dequantized; 0 where it does not, or shapes are unknown."""
    shapes = [shape for tensor in node.inputs[1:] if (shape := _constant_shape(tensor))]
    output = sizes.get(node.outputs[0].name, ())
    weight = max(shapes, key=math.prod, default=())
    if len(weight) < 2 or len(output) < 2:
        return 0
    return math.prod(weight) * math.prod(output[2:] if len(weight) > 2 else output[1:-1])


def _constant_shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """The shape of a constant, or of one that is dequantized."""
    while tensor.inputs and tensor.inputs[0].op in ("DequantizeLinear", "Cast") and tensor.inputs[0].inputs:
        tensor = tensor.inputs[0].inputs[0]
    return tuple(int(n) for n in tensor.shape) if isinstance(tensor, gs.Constant) else ()
