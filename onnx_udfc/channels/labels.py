"""Channel labels: which slice of a tensor exists only if which channel is kept.

Every tensor that carries channels has an array of ids, broadcastable to the tensor's shape: axes along which nothing
can be removed have size 1. A rule per operator (ops.py) carries the ids from its inputs to its outputs and says which
ids are one channel (`unite`), which must stay (`bar`), which must stay in equal numbers (`balance`), and which
constants are sliced with them (`link`). A `Flow` collects that. Walking the same rules again with only the kept ids
(replay.py) gives the physical order of what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.shapes import Shapes, Size, constant_value
from onnx_udfc.model.network import Network

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Link:
    """A constant input whose indices along `axis` belong to channels.

    Attributes:
        node: the name of the node that reads the constant.
        index: which input of the node it is.
        role: 'producer', 'link' or 'consumer'.
        axis: of the constant.
        ids: (length,) the id of every index; with `groups` > 1 the axis holds length / groups entries for each of
            `groups` blocks of the other channel axis.
        groups: number of blocks (grouped convolution), normally 1.
    """

    node: str
    index: int
    role: str
    axis: int
    ids: Ids
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Barrier:
    """Ids that must stay, and why, in words for the user."""

    ids: Ids
    node: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Balance:
    """Ids in blocks (blocks, length) that must keep the same number in every block."""

    blocks: Ids
    node: str


class Flow:
    """The labels of a network's tensors, filled in by the rules; see the module's docstring."""

    def __init__(self, network: Network, shapes: Shapes) -> None:
        """Start with nothing labelled."""
        self.network, self.shapes = network, shapes
        self.labels: dict[str, Ids] = {}
        self.links: list[Link] = []
        self.barriers: list[Barrier] = []
        self.balances: list[Balance] = []
        self.boxes: list[tuple[Ids, str]] = []
        self.edges: list[tuple[Ids, Ids]] = []
        self.residual: list[Ids] = []
        self.approximate: dict[str, str] = {}
        self.created: dict[tuple[str, int], Ids] = {}
        self.count = 0
        self.blocked: dict[str, str] = {}
        self._nodes = {node.name: node for node in network.graph.nodes}

    def apply(self, rule: Callable[[Flow, gs.Node], None], node: gs.Node) -> str:
        """Run a rule; returns why it cannot be, or nothing. A node that breaks the standard must not end the walk."""
        before = len(self.links)
        try:
            rule(self, node)
        except (ValueError, IndexError, KeyError, TypeError):
            del self.links[before:]
            self.blocked[str(node.name)] = f"its {node.op} node does not fit the data"
        return self.blocked.get(str(node.name), "")

    def node(self, name: str) -> gs.Node:
        """The node of that name."""
        return self._nodes[name]

    def size(self, tensor: gs.Tensor) -> Size | None:
        """The shape of a tensor, or None if it is not known."""
        if isinstance(tensor, gs.Constant):
            return tuple(int(d) for d in tensor.shape)
        return self.shapes.sizes.get(tensor.name)

    def known(self, tensor: gs.Tensor) -> Size:
        """The shape of a tensor that the walk has found to be known."""
        size = self.size(tensor)
        assert size is not None, tensor.name
        return size

    def original_length(self, tensor: gs.Tensor, axis: int) -> int:
        """The length of an axis of the unchanged network."""
        return self.shapes.sizes[tensor.name][axis]

    def get(self, tensor: gs.Tensor) -> Ids | None:
        """The ids of a tensor, None where it carries no channels."""
        return self.labels.get(tensor.name)

    def axes(self, tensor: gs.Tensor) -> set[int]:
        """The axes of a tensor along which channels can be removed; none for a single channel."""
        ids = self.labels.get(tensor.name)
        return set() if ids is None else carried(ids)

    def narrowed(self, tensor: gs.Tensor, ids: Ids) -> Ids:
        """Ids of a tensor, laid out in full, without the axes along which they do not vary."""
        del tensor
        return narrow(ids)

    def put(self, tensor: gs.Tensor, ids: Ids | None) -> None:
        """Set the ids of an output; nothing for an output that is not used or carries none.

        Raises:
            ValueError: they do not fit its shape.
        """
        if ids is None or not tensor.name:
            return
        size = self.known(tensor)
        if len(size) != ids.ndim or any(n not in (1, d) for n, d in zip(ids.shape, size, strict=True)):
            raise ValueError(f"{ids.shape} is left of {tensor.name} {size}")
        self.labels[tensor.name] = ids

    def fresh(self, node: gs.Node, key: int, count: int) -> Ids:
        """(count,) new ids; `key` tells several sets of one node apart."""
        assert (node.name, key) not in self.created
        ids = np.arange(self.count, self.count + count, dtype=np.int64)
        self.created[node.name, key] = ids
        self.count += count
        return ids

    def unite(self, a: Ids, b: Ids, node: gs.Node, residual: bool = False) -> None:
        """The channels `a` are the channels `b`, one by one.

        Args:
            a: ids.
            b: ids of the same shape, or broadcastable.
            node: where they meet.
            residual: they meet in a sum.
        """
        del node
        a, b = (np.ravel(x) for x in np.broadcast_arrays(a, b))
        self.edges.append((a, b))
        if residual:
            self.residual.append(a)

    def bar(self, ids: Ids | None, node: gs.Node, reason: str, detail: str = "") -> None:
        """The channels must all stay."""
        if ids is not None:
            self.barriers.append(Barrier(np.unique(ids), str(node.name), reason, detail or f"{node.op} {node.name}"))

    def balance(self, ids: Ids, blocks: int, node: gs.Node) -> None:
        """The channels, in that many consecutive blocks, must stay in equal numbers in each."""
        self.balances.append(Balance(np.reshape(ids, (blocks, -1)), str(node.name)))

    def box(self, ids: Ids, node: gs.Node) -> None:
        """Ids that vary along several axes: what stays of them must be a box, too."""
        self.boxes.append((ids, str(node.name)))

    def link(self, node: gs.Node, index: int, role: str, axis: int, ids: Ids, groups: int = 1) -> None:
        """Input `index` of the node is a constant that loses its indices along `axis` with the channels."""
        self.links.append(Link(str(node.name), index, role, axis, np.ravel(ids), groups))

    def approximates(self, node: gs.Node, note: str) -> None:
        """Removing even an unused channel changes this node's other outputs a little."""
        self.approximate[str(node.name)] = note

    def edit_attribute(self, node: gs.Node, name: str, value: int | list[int]) -> None:
        """The attribute as it must be for the channels at hand (only a replay has fewer)."""

    def edit_input(self, node: gs.Node, index: int, value: NDArray[np.int64]) -> None:
        """The constant input as it must be for the channels at hand (only a replay has fewer)."""

    def edit_sizes(self, node: gs.Node, lengths: list[int]) -> None:
        """A Split without explicit sizes gets these (only a replay needs it)."""

    def cut(self, node: gs.Node, ids: Ids, axis: int, picked: slice) -> tuple[Ids, int, int]:
        """A slice of ids along an axis, with the start and end that cut it out of the channels at hand."""
        del node
        return np.take(ids, np.arange(ids.shape[axis])[picked], axis), picked.start, picked.stop

    def pick(self, node: gs.Node, ids: Ids, axis: int, indices: Ids) -> tuple[Ids, Ids]:
        """The ids at some indices of an axis, with the indices of the channels at hand."""
        del node
        return np.take(ids, indices, axis), indices

    def retarget(self, node: gs.Node, index: int, axes: set[int], sizes: Size) -> bool:
        """Whether a computed target shape can be made to fit `sizes` along `axes`; a replay also does it."""
        del sizes
        pieces = target_pieces(node.inputs[index], self.shapes)
        return pieces is None or all(axis in pieces for axis in axes)

    def value(self, node: gs.Node, index: int) -> NDArray[np.generic] | None:
        """The value of an input of a node: an empty array if it is not given, None if it is not known."""
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return np.zeros(0, np.int64)
        return constant_value(node.inputs[index], self.shapes)

    def line(self, node: gs.Node, tensor: gs.Tensor, axis: int) -> Ids | None:
        """(size along axis,) the ids of a tensor for a node that needs its channels along that axis only.

        Ids that also vary along another axis are united along it.
        """
        ids = self.get(tensor)
        if ids is None:
            return None
        axis %= ids.ndim
        rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
        if ids.shape[axis] != self.known(tensor)[axis]:
            self.bar(ids, node, f"its channels lie along another axis than the one {node.op} reads")
            return None
        if rows.shape[1] > 1:
            self.unite(rows[:, 1:], rows[:, :1], node)
        return rows[:, 0]


def narrow(ids: Ids) -> Ids:
    """Ids with size 1 along every axis along which they do not vary."""
    for axis, size in enumerate(ids.shape):
        first = ids.take([0], axis)
        if size > 1 and np.array_equal(np.broadcast_to(first, ids.shape), ids):
            ids = first
    return np.ascontiguousarray(ids)


def along(ids: Ids, axis: int, rank: int) -> Ids:
    """Ids laid along one axis of a tensor of that rank."""
    return ids.reshape([-1 if a == axis % rank else 1 for a in range(rank)])


def carried(ids: Ids) -> set[int]:
    """Axes along which ids vary, or could."""
    return {axis for axis, size in enumerate(ids.shape) if size > 1}


def components(count: int, edges: list[tuple[Ids, Ids]]) -> Ids:
    """(count,) for every id the smallest id that it is united with.

    Minimum labels travel along the edges, with pointer jumping, until nothing changes.
    """
    root = np.arange(count, dtype=np.int64)
    if not edges:
        return root
    a, b = (np.concatenate(side) for side in zip(*edges, strict=True))
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        if np.array_equal(low, high):
            return root
        np.minimum.at(root, high, low)
        while not np.array_equal(root, root[root]):
            root = root[root]


def target_pieces(target: gs.Tensor, shapes: Shapes) -> dict[int, tuple[gs.Node, int]] | None:
    """Which input of which Concat gives which entry of a computed shape.

    Returns:
        entry → (Concat node, input index), of inputs with one entry only; None if the whole shape is read off a tensor,
        so that it follows the channels by itself.
    """
    while target.inputs and target.inputs[0].op in ("Cast", "Identity"):
        target = target.inputs[0].inputs[0]
    if not target.inputs:
        return {}
    maker = target.inputs[0]
    if maker.op == "Shape" and not maker.attrs:
        return None
    pieces: dict[int, tuple[gs.Node, int]] = {}
    if maker.op == "Concat":
        position = 0
        for i, tensor in enumerate(maker.inputs):
            size = tuple(tensor.shape) if isinstance(tensor, gs.Constant) else shapes.sizes.get(tensor.name)
            if size is None or len(size) != 1:
                break
            if size == (1,):
                pieces[position] = (maker, i)
            position += size[0]
    return pieces
