"""Channel methods on a network: what a group's producers say of it, and its consumers absorbing the pruned channels."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.model.graph import peek
from onnx_udfc.numerics.reconstruct import Method, Producer

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]
Index = NDArray[np.int64]


def producer_of(network: Network, group: ChannelGroup) -> Producer:
    """The group's weights, biases and batch-norm factors; several producers stand side by side.

    Returns:
        weight (C, d), bias (C,) and scale (C,); bias and scale are those of the first producer.
    """
    weights, first = [], network.layers[group.producers[0]]
    for name in group.producers:
        layer = network.layers[name]
        rows = layer.matrix().reshape(layer.out_channels, -1)
        weights.append(rows[group.outputs(name)].reshape(group.channels, -1))
    lead = group.outputs(first.name)[:, 0]
    return Producer(np.concatenate(weights, axis=1), first.bias.astype(np.float64)[lead], _scale(first)[lead])


def _scale(layer: Layer) -> Double:
    """Batch-norm factor (O,) that was folded into the layer."""
    norm = layer.batch_norm
    if norm is None:
        return np.ones(layer.out_channels)
    return np.asarray(norm.gamma / np.sqrt(norm.var + norm.epsilon), np.float64)


def absorb(network: Network, channels: Channels, keep: Mapping[str, Index], method: Method) -> None:
    """Let every consumer of a pruned group take over what the method says, in place; nothing is removed yet.

    Consumers with several channel groups keep their columns: a channel cannot be handed to another group's weights.
    """
    for name, kept in keep.items():
        group = channels[name]
        if len(kept) == group.channels:
            continue
        mixing = method.mix(producer_of(network, group), kept)
        _take_over(network, group, kept, mixing)


def absorb_copies(start: Network, network: Network, channels: Channels, keep: Mapping[str, Index]) -> None:
    """Let a kept channel stand for the pruned ones that are copies of it, in place: removing a copy then costs nothing.

    Copies are channels with the same constants in all of their places in the original network; `keep` is group name →
    channels that stay.
    """
    for name, kept in keep.items():
        mixing = _copies(network, channels[name], kept)
        if mixing is not None:
            _take_over(start, channels[name], kept, mixing)


def _take_over(network: Network, group: ChannelGroup, kept: Index, mixing: Double) -> None:
    """Add to the columns of the kept channels what the mixing (C, |K|) hands them."""
    change = mixing.copy()
    change[kept, np.arange(len(kept))] -= 1  # what each kept channel has of itself already
    given = np.flatnonzero(change.any(axis=1))
    for consumer in group.consumers if len(given) else ():
        layer = network.layers[consumer]
        if layer.groups == 1:
            rows = input_rows(layer, group)[0]
            matrix = layer.matrix()
            handed = np.einsum("ocm,ck->okm", matrix[0][:, rows[given]], change[given], optimize=True)
            matrix[0][:, rows[kept]] += handed
            layer.set(matrix, layer.bias)
            network.lighten()


def _copies(network: Network, group: ChannelGroup, kept: Index) -> Double | None:
    """Mixing (C, |K|) that hands every copy to the kept channel it is a copy of; None if there are no copies.

    Grouped producers read different inputs, so that equal weights say nothing there.
    """
    if any(network.layers[name].groups > 1 for name in group.producers):
        return None
    prints = _fingerprints(network, group)
    first = {prints[c]: i for i, c in reversed(list(enumerate(kept.tolist())))}
    pruned = np.setdiff1d(np.arange(group.channels), kept).tolist()
    copies = [(c, first[prints[c]]) for c in pruned if prints[c] in first]
    if not copies:
        return None
    mixing = np.zeros((group.channels, len(kept)))
    mixing[kept, np.arange(len(kept))] = 1
    mixing[tuple(np.transpose(copies))] = 1
    return mixing


def _fingerprints(network: Network, group: ChannelGroup) -> list[bytes]:
    """For each channel a digest of all constants that make it."""
    digests = [blake2b() for _ in range(group.channels)]
    nodes = {node.name: node for node in network.graph.nodes}
    for slot in group.slots:
        if slot.role != "consumer":
            values = next(peek(t) for t in nodes[slot.node].inputs if t.name == slot.tensor)
            rows = np.moveaxis(values, slot.axis, 0)
            for digest, members in zip(digests, slot.members, strict=True):
                digest.update(rows[members].tobytes())
    return [digest.digest() for digest in digests]


def input_rows(layer: Layer, group: ChannelGroup) -> Index:
    """Rows (g, C, m) of the layer's patches that each channel of the group owns, -1 for none in that channel group."""
    members = group.inputs(layer.name)
    taps = int(np.prod(layer.kernel))
    per_group = layer.in_channels // layer.groups
    rows = np.full((layer.groups, group.channels, members.shape[1] * taps), -1, np.int64)
    for i in range(layer.groups):
        inside = (members // per_group == i).all(axis=1)
        local = (members[inside] - i * per_group)[:, :, None] * taps + np.arange(taps)
        rows[i, inside] = local.reshape(int(inside.sum()), members.shape[1] * taps)
    return rows


def with_weights(layer: Layer, matrix: Double) -> Producer:
    """What a channel method knows of a layer with these weights (groups, O/groups, d)."""
    return Producer(matrix.reshape(layer.out_channels, -1), layer.bias.astype(np.float64), _scale(layer))
