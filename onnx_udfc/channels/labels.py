"""Channel labels: which slice of a tensor exists only if which channel is kept.

Every tensor that carries channels has an array of ids, broadcastable to the tensor's shape: axes along which nothing
can be removed have size 1. A rule per operator (ops.py) carries the ids from its inputs to its outputs and says which
ids are one channel (`unite`), which must stay (`bar`), which must stay in equal numbers (`balance`), and which
constants are sliced with them (`link`). A `Flow` collects that. Walking the same rules again with only the kept ids
(replay.py) gives the physical order of what is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.arithmetic import LARGEST, OPEN, Numbers, calculate, counted, plain, tensor_mark, unknown
from onnx_udfc.channels.targets import Target, adapts, editable, pieces_of
from onnx_udfc.errors import ModelError
from onnx_udfc.model.graph import is_closed, peek, standard

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Shapes, Size
    from onnx_udfc.model.network import Network

Ids = NDArray[np.int64]
FIXED_PARTNER = "it is combined with a tensor whose channels cannot be removed"
ACROSS = "it is combined with channels that lie along another axis"
COUNTED = "the number of its channels is used in a computation"
MOST_IDS = 1 << 22  # a set of more channels is none


class MisfitError(ModelError):
    """A node that breaks the standard: what it is given does not fit it."""


class RuleWarning(RuntimeWarning):
    """A rule of ours failed on a node. What it touches is left alone, so that the result is right; it is a bug."""


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


@dataclass(frozen=True)
class Cut:
    """What a Slice takes along one axis.

    Attributes:
        axis: of the tensor.
        start: as in ONNX.
        end: as in ONNX.
        step: as in ONNX.
        at: the indices that it takes, of what is at hand; None for an axis without channels, which stays as it is.
        length: of the axis, at hand.
    """

    axis: int
    start: int
    end: int
    step: int
    at: tuple[int, ...] | None = None
    length: int = 0


@dataclass(frozen=True, eq=False)
class Balance:
    """Ids in blocks (blocks, length) that must keep the same number in every block."""

    blocks: Ids
    node: str


def _once(*arrays: Ids) -> list[Ids]:
    """The arrays broadcast against each other, but along an axis in which none of them varies only the first place."""
    wide = np.broadcast_arrays(*arrays)
    still = [all(a.strides[axis] == 0 for a in wide) for axis in range(wide[0].ndim)]
    return [a[tuple(slice(0, 1) if s else slice(None) for s in still)] for a in wide]


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
        self.spans: dict[str, tuple[int, int]] = {}
        self.numbers: dict[str, Numbers] = {}
        self.targets: dict[str, tuple[Target, ...]] = {}
        self._counted: list[str] = []
        self._open = any(not is_closed(tensor.shape) for tensor in network.graph.inputs)
        self._nodes = {node.name: node for node in network.graph.nodes}

    def apply(self, rule: Callable[[Flow, gs.Node], None], node: gs.Node) -> str:
        """Run a rule; returns why it cannot be, or nothing. What a rule did before it failed is undone.

        A node that breaks the standard must not end the walk, nor must a bug of ours: that is a RuleWarning, too.
        """
        name, before = str(node.name), self._lengths()
        try:
            rule(self, node)
        except MisfitError as misfit:
            self.blocked[name] = f"its {node.op} node does not fit the data ({misfit})"
        except Exception as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            self.blocked[name] = f"onnx-udfc itself fails to follow them through {node.op} ({what}); please report it"
            warnings.warn(f"node '{name}': {self.blocked[name]}", RuleWarning, stacklevel=2)
        if name in self.blocked:
            self._undo(node, before)
        self.spans[name] = (before[0], len(self.links))
        return self.blocked.get(name, "")

    def _lists(self) -> tuple[list[Any], ...]:
        return self.links, self.barriers, self.balances, self.boxes, self.edges, self.residual

    def _lengths(self) -> tuple[int, ...]:
        return *(len(found) for found in self._lists()), self.count

    def _undo(self, node: gs.Node, lengths: tuple[int, ...]) -> None:
        """Take back all that the rule of this node has noted."""
        for found, length in zip(self._lists(), lengths, strict=False):
            del found[length:]
        self.count = lengths[-1]
        for tensor in node.outputs:
            self.labels.pop(tensor.name, None)
        for key in [key for key in self.created if key[0] == node.name]:
            del self.created[key]
        self.approximate.pop(str(node.name), None)
        self.targets.pop(str(node.name), None)

    def reckon(self, node: gs.Node) -> bool:
        """Take in a node that computes numbers from shapes; False for any other."""
        if not standard(node.domain):
            return False
        if node.op == "Split":
            return self._divided(node)
        if len(node.outputs) != 1 or not node.outputs[0].name:
            return False
        numbers = self._shape_of(node) if node.op in ("Shape", "Size") else self._calculated(node)
        if numbers is not None:
            self.numbers[node.outputs[0].name] = numbers
        return numbers is not None

    def _divided(self, node: gs.Node) -> bool:
        """Take in a Split of a list of numbers."""
        numbers, sizes = self.numbers.get(node.inputs[0].name), [self.size(tensor) for tensor in node.outputs]
        if numbers is None or numbers.values.ndim != 1 or any(size is None or len(size) != 1 for size in sizes):
            return False
        ends = np.cumsum([size[0] for size in sizes if size is not None])
        if ends[-1] != numbers.values.size:
            return False
        for tensor, values, marks in zip(
            node.outputs, np.split(numbers.values, ends[:-1]), np.split(numbers.marks, ends[:-1]), strict=True
        ):
            self.numbers[tensor.name] = Numbers(values, marks)
        return True

    def _shape_of(self, node: gs.Node) -> Numbers | None:
        """The result of Shape or Size, with a mark where channels are counted."""
        tensor = node.inputs[0]
        size = self.size(tensor)
        if size is None:
            return None
        fixed = not self._open or isinstance(tensor, gs.Constant) or tensor.name in self.numbers
        marks = np.full(len(size), 0 if fixed else OPEN, object)
        for axis in self.axes(tensor):
            if tensor.name not in self._counted:
                self._counted.append(tensor.name)
            marks[axis] = tensor_mark(self._counted.index(tensor.name))
        if node.op == "Size":
            return Numbers(np.asarray(np.prod(size, dtype=np.int64)), np.full((), reduce(or_, marks, 0), object))
        part = slice(node.attrs.get("start", 0), node.attrs.get("end"))
        return Numbers(np.asarray(size, np.int64)[part], marks[part])

    def _calculated(self, node: gs.Node) -> Numbers | None:
        """The result of arithmetic on numbers that are known."""
        if not any(t.name in self.numbers for t in node.inputs if t.name):
            return None
        given: list[Numbers | None] = []
        for tensor in node.inputs:
            numbers = None if tensor.is_empty() else self._known_numbers(tensor)
            if numbers is None and not tensor.is_empty():
                size = self.size(tensor)
                if node.op != "Concat" or size is None or len(size) != 1 or size[0] > LARGEST:
                    return None
                numbers = unknown(size)  # one that the user gives, say: the others keep their places
            given.append(numbers)
        return calculate(node.op, given, node.attrs)

    def _known_numbers(self, tensor: gs.Tensor) -> Numbers | None:
        if isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) <= LARGEST and tensor.dtype is not None:
            return plain(peek(tensor))
        return self.numbers.get(tensor.name)

    def number(self, node: gs.Node, index: int) -> Numbers | None:
        """What is known of a small input of a node; None if nothing is, an empty array if it is not given."""
        if index >= len(node.inputs) or node.inputs[index].is_empty():
            return plain(np.zeros(0, np.int64))
        numbers = self._known_numbers(node.inputs[index])
        if numbers is None and (values := self.shapes.value(node.inputs[index])) is not None:
            return Numbers(values, np.full(values.shape, OPEN, object))
        return numbers

    def first_number(self, node: gs.Node, index: int) -> Numbers | None:
        """The same for the unchanged network."""
        return self.number(node, index)

    def escape(self, node: gs.Node, name: str, places: Collection[int] | None = None) -> None:
        """Numbers that hold a count of channels are used otherwise than as a size where those lie: they must stay.

        `places` are those of the numbers of tensor `name`, all if not given; nothing happens for any other tensor.
        """
        if name not in self.numbers:
            return
        marks = self.numbers[name].marks.reshape(-1)
        for mark in marks if places is None else [marks[place] for place in places if place < len(marks)]:
            for tensor in counted(mark):
                self.bar(self.labels[self._counted[tensor]], node, COUNTED)

    def node(self, name: str) -> gs.Node:
        """The node of that name."""
        return self._nodes[name]

    def size(self, tensor: gs.Tensor) -> Size | None:
        """The shape of a tensor, or None if it is not known."""
        if isinstance(tensor, gs.Constant):
            return tuple(int(d) for d in tensor.shape)
        return self.shapes.sizes.get(tensor.name)

    def sized(self, tensor: gs.Tensor) -> bool:
        """Whether the shape of a tensor is known."""
        return isinstance(tensor, gs.Constant) or tensor.name in self.shapes.sizes

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
            MisfitError: they do not fit its shape.
        """
        if ids is None or not tensor.name:
            return
        size = self.known(tensor)
        if len(size) != ids.ndim or any(n not in (1, d) for n, d in zip(ids.shape, size, strict=True)):
            raise MisfitError(f"{ids.shape} channels in '{tensor.name}' of shape {size}")
        self.labels[tensor.name] = ids

    def lay(self, tensor: gs.Tensor, ids: Ids, axis: int = 1) -> None:
        """Set the ids (C,) of an output that has all its channels along one axis."""
        self.put(tensor, along(ids, axis, len(self.known(tensor))))

    def fresh(self, node: gs.Node, key: int, count: int) -> Ids:
        """(count,) new ids; `key` tells several sets of one node apart."""
        assert (node.name, key) not in self.created
        if count > MOST_IDS:
            raise MisfitError(f"{count:,} channels are too many")
        ids = np.arange(self.count, self.count + count, dtype=np.int64)
        self.created[node.name, key] = ids
        self.count += count
        return ids

    def unite(self, a: Ids, b: Ids, node: gs.Node, residual: bool = False) -> None:
        """The channels `a` are the channels `b`, one by one.

        Ids of one shape, or of shapes that broadcast; with `residual` they meet in a sum.
        """
        del node
        a, b = (np.ravel(x) for x in _once(a, b))
        self.edges.append((a, b))
        if residual:
            self.residual.append(a)

    def bar(self, ids: Ids | None, node: gs.Node, reason: str, detail: str = "") -> None:
        """The channels must all stay."""
        if ids is not None:
            self.barriers.append(
                Barrier(np.unique(_once(ids)[0]), str(node.name), reason, detail or f"{node.op} {node.name}")
            )

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

    def edit_input(self, node: gs.Node, index: int, value: NDArray[Any]) -> None:
        """The constant input as it must be for the channels at hand (only a replay has fewer)."""

    def edit_sizes(self, node: gs.Node, lengths: list[int]) -> None:
        """A Split without explicit sizes gets these (only a replay needs it)."""

    def edit_cut(self, node: gs.Node, cuts: list[Cut]) -> None:
        """The Slice as it must be for the channels at hand (only a replay has fewer)."""

    def where(self, node: gs.Node, axis: int, picked: Ids) -> Ids:
        """Where the channels are now that were at these indices of the node's first input; those that are left."""
        del node, axis
        return picked

    def retarget(self, node: gs.Node, target: Target) -> bool:
        """Whether a computed size follows the channels by itself or can be edited to; a replay also does it."""
        numbers = self.number(node, target.index)
        if numbers is None or numbers.values.ndim != 1:
            return False
        pieces = pieces_of(node.inputs[target.index], self.size)
        for axis, place in target.places.items():
            if place >= len(numbers.values):
                return False
            piece, mark = pieces.get(place), numbers.marks[place]
            follows = adapts(target, axis, numbers, always=True)
            if not follows and not (piece is not None and editable(target, piece, mark)):
                return False
        others = set(range(len(numbers.values))) - set(target.places.values())
        self.escape(node, node.inputs[target.index].name, others)
        self.targets[str(node.name)] = (*self.targets.get(str(node.name), ()), target)
        return True

    def value(self, node: gs.Node, index: int) -> NDArray[Any] | None:
        """The value of an input of a node: an empty array if it is not given, None if it is not known."""
        numbers = self.number(node, index)
        return None if numbers is None else numbers.values

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


Rule = Callable[[Flow, gs.Node], None]
LabelledRule = Callable[[Flow, gs.Node, Ids], None]


def of_channels(rule: LabelledRule) -> Rule:
    """A rule that is asked only where the node's first input carries channels, and gets their ids."""

    def asked(flow: Flow, node: gs.Node) -> None:
        ids = flow.get(node.inputs[0])
        if ids is not None:
            rule(flow, node, ids)

    return asked


def of_second_axis(rule: LabelledRule) -> Rule:
    """The same for a rule that needs the ids (C,) along axis 1 alone."""

    def asked(flow: Flow, node: gs.Node) -> None:
        ids = flow.line(node, node.inputs[0], 1)
        if ids is not None:
            rule(flow, node, ids)

    return asked


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
