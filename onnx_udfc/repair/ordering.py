"""The order in which the channels of each group go, from what the original network's layers see."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.elimination import ConsumerInput, Removal, eliminate
from onnx_udfc.numerics.layer_fit import summable
from onnx_udfc.numerics.leading import narrowed
from onnx_udfc.numerics.moments import shrunk_covariance
from onnx_udfc.repair.absorb import input_rows

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.metric import Metric
    from onnx_udfc.numerics.moments import Array

Double = NDArray[np.float64]
Index = NDArray[np.int64]

RIDGE = 0.01  # relative to mean(diag G)
MOST_ROWS = 512  # of a Gram: the channels of a wider layer are seen in their leading directions, at least one each
TOO_LARGE = "has values too large for sums in float32"
WIDEST = 8192  # channels that are too many even so


class Ordering:
    """Collects what the consumers of each group see, and orders its channels when the last one was seen.

    Attributes:
        removals: group name → nested order of removal, for the groups whose consumers were all seen.
        unseen: group name → why a consumer was not seen, in words for the user.
    """

    def __init__(self, groups: Sequence[ChannelGroup], *, few: bool, gates: Collection[str] = ()) -> None:
        """Start with nothing seen.

        With `few` the inputs show little of what the network tells apart, so that errors look smaller than they are.
        The `gates` are layers that are believed even so: what they write only scales, and one pooled sample of an input
        says enough for that. Else no channel that a gate reads would ever go.
        """
        self.removals: dict[str, Removal] = {}
        self.unseen: dict[str, str] = {}
        self._groups, self._few, self._gates = groups, few, gates
        self._waiting: dict[str, list[ConsumerInput]] = {group.name: [] for group in groups}
        self._seen: dict[str, set[str]] = {group.name: set() for group in groups}

    def wanted(self, layer: Layer) -> list[ChannelGroup]:
        """The groups that a layer consumes."""
        return [group for group in self._groups if layer.name in group.consumers]

    def left(self) -> dict[str, str]:
        """Group name → why it has no order, in words for the user."""
        missing = [g.name for g in self._groups if g.name not in self.removals]
        return {name: self.unseen.get(name, "not all layers that read them could be run") for name in missing}

    def see(self, layer: Layer, patches: Array, weight: Double, metric: Metric, gram: Double | None = None) -> None:
        """Take what a layer sees.

        Args:
            layer: one that consumes a group.
            patches: (g, n, d) of its input.
            weight: (g, o, d).
            metric: how errors of the outputs count.
            gram: (g, d, d) covariance of the patches, where it is known.
        """
        wanted = self.wanted(layer)
        if not summable(patches):
            self.unseen |= dict.fromkeys((g.name for g in wanted), f"what {layer.name} reads {TOO_LARGE}")
            return
        rows = [input_rows(layer, group) for group in wanted]
        block = _block(rows, patches.shape[2])
        rank = max(1, MOST_ROWS * block // patches.shape[2])
        if 2 * rank <= block:
            (patches, weight), gram = narrowed(patches, weight, metric, block, rank), None
            rows = [_narrowed_rows(owned, block, rank) for owned in rows]
        elif patches.shape[2] <= WIDEST:
            weight = metric.scaled(weight).transpose(0, 2, 1)
        if patches.shape[2] > WIDEST:
            self.unseen |= dict.fromkeys((g.name for g in wanted), f"{layer.name} reads too many of them to weigh each")
            return
        gram = shrunk_covariance(patches, gram)
        count = patches.shape[1] if self._few and layer.name not in self._gates else 0
        for group, owned in zip(wanted, rows, strict=True):
            parts = [(i, r) for i, r in enumerate(owned) if (r >= 0).any()]
            self._waiting[group.name] += [ConsumerInput(gram[i], weight[i], r, count, layer.name) for i, r in parts]
            self._seen[group.name].add(layer.name)
            if self._seen[group.name] == set(group.consumers):
                self.removals[group.name] = eliminate(self._waiting.pop(group.name), group.channels, RIDGE)


def _block(rows: list[Index], width: int) -> int:
    """How many rows side by side always belong to one channel; 1 if they are not side by side."""
    block = int(np.gcd.reduce([owned.shape[2] for owned in rows] + [width]))
    for owned in rows:
        there = owned[owned[..., 0] >= 0].reshape(-1, block)
        if (there[:, :1] % block).any() or (there != there[:, :1] + np.arange(block)).any():
            return 1
    return block


def _narrowed_rows(rows: Index, block: int, rank: int) -> Index:
    """The rows (g, C, m) where every `block` of them became `rank`."""
    first = rows[..., ::block]
    moved = np.where(first[..., None] < 0, -1, first[..., None] // block * rank + np.arange(rank))
    return moved.reshape(*rows.shape[:2], -1)
