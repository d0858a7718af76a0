"""The channel rules once more with only the kept channels: what is where in the pruned network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.labels import Flow, Ids, Link, carried, target_pieces
from onnx_udfc.channels.rules.table import propagate
from onnx_udfc.channels.shapes import Size
from onnx_udfc.errors import ModelError


class MisalignedError(ModelError):
    """The kept channels do not line up at a node. Groups are tried out when they are found, so that this is rare."""

    def __init__(self, node: str, what: str) -> None:
        """`node` is where it shows, `what` is wrong there."""
        super().__init__(f"the kept channels do not line up at node {node!r} ({what}); leave it alone with --skip")
        self.node, self.what = node, what


class Replay(Flow):
    """A walk over the unchanged network in which tensors have the sizes and the ids that are left.

    Attributes:
        indices: for every link, the original indices along the axis that stay, in their physical order.
        attributes: (node, attribute) → new value.
        inputs: (node, input) → new value of a constant input.
    """

    def __init__(self, original: Flow, root: Ids, kept: NDArray[np.bool_]) -> None:
        """Args: the walk with all channels; id → root; root → whether it is kept."""
        super().__init__(original.network, original.shapes)
        self._original, self._root, self._kept = original, root, kept[root]
        self._links = iter(original.links)
        self._barred = {(b.node, b.reason) for b in original.barriers}
        self.indices: list[tuple[Link, Ids]] = []
        self.attributes: dict[tuple[str, str], int | list[int]] = {}
        self.inputs: dict[tuple[str, int], NDArray[np.int64]] = {}

    def apply(self, rule: Callable[[Flow, gs.Node], None], node: gs.Node) -> str:
        """Run a rule, unless the first walk could not."""
        if node.name in self._original.blocked:
            return self._original.blocked[node.name]
        try:
            rule(self, node)
        except (ValueError, IndexError) as error:
            raise MisalignedError(node.name, str(error)) from error
        return ""

    def size(self, tensor: gs.Tensor) -> Size | None:
        """The shape of a tensor after pruning: of its ids where a rule has set them, else a box that holds them."""
        size = super().size(tensor)
        ids = None if isinstance(tensor, gs.Constant) else self._original.get(tensor)
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
        if before is None or before.ndim != ids.ndim or ids.size == 0 or ids.size != self._kept[before].sum():
            raise MisalignedError(tensor.inputs[0].name, f"{ids.shape} is left of {tensor.name}")
        self.labels[tensor.name] = ids

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
        link = next(self._links)
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

    def edit_input(self, node: gs.Node, index: int, value: NDArray[np.int64]) -> None:
        """Note the constant's value after pruning."""
        known = self.inputs.setdefault((node.name, index), np.asarray(value, np.int64))
        if not np.array_equal(known, value):
            raise MisalignedError(node.name, "one constant would need two values")

    def edit_sizes(self, node: gs.Node, lengths: list[int]) -> None:
        """Note the sizes of a Split that had none: an input, or before opset 13 an attribute."""
        if self.network.graph.opset < 13:
            self.edit_attribute(node, "split", lengths)
        elif len(set(lengths)) > 1:
            self.edit_input(node, 1, np.asarray(lengths, np.int64))

    def cut(self, node: gs.Node, ids: Ids, axis: int, picked: slice) -> tuple[Ids, int, int]:
        """The consecutive kept ids that the slice picked."""
        sources = self._sources(node, ids, axis)
        wanted = np.arange(self.original_length(node.inputs[0], axis))[picked]
        at = np.flatnonzero(np.isin(sources, wanted))
        if not len(at) or at[-1] - at[0] + 1 != len(at) or picked.step != 1:
            raise MisalignedError(node.name, "the slice is not in one piece")
        return np.take(ids, at, axis), int(at[0]), int(at[-1]) + 1

    def pick(self, node: gs.Node, ids: Ids, axis: int, indices: Ids) -> tuple[Ids, Ids]:
        """The kept ids among those picked, where they are now."""
        sources = self._sources(node, ids, axis)
        length = self.original_length(node.inputs[0], axis)
        now = np.full(length, -1, np.int64)
        now[sources] = np.arange(len(sources))
        at = now[indices % length]
        return np.take(ids, at[at >= 0], axis), at[at >= 0]

    def _sources(self, node: gs.Node, ids: Ids, axis: int) -> Ids:
        """For every index along the axis of the node's first input, the index it had before."""
        before = self._original.get(node.inputs[0])
        assert before is not None
        if ids.size != ids.shape[axis] or before.size != before.shape[axis]:
            raise MisalignedError(node.name, "its input carries channels along several axes")
        return self._positions(node, before.ravel(), ids.ravel())

    def retarget(self, node: gs.Node, index: int, axes: set[int], sizes: Size) -> bool:
        """Note the new sizes where a Concat puts the target shape together."""
        if not super().retarget(node, index, axes, sizes):
            return False
        pieces = target_pieces(node.inputs[index], self.shapes)
        for axis in axes if pieces is not None else ():
            maker, piece = pieces[axis]  # type: ignore[index]
            tensor = maker.inputs[piece]
            if not isinstance(tensor, gs.Constant) or int(np.ravel(tensor.values)[0]) > 0:
                self.edit_input(maker, piece, np.asarray([sizes[axis]], np.int64))
        return True


def _kept_sizes(kept: NDArray[np.bool_], tensor: gs.Tensor) -> Size:
    """The sizes of what is left of a tensor: what is kept must be the same number in every row along one axis.

    Args:
        kept: whether each id is kept, one axis per axis of the tensor.
        tensor: whose they are.
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
