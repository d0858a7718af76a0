"""A layer of the graph replaced by two in a row: the second one keeps its name, its output and its bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import position
from onnx_udfc.model.names import unique_name
from onnx_udfc.numerics.factors import Split

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network


@dataclass(frozen=True)
class Factor:
    """What a layer is to be replaced by.

    Attributes:
        split: how its taps are parted.
        rank: channels between the two.
    """

    split: Split
    rank: int

    def parameters(self, out_channels: int, in_channels: int) -> int:
        """Weights of both layers, without the bias."""
        first, second = self.split.taps
        return self.rank * (first * in_channels + second * out_channels)


LEAST_CHANNELS = 8  # of a layer on both sides: narrower ones have nothing to save


def can_be_factored(layer: Layer) -> bool:
    """Whether a layer can be replaced by two: not grouped, not transposed."""
    return not layer.stuffed and layer.groups == 1


def why_whole(layer: Layer) -> str:
    """Why a layer never becomes two unless it is named, in words for the user; empty where it may."""
    if layer.stuffed:
        return "transposed convolution"
    if layer.groups > 1:
        return "grouped channels"
    if min(layer.in_channels, layer.out_channels) < LEAST_CHANNELS:
        return f"fewer than {LEAST_CHANNELS} channels"
    return ""


def factor(network: Network, chosen: Mapping[str, Factor]) -> dict[str, str]:
    """Replace layers of a network, in place; their weights are 0 until somebody sets them.

    Returns:
        Name of the new first layer → name of the layer that it was a part of.
    """
    taken = set(network.graph.tensors()) | {node.name for node in network.graph.nodes}
    layers, names = {}, {}
    for name, layer in network.layers.items():
        if name in chosen:
            first = _first(layer, chosen[name], taken)
            layers[first.name], names[first.name] = first, name
            _shrink(layer, chosen[name])
        layers[name] = layer
    network.layers.clear()
    network.layers.update(layers)
    return names


def bits_of_parts(bits: Mapping[str, float], parts: Mapping[str, str]) -> dict[str, float]:
    """Bits of layers (name → bits), and the same for the first parts (name → name of the whole) of those."""
    return dict(bits) | {first: bits[name] for first, name in parts.items() if name in bits}


def _first(layer: Layer, chosen: Factor, taken: set[str]) -> Layer:
    """A new layer in front of this one, which reads it."""
    node, split, rank = layer.node, chosen.split, chosen.rank
    name = unique_name(f"{layer.name}.first", taken)
    if layer.convolves:
        shape: tuple[int, ...] = (rank, layer.in_channels, *split.first)
        attrs = _spatial(node.attrs, split.kernel, range(split.leading)) | {"kernel_shape": list(split.first)}
    else:
        shape = (rank, layer.in_channels) if layer.weight_axes[0] == 0 else (layer.in_channels, rank)
        attrs = {key: node.attrs[key] for key in ("transB", "equation") if node.attrs.get(key)}
    weight = gs.Constant(unique_name(f"{layer.constant.name}.first", taken), np.zeros(shape, layer.constant.dtype))
    between = gs.Variable(unique_name(f"{layer.name}.between", taken), node.outputs[0].dtype, None)
    first = gs.Node(str(node.op), name, attrs, [node.inputs[0], weight], [between])
    layer.graph.nodes.insert(position(layer.graph, node), first)
    node.inputs[0] = between
    return type(layer)(first, layer.graph)


def _shrink(layer: Layer, chosen: Factor) -> None:
    """What is left of the layer itself."""
    node, split, rank = layer.node, chosen.split, chosen.rank
    if layer.convolves:
        axes = range(split.leading, len(split.kernel))
        node.attrs = _spatial(node.attrs, split.kernel, axes) | {"kernel_shape": list(split.second)}
        shape: tuple[int, ...] = (layer.out_channels, rank, *split.second)
    else:
        shape = (layer.out_channels, rank) if layer.weight_axes[0] == 0 else (rank, layer.out_channels)
    layer.constant.values = np.zeros(shape, layer.constant.dtype)


def _spatial(attrs: Mapping[str, Any], kernel: tuple[int, ...], axes: range) -> dict[str, Any]:
    """The attributes of a convolution on some of its axes; along the others it has one tap and moves by one."""
    found = dict(attrs)
    mine = [i in axes for i in range(len(kernel))]
    for key in ("strides", "dilations"):
        if key in attrs:
            found[key] = [v if own else 1 for v, own in zip(attrs[key], mine, strict=True)]
    if "pads" in attrs:
        found["pads"] = [v if own else 0 for v, own in zip(attrs["pads"], [*mine, *mine], strict=True)]
    return found
