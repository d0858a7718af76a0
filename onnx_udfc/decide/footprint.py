"""What a network costs as a function of how many channels each group keeps: exact, and for many choices at once.

A layer's weight has out · in / groups · kernel entries. Both channel numbers fall linearly with the channels that the
groups lose, so that its size is a product of two linear functions: what one group saves depends on what the others
keep. Nothing is rebuilt to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.model.counts import count

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]


@dataclass(frozen=True)
class Footprint:
    """Sizes of all layers (L) as functions of the channels that the groups (G) lose.

    Attributes:
        groups: names of the groups.
        channels: (G,) channels of each.
        layers: names of the layers.
        out: (L,) output channels.
        into: (L,) input channels that one weight row sees (in / groups).
        kernel: (L,) taps.
        positions: (L,) how often each weight is used for one input; 0 where unknown.
        biased: (L,) 1 where there is a bias, else 0.
        lost_out: (L, G) output channels that each removed channel takes along.
        lost_in: (L, G) the same of `into`.
    """

    groups: tuple[str, ...]
    channels: Double
    layers: tuple[str, ...]
    out: Double
    into: Double
    kernel: Double
    positions: Double
    biased: Double
    lost_out: Double
    lost_in: Double

    def lengths(self, kept: Double) -> tuple[Double, Double]:
        """Output and input channels (..., L) of the layers when the groups keep so many (..., G)."""
        removed = self.channels - kept
        return self.out - removed @ self.lost_out.T, self.into - removed @ self.lost_in.T

    def weights(self, kept: Double) -> Double:
        """Weights (..., L) without biases."""
        out, into = self.lengths(kept)
        return out * into * self.kernel

    def macs(self, kept: Double) -> Double:
        """Multiply-accumulates (...) of the whole network."""
        total: Double = self.weights(kept) @ self.positions
        return total

    def params(self, kept: Double) -> Double:
        """Weights and biases (...) of the whole network."""
        out, into = self.lengths(kept)
        total: Double = (out * into) @ self.kernel + out @ self.biased
        return total


def footprint(network: Network, channels: Channels, groups: tuple[ChannelGroup, ...]) -> Footprint:
    """The cost of a network as a function of what these groups keep; all other groups stay whole."""
    layers = list(network.layers.values())
    counted = [count(layer, channels.shapes.sizes) for layer in layers]
    taps = np.array([float(np.prod(layer.kernel)) for layer in layers])
    entries = np.array([float(np.prod(layer.constant.shape)) for layer in layers])
    lost = [[_lost(layer, group) for group in groups] for layer in layers]
    lost_both = np.array(lost, np.float64).reshape(len(layers), len(groups), 2)
    return Footprint(
        groups=tuple(group.name for group in groups),
        channels=np.array([group.channels for group in groups], np.float64),
        layers=tuple(layer.name for layer in layers),
        out=np.array([layer.out_channels for layer in layers], np.float64),
        into=np.array([layer.in_channels / layer.groups for layer in layers]),
        kernel=taps,
        positions=np.array([c.macs for c in counted]) / entries,
        biased=np.array([float(layer.bias_tensor is not None) for layer in layers]),
        lost_out=lost_both[..., 0],
        lost_in=lost_both[..., 1],
    )


def _lost(layer: Layer, group: ChannelGroup) -> tuple[float, float]:
    """Channels of `out` and of `into` that go with one channel of the group."""
    out = into = 0.0
    for slot in group.slots:
        if slot.node == layer.name and slot.tensor == layer.constant.name:
            if slot.role == "consumer":
                into += slot.members.shape[1] / layer.groups
            elif slot.role == "link" and layer.stuffed:
                out += slot.members.shape[1] * layer.constant.shape[1]  # it is cut along its inputs, each with outputs
            else:  # any other depthwise layer is a link, too: its only axis is the output's
                out += slot.members.shape[1]
    return out, into
