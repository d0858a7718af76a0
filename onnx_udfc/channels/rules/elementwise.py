"""Channel rules of the operators that work value by value, along one axis, or over space."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.channels.labels import ACROSS, FIXED_PARTNER, Flow, Ids, along, of_channels, of_second_axis


def passing(flow: Flow, node: gs.Node) -> None:
    """The first output has the channels of the first input; further inputs are scalars."""
    flow.put(node.outputs[0], flow.get(node.inputs[0]))


@of_second_axis
def spatial(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Pooling and the like: channels along axis 1 pass, all other axes may change."""
    if len(node.outputs) > 1 and node.outputs[1].outputs:
        flow.bar(ids, node, "positions of its maxima are used")
    for tensor in node.outputs:
        if tensor.name:
            flow.lay(tensor, ids)


def elementwise(flow: Flow, node: gs.Node, residual: bool = False) -> None:
    """Broadcasting operator: equal channels are united, constants per channel are sliced.

    Those that meet at a `residual` one form a stream where one of them carries on what the other is made of, but for a
    shift of each channel that is the same in all places. Branches side by side that are added are one wide layer.
    """
    rank = len(flow.known(node.outputs[0]))
    data = [i for i, t in enumerate(node.inputs) if not isinstance(t, gs.Constant) and not t.is_empty()]
    sizes = {i: (1,) * (rank - len(s)) + s for i, s in ((i, flow.known(node.inputs[i])) for i in data)}
    ids = {i: x.reshape((1,) * (rank - x.ndim) + x.shape) for i in data if (x := flow.get(node.inputs[i])) is not None}
    axes = {i: {a + rank - len(flow.known(node.inputs[i])) for a in flow.axes(node.inputs[i])} for i in ids}
    parts = {i: Part(sizes[i], ids.get(i), frozenset(axes.get(i, ()))) for i in data}
    for i, part in parts.items():
        if part.ids is not None and not all(_follows(part, parts[j]) for j in data if j != i):
            flow.bar(part.ids, node, FIXED_PARTNER)
    for i, j in combinations(ids, 2):
        if _meet(parts[i], parts[j]):
            carries = (
                residual and _in_same_places(parts[i], parts[j]) and _carries_on(flow, node.inputs[i], node.inputs[j])
            )
            flow.unite(ids[i], ids[j], node, carries)
        elif any(sizes[j][axis] == 1 for axis in axes[i]):
            flow.bar(ids[j], node, ACROSS)
            flow.bar(ids[i], node, ACROSS)
    if ids:
        widest = max(ids, key=lambda i: len(axes[i]))
        out, along_axes = ids[widest], axes[widest]
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                out, along_axes = _constant(flow, node, i, out, along_axes)
        flow.put(node.outputs[0], out)


class Part(NamedTuple):
    """An input of an element-wise operator: its shape, ids and their axes, all with the rank of the output."""

    size: tuple[int, ...]
    ids: Ids | None
    axes: frozenset[int]


def _meet(a: Part, b: Part) -> bool:
    """Whether two tensors carry channels along a common axis, or one channel each."""
    if a.ids is None or b.ids is None:
        return False
    return bool(a.axes & b.axes) or not (a.axes or b.axes)


def _in_same_places(a: Part, b: Part) -> bool:
    """Whether neither is spread over the other's places: a computed bias, as of a diffusion step, has none."""
    carried = a.axes | b.axes
    return all(x == y for axis, (x, y) in enumerate(zip(a.size, b.size, strict=True)) if axis and axis not in carried)


def _carries_on(flow: Flow, a: gs.Tensor, b: gs.Tensor) -> bool:
    """Whether one of two tensors has in it, through no layer, what the other is computed from."""
    plain, whole = ([_sources(flow, tensor, past) for tensor in (a, b)] for past in (False, True))
    return not (plain[0].isdisjoint(whole[1]) and plain[1].isdisjoint(whole[0]))


def _sources(flow: Flow, tensor: gs.Tensor, past_layers: bool) -> set[str]:
    """Names of the tensors with channels that one is computed from, and its own."""
    found: set[str] = set()
    pending = [tensor]
    while pending:
        last = pending.pop()
        if last.name in found or last.name not in flow.labels:
            continue
        found.add(last.name)
        for node in last.inputs:
            if past_layers or node.name not in flow.network.layers:
                pending += node.inputs
    return found


def _follows(part: Part, other: Part) -> bool:
    """Whether ids may be removed although another tensor takes part: it has the same channels, or one value for all."""
    if _meet(part, other):
        return bool(part.axes) or part.size == other.size
    return bool(part.axes) and all(other.size[axis] == 1 for axis in part.axes)


def _constant(flow: Flow, node: gs.Node, index: int, out: Ids, axes: set[int]) -> tuple[Ids, set[int]]:
    """Slice a constant along the axis of the channels; returns the ids of the output and their axes."""
    shape = (1,) * (out.ndim - len(node.inputs[index].shape)) + tuple(node.inputs[index].shape)
    touched = sorted(axis for axis in axes if shape[axis] > 1)
    if not touched:
        if not axes and any(dim > 1 for dim in shape):
            flow.bar(out, node, "its only channel is spread over several")
        return out, axes
    axis = touched[0]
    rows = np.moveaxis(out, axis, 0).reshape(out.shape[axis], -1)
    if rows.shape[1] > 1:
        flow.unite(rows[:, 1:], rows[:, :1], node)
    offset = out.ndim - len(node.inputs[index].shape)
    flow.link(node, index, "link", axis - offset, rows[:, 0])
    return along(rows[:, 0], axis, out.ndim), {axis}


@of_channels
def reduction(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Channels pass if no reduced axis carries them."""
    axes = _axes(flow, node)
    if axes is None:
        flow.bar(ids, node, f"{node.op} reduces over axes that are only known at run time")
        return
    if not axes and not node.attrs.get("noop_with_empty_axes", 0):
        axes = list(range(ids.ndim))
    reduce_axes(flow, node, ids, axes, bool(node.attrs.get("keepdims", 1)))


def reduce_axes(flow: Flow, node: gs.Node, ids: Ids, axes: list[int], keep_axes: bool) -> None:
    """The ids after a reduction over some axes."""
    axes = [axis % ids.ndim for axis in axes]
    if not flow.axes(node.inputs[0]) and 1 in axes:
        flow.bar(ids, node, f"{node.op} reduces over its channels")
    elif (out := at_once(flow, node, ids, axes, f"{node.op} reduces over its channels")) is not None:
        for tensor in node.outputs:
            flow.put(tensor, out if keep_axes else np.squeeze(out, tuple(axes)))


def at_once(flow: Flow, node: gs.Node, ids: Ids, axes: Collection[int], reason: str) -> Ids | None:
    """Ids where values along some axes depend on each other: those along them stay or go at once, with size 1 there.

    Where channels lie along no other axis (the branches that a Softmax weighs are another one), all of them must stay.
    """
    carried = flow.axes(node.inputs[0])
    inside = carried.intersection(axes)
    if inside and inside == carried:
        flow.bar(ids, node, reason)
        return None
    for axis in inside:
        first = ids[(slice(None),) * axis + (slice(0, 1),)]
        flow.unite(ids, first, node)
        ids = first
    return ids


def _axes(flow: Flow, node: gs.Node) -> list[int] | None:
    value: NDArray[np.generic] | None = np.asarray(node.attrs.get("axes", []), np.int64)
    if len(node.inputs) > 1:
        value = flow.value(node, 1)
    return None if value is None else [int(axis) for axis in value.reshape(-1)]


@of_channels
def arg_reduction(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """ArgMax and ArgMin over one axis."""
    reduce_axes(flow, node, ids, [int(node.attrs.get("axis", 0))], bool(node.attrs.get("keepdims", 1)))


@of_channels
def over_axis(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Softmax and the like: values along one axis depend on each other, so that axis must keep its channels."""
    old_softmax = node.op in ("Softmax", "LogSoftmax", "Hardmax") and flow.network.graph.opset < 13
    axis = int(node.attrs.get("axis", 1 if old_softmax else -1)) % ids.ndim
    along_axes = range(axis, ids.ndim if old_softmax else axis + 1)
    out = at_once(flow, node, ids, along_axes, f"{node.op} runs over its channels")
    for tensor in node.outputs:
        flow.put(tensor, out)


@of_channels
def cumulative(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """CumSum along an axis that carries no channels."""
    axis = flow.value(node, 1)
    if axis is None or axis.size != 1 or int(axis.reshape(-1)[0]) % ids.ndim in flow.axes(node.inputs[0]):
        flow.bar(ids, node, f"{node.op} runs over its channels")
    flow.put(node.outputs[0], ids)


@of_channels
def mean_variance_norm(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Normalized over some axes."""
    axes = [axis % ids.ndim for axis in node.attrs.get("axes", [0, 2, 3])]
    out = at_once(flow, node, ids, axes, f"{node.op} normalizes over its channels")
    flow.put(node.outputs[0], ids if out is None else out)


@of_channels
def layer_norm(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Everything from `axis` on is normalized together."""
    first = int(node.attrs.get("axis", -1)) % ids.ndim
    reason = "its channels are normalized together by a LayerNormalization"
    out = at_once(flow, node, ids, range(first, ids.ndim), reason)
    flow.put(node.outputs[0], ids if out is None else out)
