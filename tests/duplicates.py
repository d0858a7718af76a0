"""Makes channels copies of others, so that pruning the copies is exact once their consumers' weights are added up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.groups import ChannelGroup, Channels, Slot
from onnx_udfc.model.network import Network

Keep = Mapping[str, NDArray[np.int64]]
Array = NDArray[np.floating]


def halves(channels: Channels) -> dict[str, NDArray[np.int64]]:
    """Of every cell of every group the first half, at least one channel."""
    return {group.name: np.sort(np.concatenate([kept for kept, _ in _pairs(group)])) for group in channels.groups}


def _pairs(group: ChannelGroup) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For every cell, the channels that stay and those that go."""
    cells = [np.flatnonzero(group.cells == cell) for cell in range(int(group.cells.max()) + 1)]
    stay = max(1, min(len(cell) for cell in cells) // 2)
    return [(cell[:stay], cell[stay:]) for cell in cells]


def duplicate(network: Network, channels: Channels) -> Network:
    """A copy in which every channel that goes is a copy of one that stays, in the same cell."""
    copy = network.copy()
    for slot, kept, gone in _moves(channels):
        if slot.role != "consumer":
            values = _constant(copy, slot).copy()
            for j, i in zip(slot.members[kept].ravel(), slot.members[gone].ravel(), strict=True):
                _entry(values, slot, i)[...] = _entry(values, slot, j)
            _set(copy, slot, values)
    return copy


def add_up(network: Network, channels: Channels) -> Network:
    """A copy of a network with copies of channels, in which only the originals are read, with both weights."""
    copy = network.copy()
    for slot, kept, gone in _moves(channels):
        if slot.role == "consumer":
            values = _constant(copy, slot).copy()
            for j, i in zip(slot.members[kept].ravel(), slot.members[gone].ravel(), strict=True):
                _entry(values, slot, j)[...] += _entry(values, slot, i)
                _entry(values, slot, i)[...] = 0
            _set(copy, slot, values)
    return copy


def _moves(channels: Channels) -> list[tuple[Slot, NDArray[np.int64], NDArray[np.int64]]]:
    """For every slot and cell, the channels that go, and for each of them one that stays."""
    return [
        (slot, np.resize(kept, len(gone)), gone)
        for group in channels.groups
        for kept, gone in _pairs(group)
        for slot in group.slots
    ]


def _entry(values: Array, slot: Slot, index: np.int64) -> Array:
    """A view on what index `index` of a slot owns."""
    if slot.groups == 1:
        return values[(slice(None),) * slot.axis + (slice(index, index + 1),)]
    share, block = values.shape[slot.axis], values.shape[1 - slot.axis] // slot.groups
    rows = slice(index // share * block, (index // share + 1) * block)
    return values[(rows, index % share) if slot.axis == 1 else (index % share, rows)]


def _constant(network: Network, slot: Slot) -> Array:
    return _find(network, slot).values  # type: ignore[no-any-return]


def _set(network: Network, slot: Slot, values: Array) -> None:
    _find(network, slot).values = values


def _find(network: Network, slot: Slot):  # type: ignore[no-untyped-def]
    node = next(n for n in network.graph.nodes if n.name == slot.node)
    return next(t for t in node.inputs if t.name == slot.tensor)
