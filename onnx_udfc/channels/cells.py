"""Classes of united ids, collected in groups, and the cells that keep grouped convolutions balanced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_udfc.channels.labels import Balance, Flow, Ids, carried, components, narrow


@dataclass(frozen=True)
class Classes:
    """The ids of a network, united.

    Attributes:
        root: (ids,) id → the smallest id of its channel.
        places: for every link of the flow, the roots of its ids.
        groups: the prunable roots with the same places, each in the order of the first producer's channels.
        residual: roots that meet in sums.
        cells: (ids,) root → number of its cell within its group.
    """

    root: Ids
    places: list[Ids]
    groups: list[Ids]
    residual: Ids
    cells: Ids


def balance_cells(flow: Flow) -> Classes:
    """Unite ids, form groups, and find cells such that equal counts in every cell satisfy every balance.

    A balance that no cells can satisfy is turned into unions: the same position in every block is one channel.
    """
    edges = list(flow.edges)
    pending, tied = list(flow.balances), set[str]()
    while True:
        root = components(flow.count, edges)
        groups, places = _groups(flow, root)
        boxes = [b for b in _boxes(flow, root) if b.node not in tied]
        cells, unmet = _cells(root, groups, [*pending, *boxes])
        if not unmet:
            residual = np.unique(root[np.concatenate(flow.residual)]) if flow.residual else np.zeros(0, np.int64)
            return Classes(root, places, groups, residual, cells)
        for balance in unmet:
            blocks = balance.blocks
            edges.append((blocks[1:].ravel(), np.broadcast_to(blocks[:1], blocks[1:].shape).ravel()))
            tied.add(balance.node)
        pending = [b for b in pending if not any(b is other for other in unmet)]


def _boxes(flow: Flow, root: Ids) -> list[Balance]:
    """Tensors whose channels still vary along several axes: equally many must stay in every index of the first."""
    found = []
    for ids, node in flow.boxes:
        box = narrow(root[ids])
        axes = sorted(carried(box))
        if len(axes) > 1:
            found.append(Balance(np.moveaxis(box, axes[0], 0).reshape(box.shape[axes[0]], -1), node))
    return found


def _groups(flow: Flow, root: Ids) -> tuple[list[Ids], list[Ids]]:
    """Prunable roots with the same places; the places of all links.

    A root's places are hashed: a sum of one random number per link, times how often the link holds the root. That two
    different sets of places collide has a chance of 2^-64; the slots would then not be rectangular.
    """
    count = flow.count
    places = [root[link.ids] for link in flow.links]
    random = np.random.default_rng(0)
    signature = np.zeros(count, np.uint64)
    produced = np.zeros(count, bool)
    first = np.full(count, np.iinfo(np.int64).max)
    position = 0
    for link, place in zip(flow.links, places, strict=True):
        signature += np.bincount(place, minlength=count).astype(np.uint64) * random.integers(
            1, 2**63, dtype=np.uint64, endpoint=True
        )
        if link.role == "producer":
            produced[place] = True
            np.minimum.at(first, place, np.arange(position, position + len(place)))
        position += len(place)
    fixed = np.zeros(count, bool)
    for barrier in flow.barriers:
        fixed[root[barrier.ids]] = True
    roots = np.flatnonzero(produced & ~fixed & (root == np.arange(count)))
    roots = roots[np.argsort(first[roots], kind="stable")]
    by_signature: dict[int, list[int]] = {}
    for r in roots:
        by_signature.setdefault(int(signature[r]), []).append(int(r))
    return [np.asarray(g, np.int64) for g in by_signature.values()], places


def _cells(root: Ids, groups: list[Ids], balances: list[Balance]) -> tuple[Ids, list[Balance]]:
    """(ids,) the cell of every root, and the balances that no cells satisfy.

    The cells of a group are the common refinement of the blocks that its channels lie in. Equal counts in every cell
    satisfy a balance if each of its blocks has equally many cells of the group. Where they have not, but equally many
    channels, cells are cut into parts of their greatest common size, which the blocks then have equally many of.
    """
    cells = np.zeros(len(root), np.int64)
    owner = np.full(len(root), -1, np.int64)
    for number, members in enumerate(groups):
        owner[members] = number
    touching: dict[int, list[tuple[Balance, Ids]]] = {}
    for balance in balances:
        blocks = np.stack([np.bincount(block, minlength=len(root)) for block in root[balance.blocks]])  # (blocks, ids)
        free = np.flatnonzero((owner >= 0) & (blocks != blocks[:1]).any(axis=0))
        for number in np.unique(owner[free]):
            touching.setdefault(int(number), []).append((balance, blocks[:, groups[number]]))
    unmet: list[Balance] = []
    for number, found in touching.items():
        numbers, failed = _refine([blocks for _, blocks in found])
        cells[groups[number]] = numbers
        unmet += [found[i][0] for i in failed if not any(found[i][0] is b for b in unmet)]
    return cells, unmet


def _refine(balances: list[Ids]) -> tuple[Ids, list[int]]:
    """Cells of one group.

    `balances` are those that touch the group: (blocks, channels) how often each channel is in each block.

    Returns:
        (channels,) cell numbers, and which of the balances they do not satisfy.
    """
    failed = [i for i, blocks in enumerate(balances) if not _single(blocks)]
    keys = np.stack([blocks.argmax(0) for blocks in balances])
    _, numbers = np.unique(keys, axis=1, return_inverse=True)
    numbers = numbers.reshape(-1)
    if failed:
        return numbers, failed
    if not all(_even(blocks, numbers) for blocks in balances):
        numbers = _cut(numbers)
    sizes = np.bincount(numbers)
    if sizes.min() < max(2, len(numbers) // len(sizes)):  # little could go: better one channel per position
        return numbers, list(range(len(balances)))
    return numbers, [i for i, blocks in enumerate(balances) if not _even(blocks, numbers)]


def _single(blocks: Ids) -> bool:
    """Whether every channel is in one block only, all equally often, and every block has equally many."""
    often = blocks.max(0)
    return bool(((blocks > 0).sum(0) == 1).all() and (often == often[0]).all() and len(np.unique(blocks.sum(1))) == 1)


def _even(blocks: Ids, numbers: Ids) -> bool:
    """Whether every block has equally many cells."""
    return len({len(np.unique(numbers[block > 0])) for block in blocks}) == 1


def _cut(numbers: Ids) -> Ids:
    """Cells cut into parts of their greatest common size, in the order of the channels."""
    sizes = np.bincount(numbers)
    part = int(np.gcd.reduce(sizes))
    rank = np.empty(len(numbers), np.int64)
    order = np.argsort(numbers, kind="stable")
    rank[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    _, cut = np.unique(np.stack([numbers, rank // part]), axis=1, return_inverse=True)
    return cut.reshape(-1)
