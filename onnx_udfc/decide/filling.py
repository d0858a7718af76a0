"""Channels that are added so that depthwise layers of integers leave none over.

onnxruntime's integer kernel for depthwise convolutions takes 16 channels at a time, and what is left one after the
other, each in the time of some twenty. So the channels of such a layer are filled up with copies of the last one, whose
weights in the layers that read them are 0.

With m the multiply-accumulates of all layers of a group of C channels, w those of its depthwise layers and v what these
write, filling up to C' pays where

    ALONE · (C mod 16)/C · w  >  (C' - C)/C · (m + VALUE · v).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import Pruned, may_widen, widen
from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.counts import count
from onnx_udfc.numerics.grids import FORMATS

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.grids import QuantParams

Index = NDArray[np.int64]

ALONE = 20.0  # products in whose time a channel's product is done that is not one of 16
VALUE = 90.0  # products in whose time a value is written, activated and read again


def filled(
    pruned: Pruned, weights: Mapping[str, QuantParams], placement: Placement, target: str, skip: Sequence[str] = ()
) -> tuple[Pruned, dict[str, QuantParams], str]:
    """The network and its codes with channels added where that saves time, and what a user is told.

    `weights` is layer name → its codes; `skip` are patterns, as of `find_groups`.
    """
    network, step = pruned.network, TARGETS[target].depthwise_step
    odd = [n for n in placement.integer if network.layers[n].depthwise and network.layers[n].out_channels % step]
    if not odd:
        return pruned, dict(weights), ""
    channels = find_groups(network, skip)
    counts = {
        group.name: -(-group.channels // step) * step
        for group in channels.groups
        if any(name in odd for name in (slot.node for slot in group.slots))
        and _pays(network, channels, group, step, set(placement.integer))
        and not any(FORMATS[weights[s.node].bits].values for s in group.slots if s.node in weights)
        and may_widen(network, channels, group)
    }
    if not counts:
        return pruned, dict(weights), ""
    wide = widen(network, channels, counts)
    changed = {
        name: _repeated(params, network.layers[name], wide.kept_out[name], wide.kept_in[name])
        for name, params in weights.items()
    }
    added = sum(number - channels[name].channels for name, number in counts.items())
    told = f"{added} channels were added that nothing reads: depthwise integer kernels take {step} of them at a time"
    kept_out = {name: pruned.kept_out[name][picks] for name, picks in wide.kept_out.items()}
    kept_in = {name: pruned.kept_in[name][picks] for name, picks in wide.kept_in.items()}
    return Pruned(wide.network, kept_out, kept_in), changed, told


def _pays(network: Network, channels: Channels, group: ChannelGroup, step: int, integer: set[str]) -> bool:
    """The module's inequality."""
    sizes = channels.shapes.sizes
    layers = {s.node: network.layers[s.node] for s in group.slots if s.node in network.layers}
    depthwise = [layer for name, layer in layers.items() if layer.depthwise and name in integer]
    work = {name: count(layer, sizes).macs for name, layer in layers.items()}
    values = sum(_written(layer, sizes) for layer in depthwise)
    left, added = group.channels % step, -group.channels % step
    saved = ALONE * left * sum(work[layer.name] for layer in depthwise)
    return saved > added * (sum(work.values()) + VALUE * values)


def _written(layer: Layer, sizes: Mapping[str, Size]) -> int:
    """Values that a layer writes; 0 where the sizes are unknown."""
    size = sizes.get(layer.node.outputs[0].name)
    return 0 if size is None else prod(size)


def _repeated(params: QuantParams, layer: Layer, out: Index, into: Index) -> QuantParams:
    """Codes with output channels repeated, and 0 for input channels that are."""
    groups, rows, _ = params.codes.shape
    finer = None if params.finer is None else _repeated(params.finer, layer, out, into)
    if layer.depthwise:
        return replace(params, codes=params.codes[out], scale=params.scale[out], finer=finer)
    if len(out) == layer.out_channels and len(into) == layer.in_channels:
        return params
    codes = params.codes.reshape(groups, rows, layer.in_channels, -1)[:, out][:, :, into]
    codes[:, :, layer.in_channels :] = 0
    return replace(params, codes=codes.reshape(1, len(out), -1), scale=params.scale[:, out], finer=finer)
