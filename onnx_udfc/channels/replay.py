"""The channel rules once more with only the kept channels: what is where in the pruned network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.labels import Cut, Flow, Ids, Link, MisfitError, RuleWarning, carried
from onnx_udfc.channels.rules.table import propagate
from onnx_udfc.channels.targets import Piece, Target, adapts, editable, pieces_of
from onnx_udfc.errors import ModelError

if TYPE_CHECKING:
    from onnx_udfc.channels.arithmetic import Numbers
    from onnx_udfc.channels.shapes import Size


class MisalignedError(ModelError):
    """The kept channels do not line up at a node. Groups are tried out when they are found, so that this is rare."""

    def __init__(self, node: str, what: str, others: tuple[str, ...] = ()) -> None:
        """`node` is where it shows, `what` is wrong there; `others` are nodes that take part in it."""
        super().__init__(f"the kept channels do not line up at node {node!r} ({what}); leave it alone with --skip")
        self.node, self.what, self.others = node, what, others


class Replay(Flow):
    """A walk over the unchanged network in which tensors have the sizes and the ids that are left.

    Attributes:
        indices: for every link, the original indices along the axis that stay, in their physical order.
        attributes: (node, attribute) → new value.
        inputs: (node, input) → new value of a constant input.
        gathers: Slice node → (axis, indices) of what it takes that no Slice can take any more, and whether that is all.
    """

    def __init__(self, original: Flow, root: Ids, kept: NDArray[np.bool_]) -> None:
        """Args: the walk with all channels; id → root; root → whether it is kept."""
        super().__init__(original.network, original.shapes)
        self._original, self._root, self._kept = original, root, kept[root]
        self._barred = {(b.node, b.reason) for b in original.barriers}
        self._left: list[Link] = []
        self._claims: dict[tuple[str, int], tuple[str, NDArray[Any]]] = {}
        self.indices: list[tuple[Link, Ids]] = []
        self.attributes: dict[tuple[str, str], int | list[int]] = {}
        self.inputs: dict[tuple[str, int], NDArray[Any]] = {}
        self.gathers: dict[str, tuple[list[tuple[int, Ids]], bool]] = {}

    def apply(self, rule: Callable[[Flow, gs.Node], None], node: gs.Node) -> str:
        """Run a rule, unless the first walk could not. A node that loses nothing stays as it is: no rule is asked."""
        if node.name in self._original.blocked:
            return self._original.blocked[node.name]
        start, end = self._original.spans[node.name]
        self._left = self._original.links[start:end]
        if self._untouched(node):
            self._repeat(node)
            return ""
        try:
            rule(self, node)
        except MisfitError as misfit:
            raise MisalignedError(node.name, str(misfit)) from misfit
        except MisalignedError:
            raise
        except Exception as error:
            what = f"onnx-udfc itself fails there, {type(error).__name__}: {error}; please report it"
            warnings.warn(f"node '{node.name}': {what}", RuleWarning, stacklevel=2)
            raise MisalignedError(node.name, what) from error
        assert not self._left, node.name
        return ""

    def _untouched(self, node: gs.Node) -> bool:
        """Whether all that the node reads and writes is as before."""
        first = self._original
        for tensor in node.inputs:
            if (before := first.get(tensor)) is not None and not np.array_equal(before, self.labels[tensor.name]):
                return False
            if (known := first.numbers.get(tensor.name)) is not None:
                now = self.numbers[tensor.name]
                if not np.array_equal(known.values, now.values):
                    return False
        results = [ids for tensor in node.outputs if tensor.name and (ids := first.get(tensor)) is not None]
        return all(self._kept[ids].all() for ids in results)

    def _repeat(self, node: gs.Node) -> None:
        """What the first walk has found at a node."""
        for tensor in node.outputs:
            if tensor.name in self._original.labels:
                self.labels[tensor.name] = self._original.labels[tensor.name]
        self.indices += [(link, np.arange(len(link.ids))) for link in self._left]
        for target in self._original.targets.get(node.name, ()):
            for piece in pieces_of(node.inputs[target.index], self.size).values():
                self._claim(node, piece, self._piece(piece))

    def size(self, tensor: gs.Tensor) -> Size | None:
        """The shape of a tensor after pruning: of its ids where a rule has set them, else a box that holds them."""
        size = super().size(tensor)
        ids = self._original.get(tensor)
        if size is None or ids is None:
            return size
        left = self.labels.get(tensor.name)
        kept = _kept_sizes(self._kept[ids], tensor) if left is None else left.shape
        return tuple(k if n > 1 else d for k, n, d in zip(kept, ids.shape, size, strict=True))

    def axes(self, tensor: gs.Tensor) -> set[int]:
        """The axes of before: that one channel is left along an axis does not matter."""
        return self._original.axes(tensor)

    def narrowed(self, tensor: gs.Tensor, ids: Ids) -> Ids:
        """Without the axes that carried nothing before."""
        axes = self.axes(tensor)
        return ids[tuple(slice(None) if a in axes else slice(0, 1) for a in range(ids.ndim))]

    def fresh(self, node: gs.Node, key: int, count: int) -> Ids:
        """Those of the same ids that are kept."""
        del count
        ids = self._original.created[node.name, key]
        return ids[self._kept[ids]]

    def put(self, tensor: gs.Tensor, ids: Ids | None) -> None:
        """As in a Flow; checks that as many ids arrive as stay."""
        if ids is None or not tensor.name:
            return
        before = self._original.get(tensor)
        if before is None or before.ndim != ids.ndim or ids.size == 0 or not self._same(before, ids):
            raise MisalignedError(tensor.inputs[0].name, f"{ids.shape} is left of {tensor.name}")
        self.labels[tensor.name] = ids

    def _same(self, before: Ids, ids: Ids) -> bool:
        """Whether these are what stays of the ids before, in any order."""
        left = before[self._kept[before]]
        return left.size == ids.size and np.array_equal(np.sort(left, axis=None), np.sort(ids, axis=None))

    def unite(self, a: Ids, b: Ids, node: gs.Node, residual: bool = False) -> None:
        """Check that united channels still meet."""
        del residual
        try:
            a, b = np.broadcast_arrays(a, b)
        except ValueError:
            raise MisalignedError(node.name, f"{a.shape} meets {b.shape}") from None
        if not np.array_equal(self._root[a], self._root[b]):
            raise MisalignedError(node.name, "different channels meet")

    def bar(self, ids: Ids | None, node: gs.Node, reason: str, detail: str = "") -> None:
        """Nothing, since barred ids are kept; but there must be no new bar."""
        del detail
        if ids is not None and (node.name, reason) not in self._barred:
            raise MisalignedError(node.name, reason)

    def balance(self, ids: Ids, blocks: int, node: gs.Node) -> None:
        """Check that the kept channels are still in the same blocks, equally many in each."""
        if len(ids) % blocks:
            raise MisalignedError(node.name, f"{len(ids)} channels in {blocks} groups")

    def link(self, node: gs.Node, index: int, role: str, axis: int, ids: Ids, groups: int = 1) -> None:
        """Note which original indices of the constant the ids are."""
        link = self._left.pop(0)
        assert (link.node, link.index, link.role, link.axis, link.groups) == (node.name, index, role, axis, groups)
        kept = self._positions(node, link.ids, np.ravel(ids))
        blocks = link.groups if role != "link" else 1
        original_blocks = kept.reshape(blocks, -1) // (len(link.ids) // blocks)
        if np.any(original_blocks != np.arange(blocks)[:, None]):
            raise MisalignedError(node.name, "a channel would change its group")
        self.indices.append((link, kept))

    def _positions(self, node: gs.Node, before: Ids, after: Ids) -> Ids:
        """For every id left, in its physical order, its index among the ids before; repeated ids keep their order."""
        old = np.flatnonzero(self._kept[before])
        old = old[np.argsort(before[old], kind="stable")]
        new = np.argsort(after, kind="stable")
        if len(old) != len(new) or not np.array_equal(before[old], after[new]):
            raise MisalignedError(node.name, f"{len(new)} of {len(old)} kept channels arrive")
        positions = np.empty(len(new), np.int64)
        positions[new] = old
        return positions

    def edit_attribute(self, node: gs.Node, name: str, value: int | list[int]) -> None:
        """Note the attribute's value after pruning."""
        self.attributes[node.name, name] = value

    def edit_input(self, node: gs.Node, index: int, value: NDArray[Any]) -> None:
        """Note the constant's value after pruning."""
        self.inputs[node.name, index] = value

    def edit_sizes(self, node: gs.Node, lengths: list[int]) -> None:
        """Note the sizes of a Split that had none: an input, or before opset 13 an attribute."""
        if self.network.graph.opset < 13:
            self.edit_attribute(node, "split", lengths)
        elif len(set(lengths)) > 1:
            self.edit_input(node, 1, np.asarray(lengths, np.int64))

    def edit_cut(self, node: gs.Node, cuts: list[Cut]) -> None:
        """Note the ranges that the Slice takes now, or the indices where they are none."""
        runs = [(c.start, c.end, c.step) if c.at is None else _run(c.at, c.length) for c in cuts]
        picks = [(c.axis, np.asarray(c.at, np.int64)) for c, run in zip(cuts, runs, strict=True) if run is None]
        if picks:
            self.gathers[node.name] = (picks, len(picks) == len(cuts))
        ranges = [run or (0, c.length, 1) for c, run in zip(cuts, runs, strict=True)]
        starts, ends, steps = (np.asarray(side, np.int64) for side in zip(*ranges, strict=True))
        if "starts" in node.attrs:
            self.attributes |= {(node.name, "starts"): starts.tolist(), (node.name, "ends"): ends.tolist()}
            return
        self.edit_input(node, 1, starts)
        self.edit_input(node, 2, ends)
        if np.any(steps != 1) or len(node.inputs) > 4:
            self.edit_input(node, 3, np.asarray([c.axis for c in cuts], np.int64))
            self.edit_input(node, 4, steps)

    def where(self, node: gs.Node, axis: int, picked: Ids) -> Ids:
        """Where the kept ones of the picked are now."""
        sources = self._sources(node, axis)
        length = self.original_length(node.inputs[0], axis)
        now = np.full(length, -1, np.int64)
        now[sources] = np.arange(len(sources))
        at = now[picked]
        return at[at >= 0]

    def _sources(self, node: gs.Node, axis: int) -> Ids:
        """For every index along the axis of the node's first input, the index it had before."""
        before, ids = self._original.get(node.inputs[0]), self.labels[node.inputs[0].name]
        assert before is not None
        flat = self._positions(node, before.ravel(), ids.ravel())
        coordinates = np.asarray(np.unravel_index(flat, before.shape)[axis], np.int64).reshape(ids.shape)
        rows = np.moveaxis(coordinates, axis, 0).reshape(ids.shape[axis], -1)
        if np.any(rows != rows[:, :1]) or len(np.unique(rows[:, 0])) != len(rows):
            raise MisalignedError(node.name, "what is left of its input is not a box")
        return rows[:, 0]

    def first_number(self, node: gs.Node, index: int) -> Numbers | None:
        """What the unchanged network has there."""
        return self._original.number(node, index)

    def retarget(self, node: gs.Node, target: Target) -> bool:
        """Note the new sizes where a Concat puts the target together and they do not follow by themselves."""
        numbers = self.number(node, target.index)
        if numbers is None or node.name not in self._original.targets:
            return False
        pieces = pieces_of(node.inputs[target.index], self.size)
        values = {(p.maker.name, p.index): self._piece(p) for p in pieces.values()}
        for axis, place in target.places.items():
            if adapts(target, axis, numbers, always=False):
                continue
            piece = pieces.get(place)
            if piece is None or not editable(target, piece, numbers.marks[place]):
                raise MisalignedError(node.name, "its size does not follow the channels")
            key = piece.maker.name, piece.index
            values[key] = self.inputs[key] = _with(values[key], piece.place, target.wanted[axis])
        for piece in pieces.values():
            self._claim(node, piece, values[piece.maker.name, piece.index])
        return True

    def _piece(self, piece: Piece) -> NDArray[Any]:
        """The values of an input of a Concat, as they are if nothing is edited."""
        numbers = self.number(piece.maker, piece.index)
        return np.zeros(piece.length, np.int64) if numbers is None else numbers.values

    def _claim(self, node: gs.Node, piece: Piece, values: NDArray[Any]) -> None:
        """Several nodes may read what one Concat puts together: they must want the same."""
        key = piece.maker.name, piece.index
        claimant, claimed = self._claims.setdefault(key, (node.name, values))
        if not np.array_equal(claimed, values):
            raise MisalignedError(node.name, "one constant would need two values", (claimant,))


def _with(values: NDArray[Any], place: int, value: float) -> NDArray[Any]:
    """The values with another one at a place."""
    changed = values.copy()
    changed[place] = value
    return changed


def _run(at: tuple[int, ...], length: int) -> tuple[int, int, int] | None:
    """Start, end and step of a Slice that takes these indices of an axis, or None if none does."""
    if not at:
        return 0, 0, 1
    steps = set(np.diff(at).tolist()) or {1}
    step = steps.pop()
    if steps or step == 0:
        return None
    end = at[-1] + (1 if step > 0 else -1)
    return at[0], end if end >= 0 else -(length + 1), step


def _kept_sizes(kept: NDArray[np.bool_], tensor: gs.Tensor) -> Size:
    """The sizes of what is left of a tensor: what is kept must be the same number in every row along one axis.

    `kept` says of each id whether it is kept, one axis per axis of the tensor.
    """
    axes = sorted(carried(kept.astype(np.int64)), reverse=True)  # the outer axis of a split one stays whole
    sizes = list(kept.shape)
    for axis in axes:
        counts = np.unique(kept.sum(axis))
        if len(counts) == 1:
            sizes[axis] = int(counts[0])
            return tuple(sizes)
    for axis in axes:
        some = kept.any(tuple(a for a in range(kept.ndim) if a != axis))
        if kept.take(np.flatnonzero(some), axis).all():
            sizes[axis] = int(some.sum())
            return tuple(sizes)
    if axes:
        raise MisalignedError(tensor.inputs[0].name, f"what is kept of {tensor.name} is not a box")
    return tuple(sizes)


def replay(flow: Flow, root: Ids, kept: NDArray[np.bool_]) -> Replay:
    """Walk the network with the kept channels.

    Raises:
        MisalignedError: they do not line up.
    """
    walk = Replay(flow, root, kept)
    propagate(walk)
    return walk
