"""Applies what to keep: the only place where constants, attributes and shapes of a network change with its channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.replay import Replay, replay
from onnx_udfc.model.graph import position
from onnx_udfc.model.names import unique_name

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.channels.labels import Ids, Link
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

Keep = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Pruned:
    """A network without the channels that were removed.

    Attributes:
        network: the pruned copy.
        kept_out: layer → original numbers of its remaining output channels, in their physical order.
        kept_in: layer → the same of its input channels. Behind a channel shuffle the order need not be sorted.
    """

    network: Network
    kept_out: dict[str, NDArray[np.int64]]
    kept_in: dict[str, NDArray[np.int64]]


def prune(network: Network, channels: Channels, keep: Keep) -> Pruned:
    """Remove channels from a copy of the network.

    `channels` were found in it, or in one with the same nodes and other weights. `keep` is group name → sorted numbers
    of the channels that stay, at least one; groups that are not named stay whole.
    """
    walk = replay(channels.flow, channels.root, kept_roots(channels, keep))
    copy = network.copy()
    nodes = {node.name: node for node in copy.graph.nodes}
    taken = set(copy.graph.tensors())
    for node, slices in _by_constant(walk).items():
        _slice_constant(nodes[node[0]], node[1], slices, taken)
    _edit(nodes, walk, taken)
    for name, (picks, alone) in walk.gathers.items():
        _gather_instead(copy.graph, nodes[name], picks, alone, taken)
    _forget_shapes(copy)
    return _with_norms(network, copy, *_kept(network, walk))


def widen(network: Network, channels: Channels, counts: Mapping[str, int]) -> Pruned:
    """Add channels to groups of a copy of the network: repetitions of the last one, which no consumer reads.

    `counts` is name of a group that `may_widen` → channels that it is to have.
    """
    copy = network.copy()
    nodes, taken = {node.name: node for node in copy.graph.nodes}, set(copy.graph.tensors())
    before = {node.name: [t.name for t in node.inputs] for node in network.graph.nodes}
    kept_out, kept_in = _every(network)
    for name, count in counts.items():
        group = channels[name]
        picks = np.minimum(np.arange(count), group.channels - 1)
        for slot in group.slots:
            index = before[slot.node].index(slot.tensor)
            values = np.take(nodes[slot.node].inputs[index].values, picks, slot.axis)
            if slot.role == "consumer":
                np.moveaxis(values, slot.axis, 0)[group.channels :] = 0
            _set_constant(nodes[slot.node], index, values, taken)
            if slot.node in kept_out and index == 1:
                kept_out |= {slot.node: picks} if slot.role != "consumer" else {}
                kept_in |= {slot.node: picks} if slot.role != "producer" else {}
                nodes[slot.node].attrs.update({"group": count} if slot.role == "link" else {})
    _forget_shapes(copy)
    return _with_norms(network, copy, kept_out, kept_in)


def _with_norms(network: Network, copy: Network, kept_out: dict[str, Ids], kept_in: dict[str, Ids]) -> Pruned:
    """The copy, once the batch norms that were folded into its layers have the layers' channels."""
    for name, layer in copy.layers.items():
        if layer.batch_norm is not None and len(kept_out[name]) != network.layers[name].out_channels:
            layer.batch_norm = layer.batch_norm.take(kept_out[name])
    return Pruned(copy, kept_out, kept_in)


def _every(network: Network) -> tuple[dict[str, Ids], dict[str, Ids]]:
    """For every layer the numbers of its output and of its input channels."""
    layers = network.layers.items()
    return {n: np.arange(x.out_channels) for n, x in layers}, {n: np.arange(x.in_channels) for n, x in layers}


def may_widen(network: Network, channels: Channels, group: ChannelGroup) -> bool:
    """Whether nothing but the places in constants, all along one axis, and depthwise layers know how many there are."""
    count = group.channels
    for slot in group.slots:
        layer = network.layers.get(slot.node)
        if slot.groups != 1 or not np.array_equal(slot.members, np.arange(count)[:, None]):
            return False
        if layer is not None and not layer.depthwise and (slot.role == "link" or layer.groups > 1):
            return False
    if count == 1 or group.cells.any():
        return False
    walk = replay(channels.flow, channels.root, kept_roots(channels, {group.name: np.arange(count - 1)}))
    lengths = {len(link.ids) for link, left in walk.indices if len(left) < len(link.ids)}
    return lengths == {count} and {key for _, key in walk.attributes} <= {"group"} and not walk.inputs | walk.gathers


def kept_roots(channels: Channels, keep: Keep) -> NDArray[np.bool_]:
    """(ids,) whether each channel stays, by its root."""
    kept = np.ones(len(channels.root), bool)
    for name, indices in keep.items():
        group = channels[name]
        indices = np.asarray(indices, np.int64)
        counts = np.bincount(group.cells[indices], minlength=int(group.cells.max()) + 1)
        assert len(indices) == group.channels or len(set(counts)) == 1, f"{name}: cells keep {counts} channels"
        assert len(indices) > 0, f"{name}: nothing is kept"
        kept[channels.roots[name]] = False
        kept[channels.roots[name][indices]] = True
    return kept


def _by_constant(walk: Replay) -> dict[tuple[str, int], list[tuple[Link, Ids]]]:
    """The slices that change something, by node and input."""
    slices: dict[tuple[str, int], list[tuple[Link, Ids]]] = {}
    for link, indices in walk.indices:
        if not np.array_equal(indices, np.arange(len(link.ids))):
            slices.setdefault((link.node, link.index), []).append((link, indices))
    return slices


def _slice_constant(node: gs.Node, index: int, slices: list[tuple[Link, Ids]], taken: set[str]) -> None:
    """Give the node its own sliced constant, if others read it too."""
    constant = node.inputs[index]
    values = constant.values
    for link, indices in sorted(slices, key=lambda s: s[0].groups):
        values = np.take(values, indices, link.axis) if link.groups == 1 else _take_grouped(values, link, indices)
    _set_constant(node, index, np.ascontiguousarray(values), taken)


def _take_grouped(values: NDArray[np.generic], link: Link, indices: Ids) -> NDArray[np.generic]:
    """Slice the axis that holds one group's share, for each group its own; the other channel axis is sliced already."""
    other = 1 - link.axis
    share = len(link.ids) // link.groups
    blocks = np.split(values, link.groups, other)
    rows = indices.reshape(link.groups, -1) - share * np.arange(link.groups)[:, None]
    return np.concatenate([np.take(b, r, link.axis) for b, r in zip(blocks, rows, strict=True)], other)


def _set_constant(node: gs.Node, index: int, values: NDArray[np.generic], taken: set[str]) -> None:
    old = node.inputs[index] if index < len(node.inputs) else None
    if isinstance(old, gs.Constant) and len(old.outputs) == 1:
        old.values = values
        return
    base = f"{node.name}.{index}" if old is None or old.is_empty() else f"{old.name}.pruned"
    new = gs.Constant(unique_name(base, taken), values)
    while len(node.inputs) <= index:
        node.inputs.append(new if len(node.inputs) == index else gs.Variable.empty())
    if node.inputs[index] is not new:
        node.inputs[index] = new


def _edit(nodes: Mapping[str, gs.Node], walk: Replay, taken: set[str]) -> None:
    """Write the attributes and the constants that name sizes or indices of channels."""
    for (name, attribute), number in walk.attributes.items():
        nodes[name].attrs[attribute] = number
    for (name, index), value in walk.inputs.items():
        node = nodes[name]
        old = node.inputs[index] if index < len(node.inputs) else None
        if isinstance(old, gs.Constant):
            if np.array_equal(np.ravel(old.values), np.ravel(value)):
                continue
            value = value.astype(old.values.dtype).reshape(old.values.shape if old.values.size == value.size else -1)
        node.attrs.pop("num_outputs", None)
        _set_constant(node, index, value, taken)


def _gather_instead(graph: gs.Graph, node: gs.Node, picks: list[tuple[int, Ids]], alone: bool, taken: set[str]) -> None:
    """Take what a Slice took by its indices: in its place if there is nothing else that it takes, else behind it."""
    for i, (axis, indices) in enumerate(picks):
        constant = gs.Constant(unique_name(f"{node.name}.indices", taken), indices)
        if alone and i == 0:
            node.op, node.attrs, node.inputs = "Gather", OrderedDict(axis=axis), [node.inputs[0], constant]
            continue
        out = node.outputs[0]
        inner = gs.Variable(unique_name(f"{out.name}.cut", taken), out.dtype)
        node.outputs = [inner]
        behind = gs.Node("Gather", unique_name(f"{node.name}.gather", taken), {"axis": axis}, [inner, constant], [out])
        graph.nodes.insert(position(graph, node) + 1, behind)


def _forget_shapes(network: Network) -> None:
    """Shapes of intermediate tensors are stale; those of inputs and outputs stay."""
    ends = {id(t) for t in [*network.graph.inputs, *network.graph.outputs]}
    for tensor in network.graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in ends:
            tensor.shape = None


def _kept(network: Network, walk: Replay) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
    """For every layer the original numbers of its output and input channels that are left."""
    out, into = _every(network)
    for link, indices in walk.indices:
        if link.node in out and link.index == 1:
            layer = network.layers[link.node]
            if link.role == "consumer":
                into[link.node] = indices
            elif link.role == "producer":
                out[link.node] = indices
            else:
                out[link.node], into[link.node] = _depthwise_channels(layer, indices)
    return out, into


def _depthwise_channels(layer: Layer, left: Ids) -> tuple[Ids, Ids]:
    """The output and the input channels of a depthwise layer with these rows of its weight left.

    The rows are output channels, those of a transposed convolution input channels.
    """
    multiplier = layer.out_channels // layer.in_channels
    if layer.stuffed:
        return (left[:, None] * multiplier + np.arange(multiplier)).ravel(), left
    return left, left[::multiplier] // multiplier
