"""Channel rules of products of tensors that are all computed: MatMul, Einsum, Attention.

Every axis has a letter, as in an Einsum. Channels along a letter that is summed over must stay, for no weight behind
could make up for them. Along the others they pass, as through a Mul: values of an attention, and what a gate scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.labels import ACROSS, FIXED_PARTNER, Flow, Ids


class Factor(NamedTuple):
    """A tensor of a product: its sizes and ids, one axis for each letter, and the axes with channels."""

    size: tuple[int, ...]
    ids: Ids
    axes: frozenset[int]


def two_tensors(flow: Flow, node: gs.Node) -> None:
    """MatMul of two computed tensors: of rank 2 at least, each matrix with the other one of its place."""
    ranks = [len(flow.known(tensor)) for tensor in node.inputs]
    if min(ranks) < 2:
        _stay(flow, node, f"it feeds a {node.op} whose weight is not a plain constant")
        return
    places = ascii_lowercase[: max(ranks) - 2]
    terms = [places[len(places) + 2 - rank :] + ends for rank, ends in zip(ranks, ("xy", "yz"), strict=True)]
    product(flow, node, terms, f"{places}xz")


def einsum(flow: Flow, node: gs.Node) -> None:
    """Einsum of an equation that names every axis of a tensor once."""
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(letter for letter in set(left) if left.count(letter) == 1 and letter != ","))
    if "." in text or any(len(set(term)) < len(term) for term in (*terms, out)):
        _stay(flow, node, f"it feeds {node.op}, through which channels cannot be followed")
        return
    product(flow, node, terms, out)


def attention(flow: Flow, node: gs.Node) -> None:
    """Attention: all but the values must stay; of those every head loses the same."""
    values = node.inputs[2]
    for index, tensor in enumerate(node.inputs):
        if index != 2:
            flow.bar(flow.get(tensor), node, "attention compares them")
    ids = flow.get(values)
    if ids is None:
        return
    whole = ids.ndim == 4
    heads, of_queries = (
        flow.original_length(tensor, 1) if whole else int(node.attrs.get(name, 0))
        for tensor, name in ((values, "kv_num_heads"), (node.inputs[0], "q_num_heads"))
    )
    axes, others = flow.axes(values), [tensor for tensor in node.outputs[1:] if tensor.outputs]
    if not heads or heads != of_queries or others or not {ids.ndim - 1} <= axes <= {1, ids.ndim - 1}:
        flow.bar(ids, node, f"it feeds {node.op}, through which channels cannot be followed")
        return
    if not whole or 1 in axes:
        grid = np.reshape(ids, (heads, -1))
        flow.unite(grid[1:], grid[:1], node)
    flow.put(node.outputs[0], ids)


def product(flow: Flow, node: gs.Node, terms: Sequence[str], out: str) -> None:
    """The ids of a product of tensors whose axes have these letters."""
    letters = out + "".join(sorted(set("".join(terms)) - set(out)))
    sizes = [_spread(term, letters, flow.known(t)) for t, term in zip(node.inputs, terms, strict=True)]
    found = {}
    for i, (tensor, term) in enumerate(zip(node.inputs, terms, strict=True)):
        ids = flow.get(tensor)
        if ids is None:
            continue
        axes = frozenset(letters.index(term[axis]) for axis in flow.axes(tensor))
        if not axes or max(axes) >= len(out):
            flow.bar(ids, node, f"{node.op} sums over its channels")
            continue
        order = sorted(range(len(term)), key=lambda axis: letters.index(term[axis]))
        found[i] = Factor(sizes[i], ids.transpose(order).reshape(_spread(term, letters, ids.shape)), axes)
    for i, factor in found.items():
        others = [j for j in range(len(sizes)) if j != i]
        fixed = {a for a in factor.axes for j in others if sizes[j][a] > 1 and not _has(found, j, a)}
        if fixed == factor.axes:
            flow.bar(factor.ids, node, FIXED_PARTNER)
            continue
        for axis in fixed:  # heads: all stay, and lose the same channels
            flow.unite(factor.ids, factor.ids[(slice(None),) * axis + (slice(0, 1),)], node)
    for a, b in combinations(found.values(), 2):
        if a.axes & b.axes:
            flow.unite(a.ids, b.ids, node)
        else:
            flow.bar(a.ids, node, ACROSS)
            flow.bar(b.ids, node, ACROSS)
    if found:
        widest = max(found.values(), key=lambda factor: len(factor.axes)).ids
        flow.put(node.outputs[0], widest.reshape(widest.shape[: len(out)]))


def _has(found: dict[int, Factor], index: int, axis: int) -> bool:
    return index in found and axis in found[index].axes


def _spread(term: str, letters: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes of a tensor with one axis for each letter, 1 for those that it lacks."""
    return tuple(sizes[term.index(letter)] if letter in term else 1 for letter in letters)


def _stay(flow: Flow, node: gs.Node, reason: str) -> None:
    for tensor in node.inputs:
        flow.bar(flow.get(tensor), node, reason)
