"""How many channels each group keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.groups import ChannelGroup
from onnx_udfc.numerics.elimination import Removal

Index = NDArray[np.int64]
Double = NDArray[np.float64]
Align = int | Literal["auto", "integer"]

_NEARLY_ALL = 0.9  # of a layer's variance
_ALIGNMENTS = {"auto": (16, 8, 4, 2, 1), "integer": (16, 8, 4)}  # integer kernels take four values at a time
_NEAR = 32  # the part of the channels that an alignment may cost: a sixteenth cost ResNet-56 7 points at 70 %


def uniform_counts(groups: tuple[ChannelGroup, ...], ratio: float, align: Align) -> dict[str, int]:
    """Kept channels of each group when every group loses the same fraction."""
    return {g.name: aligned(g, g.channels - round(g.channels * ratio), align) for g in groups}


def aligned(group: ChannelGroup, count: int, align: Align) -> int:
    """The count, moved to a multiple that kernels like; at least one channel of each cell, never more than there are.

    Args:
        group: its cells keep equally many channels, so that the count is a multiple of their number, too.
        count: wanted.
        align: the multiple, or `auto`: the largest of 16, 8, 4, 2 that moves the count by at most 1/32 of the
            group's channels; `integer` is the same, but a multiple of 4 at least.
    """
    if count >= group.channels:
        return group.channels
    cells = int(group.cells.max()) + 1
    if isinstance(align, int):
        return _multiple(count, int(np.lcm(align, cells)), cells, group.channels)
    *steps, least = _ALIGNMENTS[align]
    for step in steps:
        moved = _multiple(count, int(np.lcm(step, cells)), cells, group.channels)
        if moved % step == 0 and abs(moved - count) * _NEAR <= group.channels:
            return moved
    return _multiple(count, int(np.lcm(least, cells)), cells, group.channels)


def finest(align: Align) -> int:
    """The smallest multiple that an alignment may end in."""
    return align if isinstance(align, int) else _ALIGNMENTS[align][-1]


def _multiple(count: int, step: int, least: int, most: int) -> int:
    """The multiple of `step` nearest to the count (the lower of two); `least` where none fits."""
    below = count // step * step
    nearest = below if count - below <= below + step - count else below + step
    if nearest > most:
        nearest = below
    return nearest if nearest > 0 else min(step, most) if step <= most else least


def allowed_counts(group: ChannelGroup, align: Align) -> Double:
    """All counts (n,) that a group may keep, falling: they are what `aligned` makes of any count."""
    counts = {aligned(group, n, align) for n in range(1, group.channels + 1)}
    return np.array(sorted(counts, reverse=True), np.float64)


def steps_of(group: ChannelGroup, removal: Removal) -> Double:
    """Damage (channels of the largest cell − 1,) of removing one channel of every cell, in order, never falling."""
    cost = removal.cost.copy()
    cost[~np.isfinite(cost)] = 0.0  # the last channel never goes
    cells = group.cells[removal.order]
    parts = [cost[cells == cell] for cell in range(int(group.cells.max()) + 1)]
    longest = max(len(part) for part in parts)  # cells may differ by a channel: what the smaller ones lack is free
    rounds = sum(np.concatenate([np.zeros(longest - len(part)), part]) for part in parts)
    return np.maximum.accumulate(np.asarray(rounds, np.float64)[:-1].clip(0))


def damage_of(group: ChannelGroup, removal: Removal, counts: Double) -> Double:
    """Damage (n,) of keeping so many channels (n,)."""
    total = np.concatenate([[0.0], np.cumsum(steps_of(group, removal))])
    total = as_one_of_many(total) if removal.shares else total
    cells = int(group.cells.max()) + 1
    removed = np.where(counts >= group.channels, 0, len(total) - counts / cells)
    return np.asarray(total[np.round(removed).astype(np.int64)])


def as_one_of_many(share: Double) -> Double:
    """Damage that adds up over layers, of a lost share of the variance: what is left multiplies, so −log(1 − share).

    Near 1, where a share is too uncertain to be told from all, it goes on along the tangent.
    """
    near = np.minimum(share, _NEARLY_ALL)
    return np.asarray(-np.log1p(-near) + (share - near) / (1 - _NEARLY_ALL))


def group_levels(
    groups: tuple[ChannelGroup, ...], removals: Mapping[str, Removal], align: Align
) -> list[tuple[Double, Double]]:
    """Counts and their damage for each group."""
    counts = [allowed_counts(g, align) for g in groups]
    return [(n, damage_of(g, removals[g.name], n)) for g, n in zip(groups, counts, strict=True)]


def keep_sets(
    groups: tuple[ChannelGroup, ...], removals: Mapping[str, Removal], counts: Mapping[str, int]
) -> dict[str, Index]:
    """Group name → sorted channels that stay: the last ones in the order of removal, equally many of each cell."""
    return {g.name: _kept(g, removals[g.name], counts[g.name]) for g in groups}


def _kept(group: ChannelGroup, removal: Removal, count: int) -> Index:
    cells = int(group.cells.max()) + 1
    last_first = removal.order[::-1]
    chosen = [last_first[group.cells[last_first] == cell][: count // cells] for cell in range(cells)]
    return np.sort(np.concatenate(chosen))
