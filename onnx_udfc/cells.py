"""Classes of united ids, collected in groups, and the cells that keep grouped convolutions balanced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_udfc.flow import Balance, Flow, Ids, components


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
    pending = list(flow.balances)
    while True:
        root = components(flow.count, edges)
        groups, places = _groups(flow, root)
        cells, unmet = _cells(root, groups, pending)
        if not unmet:
            residual = np.unique(root[np.concatenate(flow.residual)]) if flow.residual else np.zeros(0, np.int64)
            return Classes(root, places, groups, residual, cells)
        for balance in unmet:
            blocks = balance.blocks
            edges.append((blocks[1:].ravel(), np.broadcast_to(blocks[:1], blocks[1:].shape).ravel()))
        pending = [b for b in pending if not any(b is other for other in unmet)]


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
    """(ids,) the cell of every root, and the balances that no cells satisfy."""
    cells = np.zeros(len(root), np.int64)
    del groups
    return cells, list(balances)
