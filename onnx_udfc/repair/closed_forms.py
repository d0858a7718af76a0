"""A network that is not run: consumers absorb, channels go, weights are rounded, UDFC rescales the next layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.channels.prune import Keep, Pruned, prune
from onnx_udfc.model.coded import Coded
from onnx_udfc.numerics.grids import QuantParams
from onnx_udfc.numerics.reconstruct import Method, rescale_quantized
from onnx_udfc.numerics.rounding import quantize_finely, quantize_layer
from onnx_udfc.repair.absorb import absorb, input_rows, with_weights

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network


def absorb_and_prune(network: Network, channels: Channels, keep: Keep, method: Method) -> Pruned:
    """Remove channels from a copy of the network whose consumers have taken over what the method says.

    `keep` is group name → sorted numbers of the channels that stay; the `mix` of the method is used.
    """
    copy = network.copy()
    absorb(copy, channels, keep, method)
    network.lighten()
    return prune(copy, channels, keep)


def quantize_weights(
    network: Network,
    groups: tuple[ChannelGroup, ...],
    bits: Mapping[str, float],
    method: Method,
    finer: frozenset[str] = frozenset(),
) -> dict[str, QuantParams]:
    """Round every layer of the mapping, in place, in topological order.

    The layers get the weights that the codes stand for. `groups` were found in this very network; `finer` are names of
    layers that get more bits.

    Returns:
        Layer name → codes and scales.
    """
    weights = {}
    for name, layer in network.layers.items():
        if name not in bits:
            continue
        matrix, dtype = layer.matrix(), np.dtype(layer.constant.dtype)
        if name in finer:
            weights[name] = quantize_finely(matrix, bits[name], dtype)
        else:
            weights[name], _ = quantize_layer(matrix, None, bits[name], np.dtype(np.float32))
        layer.constant.values = Coded(layer, weights[name])
        if method.rescales:
            factor = rescale_quantized(with_weights(layer, layer.matrix()), with_weights(layer, matrix))
            _rescale_consumers(network, [g for g in groups if g.producers == (name,)], factor)
        network.lighten()
    return weights


def _rescale_consumers(network: Network, groups: list[ChannelGroup], factor: np.ndarray) -> None:
    """Multiply what every consumer reads of the channels by their factors (O,)."""
    for group in groups:
        per_channel = factor[group.outputs(group.producers[0])[:, 0]]
        for consumer in group.consumers:
            _scale_inputs(network.layers[consumer], group, per_channel)


def _scale_inputs(layer: Layer, group: ChannelGroup, factor: np.ndarray) -> None:
    matrix = layer.matrix()
    for part, rows in zip(matrix, input_rows(layer, group), strict=True):
        own = rows[:, 0] >= 0
        part[:, rows[own]] *= factor[own][None, :, None]
    layer.set(matrix, layer.bias)
