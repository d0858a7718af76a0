"""How many channels each group keeps, and which counts kernels like.

onnxruntime's float kernels take channels in blocks of 16 (8 without AVX-512), and only where their number is a multiple
of 4 (`FOUR`); a layer of any other number runs on plain kernels. So a multiple of 16 wastes nothing, other multiples of
4 cost what the next of 16 costs, and any other count costs a spatial layer a quarter more, and a depthwise one two to
four times as much, than all channels did (measured: docs/allocation.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.elimination import Removal

Index = NDArray[np.int64]
Double = NDArray[np.float64]
Align = int | Literal["auto", "fours", "eights", "sixteens", "integer", "tensor"]

_NEARLY_ALL = 0.9  # of a layer's variance
BLOCKS: tuple[Align, ...] = ("sixteens", "eights", "fours")  # nothing is wasted, or half a block, or kernels run at all
FOUR = 4
_ALIGNMENTS = {  # integer kernels take four values at a time, tensor cores eight and their tiles up to 64
    "auto": (16, 8, FOUR, 2, 1), "fours": (16, 8, FOUR), "eights": (16, 8), "sixteens": (16,),
    "integer": (16, 8, FOUR), "tensor": (64, 32, 16, 8),
}  # fmt: skip
_WHOSE = {
    "auto": "its cells", "fours": "blocks of kernels", "eights": "blocks of kernels", "sixteens": "blocks of kernels",
    "integer": "integer kernels", "tensor": "tensor cores",
}  # fmt: skip
_NEAR = 32  # the part of the channels that an alignment may cost: a sixteenth cost ResNet-56 7 points at 70 %


def alignments(groups: Sequence[ChannelGroup], layers: Mapping[str, Layer], align: Align) -> dict[str, Align]:
    """Group name → what its counts are moved to; `auto` is fours where there is a depthwise layer, narrow or not."""
    deep = {g.name for g in groups if any(s.node in layers and layers[s.node].depthwise for s in g.slots)}
    return {g.name: "fours" if align == "auto" and g.name in deep else align for g in groups}


def left_by(group: ChannelGroup, ratio: float) -> int:
    """Channels that are left when this fraction of them goes, before any alignment."""
    return group.channels - round(group.channels * ratio)


def why_whole(group: ChannelGroup, wanted: int, align: Align) -> str:
    """Why `aligned` keeps all channels of a group that was to keep `wanted`, in words for the user."""
    if group.channels == 1:
        return "it has a single channel"
    if wanted >= group.channels:
        return f"the ratio takes less than one of its {group.channels} channels"
    step = int(np.lcm(finest(align), cells_of(group)))
    whose = f"--align {align}" if isinstance(align, int) else _WHOSE[align]
    return f"no multiple of {step} ({whose}) is nearer to the {wanted} channels wanted than all {group.channels}"


def cells_of(group: ChannelGroup) -> int:
    """Number of cells, which keep equally many channels."""
    return int(group.cells.max()) + 1


def aligned(group: ChannelGroup, count: int, align: Align) -> int:
    """The count, moved to a multiple that kernels like, or to all channels where that is nearer or no multiple fits.

    Args:
        group: its cells keep equally many channels, so that the count is a multiple of their number, too.
        count: wanted.
        align: the multiple, or `auto`: the largest of 16, 8, 4, 2 that moves the count by at most 1/32 of the
            group's channels; `fours`, `eights`, `sixteens` and `integer` are the same, but a multiple of 4, 8, 16 and
            4 at least; `tensor` is of 64, 32, 16, 8.
    """
    return _moved(group.channels, cells_of(group), count, align)


def _moved(channels: int, cells: int, count: int, align: Align) -> int:
    """`aligned` of a group of so many channels and cells."""
    if count >= channels:
        return channels
    if isinstance(align, int):
        return _nearest(count, math.lcm(align, cells), channels)
    *steps, least = _ALIGNMENTS[align]
    for step in steps:
        moved = _nearest(count, math.lcm(step, cells), channels)
        if moved % step == 0 and abs(moved - count) * _NEAR <= channels:
            return moved
    return _nearest(count, math.lcm(least, cells), channels)


def finest(align: Align) -> int:
    """The smallest multiple that an alignment may end in."""
    return align if isinstance(align, int) else _ALIGNMENTS[align][-1]


def finest_near(align: Align, channels: int) -> int:
    """The same of a group of so many channels, but 4 at least where no count is farther from one than `auto` allows."""
    return max(finest(align), FOUR) if channels >= FOUR // 2 * _NEAR and align == "auto" else finest(align)


def _nearest(count: int, step: int, most: int) -> int:
    """The nearest to the count (the lower of two) of the multiples of `step` and `most`, which is always feasible."""
    below = max(count // step * step, step)
    feasible = [n for n in (below, below + step) if n < most]
    return min([*feasible, most], key=lambda n: (abs(n - count), n))


def allowed_counts(group: ChannelGroup, align: Align) -> Double:
    """All counts (n,) that a group may keep, falling: they are what `aligned` makes of any count."""
    return np.array(_allowed(group.channels, cells_of(group), align), np.float64)


@cache
def _allowed(channels: int, cells: int, align: Align) -> tuple[int, ...]:
    """The same by what it depends on: layers of a network are alike, and it is asked for each time."""
    return tuple(sorted({_moved(channels, cells, n, align) for n in range(1, channels + 1)}, reverse=True))


def steps_of(group: ChannelGroup, removal: Removal, cost: Double | None = None) -> Double:
    """Damage (channels of the largest cell − 1,) of removing one channel of every cell, in order, never falling.

    `cost` is that of each removal where it is another one than the share that is lost.
    """
    cost = (removal.cost if cost is None else cost).copy()
    cost[~np.isfinite(cost)] = 0.0  # the last channel never goes
    cells = group.cells[removal.order]
    parts = [cost[cells == cell] for cell in range(cells_of(group))]
    longest = max(len(part) for part in parts)  # cells may differ by a channel: what the smaller ones lack is free
    rounds = sum(np.concatenate([np.zeros(longest - len(part)), part]) for part in parts)
    return np.maximum.accumulate(np.asarray(rounds, np.float64)[:-1].clip(0))


def damage_of(group: ChannelGroup, removal: Removal, counts: Double) -> Double:
    """Damage (n,) of keeping so many channels (n,)."""
    total = np.concatenate([[0.0], np.cumsum(steps_of(group, removal))])
    damage = as_one_of_many(total) if removal.shares else total
    if removal.weighed is not None:
        weighed = np.concatenate([[0.0], np.cumsum(steps_of(group, removal, removal.weighed))])
        damage = damage * np.divide(weighed, total, out=np.ones_like(total), where=total > 0)
    cells = cells_of(group)
    removed = np.where(counts >= group.channels, 0, len(total) - counts / cells)
    return np.asarray(damage[np.round(removed).astype(np.int64)])


def as_one_of_many(share: Double) -> Double:
    """Damage that adds up over layers, of a lost share of the variance: what is left multiplies, so −log(1 − share).

    Near 1, where a share is too uncertain to be told from all, it goes on along the tangent.
    """
    near = np.minimum(share, _NEARLY_ALL)
    return np.asarray(-np.log1p(-near) + (share - near) / (1 - _NEARLY_ALL))


def group_levels(
    groups: tuple[ChannelGroup, ...], removals: Mapping[str, Removal], aligns: Mapping[str, Align]
) -> list[tuple[Double, Double]]:
    """Counts and their damage for each group, aligned as its name says."""
    counts = [allowed_counts(g, aligns[g.name]) for g in groups]
    return [(n, damage_of(g, removals[g.name], n)) for g, n in zip(groups, counts, strict=True)]


def keep_sets(
    groups: tuple[ChannelGroup, ...], removals: Mapping[str, Removal], counts: Mapping[str, int]
) -> dict[str, Index]:
    """Group name → sorted channels that stay: the last ones in the order of removal, equally many of each cell."""
    return {g.name: _kept(g, removals[g.name], counts[g.name]) for g in groups}


def _kept(group: ChannelGroup, removal: Removal, count: int) -> Index:
    cells = cells_of(group)
    last_first = removal.order[::-1]
    chosen = [last_first[group.cells[last_first] == cell][: count // cells] for cell in range(cells)]
    return np.sort(np.concatenate(chosen))
