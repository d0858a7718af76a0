"""Channel groups: which channels of which layers must be pruned together, and which cannot be pruned, and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.cells import Classes, balance_cells
from onnx_udfc.channels.labels import Barrier, Flow, Ids, RuleWarning
from onnx_udfc.channels.replay import MisalignedError, replay
from onnx_udfc.channels.rules.table import propagate
from onnx_udfc.channels.shapes import Shapes, check_fit, resolve
from onnx_udfc.model.layers import LAYERS
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.names import matches
from onnx_udfc.model.tied import twins

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Kind = Literal["inner", "stream"]

TRIALS = 5

__all__ = ["ChannelGroup", "Channels", "Skip", "Slot", "find_groups"]


@dataclass(frozen=True)
class Slot:
    """A place in a constant that belongs to the channels of a group.

    Attributes:
        node: the node that reads the constant.
        role: 'producer', 'link' or 'consumer'.
        tensor: the constant's name.
        axis: of the constant.
        members: (channels, m) channel j owns the indices members[j] along the axis. With `groups` > 1 the index is the
            channel number of the layer, counted through all groups, of which the axis holds one group's share.
        groups: 1, or that of the grouped convolution.
    """

    node: str
    role: str
    tensor: str
    axis: int
    members: NDArray[np.int64]
    groups: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are pruned together in all their places.

    Attributes:
        name: unique; the name of its first producer, with '#2' and so on behind it where that has several groups.
        channels: number of channels C.
        producers: names of the layers that compute them.
        consumers: names of the layers that read them.
        slots: their places in constants.
        kind: 'stream' if several producers meet in a sum (a residual stream), else 'inner'.
        cells: (C,) number of the cell of every channel: what is kept must hold equally many of every cell.
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    slots: tuple[Slot, ...]
    kind: Kind
    cells: NDArray[np.int64]

    def outputs(self, layer: str) -> NDArray[np.int64]:
        """(C, m) the output channels of a producer that belong to each channel of the group."""
        return self._members(layer, "producer")

    def inputs(self, layer: str) -> NDArray[np.int64]:
        """(C, m) the input channels of a consumer that belong to each channel of the group."""
        return self._members(layer, "consumer")

    def _members(self, layer: str, role: str) -> NDArray[np.int64]:
        return next(slot.members for slot in self.slots if slot.node == layer and slot.role == role)


@dataclass(frozen=True)
class Skip:
    """A layer whose output channels stay: the reason in words for the user, and the place."""

    node: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Channels:
    """What can be pruned in a network.

    Attributes:
        groups: disjoint sets of channels, in the order of the network.
        skips: the layers none of whose output channels is in a group.
        notes: what pruning changes beyond the removed channels, in words for the user.
        flow: the labels behind the groups.
        root: (ids,) id → the smallest id of its channel.
        roots: group name → (C,) its channels as roots.
        shapes: of the network's tensors, dynamic dimensions replaced.
    """

    groups: tuple[ChannelGroup, ...]
    skips: tuple[Skip, ...]
    notes: tuple[str, ...]
    flow: Flow
    root: Ids
    roots: Mapping[str, Ids]
    shapes: Shapes

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of that name."""
        return next(group for group in self.groups if group.name == name)


def find_groups(network: Network, skip: Sequence[str] = ()) -> Channels:
    """Follow the channels of all layers through the network and collect them in groups.

    `skip` are patterns (* and ?) of node or tensor names: the channels in and out of such a node, or of such a tensor,
    are left alone.

    Raises:
        ModelError: a layer reads another number of channels than it has weights for.
    """
    shapes = resolve(network)
    check_fit(network, shapes)
    flow = Flow(network, shapes)
    propagate(flow)
    _tie(flow)
    _bar_skipped(flow, skip)
    return _collect(flow, _tried(flow))


def _tie(flow: Flow) -> None:
    """Layers that share a weight lose the same channels, so that it stays one: apart, the file would be larger."""
    for names in twins(flow.network):
        links = [{link.axis: link for link in flow.links if link.node == name and link.index == 1} for name in names]
        for axis in sorted(set().union(*links)):
            met = [found[axis] for found in links if axis in found]
            for link in met[1:]:
                flow.unite(met[0].ids, link.ids, flow.node(link.node))
            if len(met) < len(names):
                node = flow.node(met[0].node)
                flow.bar(met[0].ids, node, "its weight is also that of a layer whose channels stay")


def _tried(flow: Flow) -> Classes:
    """Groups that were tried out: channels that do not line up when some are gone are left alone."""
    while True:
        classes = balance_cells(flow)
        if not classes.groups:
            return classes
        try:
            for seed in range(TRIALS):
                replay(flow, classes.root, _some(classes, seed))
        except MisalignedError as error:
            _bar_around(flow, classes, error)
        else:
            return classes


def _some(classes: Classes, seed: int) -> NDArray[np.bool_]:
    """(ids,) whether each root is kept, when random ones of every cell go.

    Half of them, all but one, one, and then as many as it happens, in every group another number.
    """
    random = np.random.default_rng(seed)
    kept = np.ones(len(classes.root), bool)
    for members in classes.groups:
        cells = classes.cells[members]
        least = int(np.bincount(cells).min())
        stay = max(1, (least // 2, 1, least - 1)[seed] if seed < 3 else int(random.integers(1, least + 1)))
        for cell in range(int(cells.max()) + 1):
            inside = random.permutation(members[cells == cell])
            kept[inside[stay:]] = False
    return kept


def _bar_around(flow: Flow, classes: Classes, error: MisalignedError) -> None:
    """Leave the channels at a node alone, or, where they stay already, those at the nearest node before it."""
    node = flow.node(error.node)
    reason = f"its channels are rearranged around a {node.op} in a way that cannot be followed"
    free = np.zeros(flow.count, bool)
    free[np.concatenate(classes.groups)] = True
    for place in _before(flow, (error.node, *error.others)):
        around = [ids for t in [*place.inputs, *place.outputs] if (ids := flow.get(t)) is not None]
        if any(free[classes.root[ids]].any() for ids in around):
            for ids in around:
                flow.bar(ids, node, reason)
            return
    warnings.warn(f"nothing can go in front of '{error.node}', but {error.what}", RuleWarning, stacklevel=2)
    flow.bar(np.flatnonzero(free), node, reason)


def _before(flow: Flow, names: Sequence[str]) -> Iterator[gs.Node]:
    """Those nodes, and all in front of them, the nearest first."""
    pending, seen = [flow.node(name) for name in names], set(names)
    for node in pending:
        yield node
        for maker in (maker for tensor in node.inputs for maker in tensor.inputs):
            if maker.name not in seen:
                seen.add(maker.name)
                pending.append(maker)


def _bar_skipped(flow: Flow, skip: Sequence[str]) -> None:
    meant = layers_meant(skip, flow.network)
    for node in flow.network.graph.nodes:
        whole = node.name in meant or matches(node.name, skip)
        tensors = [t for t in [*node.inputs, *node.outputs] if whole or matches(t.name, skip)]
        for tensor in tensors:
            flow.bar(flow.get(tensor), node, "it is left alone as asked (--skip)", node.name)


def _collect(flow: Flow, classes: Classes) -> Channels:
    """Groups of the prunable channels with the same places, in the order of their first producers."""
    groups: list[ChannelGroup] = []
    roots: dict[str, Ids] = {}
    single: dict[str, Skip] = {}
    for members, slots in zip(classes.groups, _slots(flow, classes), strict=True):
        producers = _nodes(slots, "producer")
        if int(classes.cells[members].max()) + 1 == len(members):
            single |= {p: Skip(p, "it has one channel, or one in each group", "") for p in producers}
            continue
        name = _group_name(producers[0], roots)
        is_stream = len(producers) > 1 and bool(np.isin(members, classes.residual).any())
        kind: Kind = "stream" if is_stream else "inner"
        cells = classes.cells[members]
        consumers = _nodes(slots, "consumer")
        groups.append(ChannelGroup(name, len(members), producers, consumers, slots, kind, cells))
        roots[name] = members
    touched = {slot.node for group in groups for slot in group.slots if slot.role != "consumer"}
    skips = _skips(flow, classes, touched, single)
    notes = tuple(f"{node}: {note}" for node, note in flow.approximate.items())
    return Channels(tuple(groups), skips, notes, flow, classes.root, roots, flow.shapes)


def _nodes(slots: Sequence[Slot], role: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(slot.node for slot in slots if slot.role == role))


def _group_name(producer: str, taken: Mapping[str, Ids]) -> str:
    number, name = 1, producer
    while name in taken:
        number += 1
        name = f"{producer}#{number}"
    return name


def _slots(flow: Flow, classes: Classes) -> list[tuple[Slot, ...]]:
    """For every group its places; channel j is its j-th member."""
    owner = np.full(len(classes.root), -1, np.int64)
    channel = np.zeros(len(classes.root), np.int64)
    for number, members in enumerate(classes.groups):
        owner[members], channel[members] = number, np.arange(len(members))
    slots: list[list[Slot]] = [[] for _ in classes.groups]
    for link, place in zip(flow.links, classes.places, strict=True):
        tensor = flow.node(link.node).inputs[link.index].name
        order = np.lexsort((channel[place], owner[place]))
        owners, starts = np.unique(owner[place[order]], return_index=True)
        for number, at in zip(owners, np.split(order, starts[1:]), strict=True):
            if number >= 0:
                members = at.reshape(len(classes.groups[number]), -1)
                slots[number].append(Slot(link.node, link.role, tensor, link.axis, members, link.groups))
    return [tuple(found) for found in slots]


def _skips(flow: Flow, classes: Classes, pruned: set[str], single: Mapping[str, Skip]) -> tuple[Skip, ...]:
    """A reason for every layer without prunable output channels."""
    first: dict[int, Barrier] = {}
    for barrier in flow.barriers:
        for root in np.unique(classes.root[barrier.ids]):
            first.setdefault(int(root), barrier)
    skips = []
    for name, layer in flow.network.layers.items():
        if name in pruned:
            continue
        ids = flow.get(layer.node.outputs[0])
        barriers = [] if ids is None else [b for i in np.unique(ids) if (b := first.get(int(classes.root[i])))]
        if name in single:
            skips.append(single[name])
        elif barriers:
            skips.append(Skip(name, barriers[0].reason, barriers[0].detail))
        else:
            skips.append(Skip(name, "its channels follow those of its input, which cannot be removed", ""))
    computed = [n for n in flow.network.graph.nodes if n.op in LAYERS and n.name not in flow.network.layers]
    return (*skips, *(Skip(n.name, _no_layer(n), f"{n.op} {n.name}") for n in computed))


def _no_layer(node: gs.Node) -> str:
    """Why a convolution or matrix product is not a layer that can be changed."""
    makers = [maker.op for tensor in node.inputs[1:2] for maker in tensor.inputs]
    return "it is already quantized" if makers == ["DequantizeLinear"] else "its weight is not a plain constant"
