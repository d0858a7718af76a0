"""Channel rules of the operators that work value by value, along one axis, or over space."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.flow import Flow, Ids, along, carried

FIXED_PARTNER = "it is combined with a tensor whose channels cannot be removed"


def passing(flow: Flow, node: gs.Node) -> None:
    """The first output has the channels of the first input; further inputs are scalars."""
    flow.put(node.outputs[0], flow.get(node.inputs[0]))


def spatial(flow: Flow, node: gs.Node) -> None:
    """Pooling and the like: channels along axis 1 pass, all other axes may change."""
    ids = flow.line(node, node.inputs[0], 1)
    if len(node.outputs) > 1 and node.outputs[1].outputs:
        flow.bar(ids, node, "positions of its maxima are used")
    for tensor in node.outputs:
        if ids is not None and tensor.name:
            flow.put(tensor, along(ids, 1, len(flow.known(tensor))))


def elementwise(flow: Flow, node: gs.Node) -> None:
    """Broadcasting operator: equal channels are united, constants per channel are sliced."""
    combine(flow, node, residual=False)


def residual_sum(flow: Flow, node: gs.Node) -> None:
    """As `elementwise`; the channels that meet here form a stream."""
    combine(flow, node, residual=True)


def combine(flow: Flow, node: gs.Node, residual: bool) -> None:
    """See `elementwise`."""
    rank = len(flow.known(node.outputs[0]))
    data = [i for i, t in enumerate(node.inputs) if not isinstance(t, gs.Constant) and not t.is_empty()]
    sizes = {i: (1,) * (rank - len(s)) + s for i, s in ((i, flow.known(node.inputs[i])) for i in data)}
    ids = {i: x.reshape((1,) * (rank - x.ndim) + x.shape) for i in data if (x := flow.get(node.inputs[i])) is not None}
    for i, x in ids.items():
        if any(not _follows(x, sizes[i], ids.get(j), sizes[j]) for j in data if j != i):
            flow.bar(x, node, FIXED_PARTNER)
    for i, j in combinations(ids, 2):
        if _meet(ids[i], ids[j]):
            flow.unite(ids[i], ids[j], node, residual)
        elif not carried(ids[i]).isdisjoint(a for a in range(rank) if sizes[j][a] == 1):
            flow.bar(ids[j], node, "it is combined with channels that lie along another axis")
            flow.bar(ids[i], node, "it is combined with channels that lie along another axis")
    if ids:
        out = max(ids.values(), key=lambda x: len(carried(x)))
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                out = _constant(flow, node, i, out)
        flow.put(node.outputs[0], out)


def _meet(a: Ids, b: Ids) -> bool:
    """Whether two tensors carry channels along a common axis, or one channel each."""
    return bool(carried(a) & carried(b)) or (a.size == 1 and b.size == 1)


def _follows(ids: Ids, size: tuple[int, ...], other: Ids | None, other_size: tuple[int, ...]) -> bool:
    """Whether ids may be removed although another tensor takes part: it has the same channels, or one value for all."""
    if other is not None and _meet(ids, other):
        return ids.size > 1 or size == other_size
    if ids.size == 1:
        return False
    return all(other_size[axis] == 1 for axis in carried(ids))


def _constant(flow: Flow, node: gs.Node, index: int, out: Ids) -> Ids:
    """Slice a constant along the axis of the channels; returns the ids of the output."""
    shape = (1,) * (out.ndim - len(node.inputs[index].shape)) + tuple(node.inputs[index].shape)
    axes = [axis for axis in carried(out) if shape[axis] > 1]
    if not axes:
        if out.size == 1 and any(dim > 1 for dim in shape):
            flow.bar(out, node, "its only channel is spread over several")
        return out
    axis = axes[0]
    rows = np.moveaxis(out, axis, 0).reshape(out.shape[axis], -1)
    if rows.shape[1] > 1:
        flow.unite(rows[:, 1:], rows[:, :1], node)
    offset = out.ndim - len(node.inputs[index].shape)
    flow.link(node, index, "link", axis - offset, rows[:, 0])
    return along(rows[:, 0], axis, out.ndim) if len(carried(out)) > 1 else out


def reduction(flow: Flow, node: gs.Node) -> None:
    """Channels pass if no reduced axis carries them."""
    ids = flow.get(node.inputs[0])
    axes = _axes(flow, node)
    if ids is None:
        return
    if axes is None:
        flow.bar(ids, node, f"{node.op} reduces over axes that are only known at run time")
        return
    if not axes and not node.attrs.get("noop_with_empty_axes", 0):
        axes = list(range(ids.ndim))
    reduce_axes(flow, node, ids, axes, bool(node.attrs.get("keepdims", 1)))


def reduce_axes(flow: Flow, node: gs.Node, ids: Ids, axes: list[int], keep_axes: bool) -> None:
    """The ids after a reduction over some axes, which must not carry any."""
    axes = [axis % ids.ndim for axis in axes]
    if any(ids.shape[axis] > 1 for axis in axes):
        flow.bar(ids, node, f"{node.op} reduces over its channels")
    elif ids.size == 1 and 1 in axes:
        flow.bar(ids, node, f"{node.op} reduces over its channels")
    else:
        out = ids if keep_axes else np.squeeze(ids, tuple(axes))
        for tensor in node.outputs:
            flow.put(tensor, out)


def _axes(flow: Flow, node: gs.Node) -> list[int] | None:
    value: NDArray[np.generic] | None = np.asarray(node.attrs.get("axes", []), np.int64)
    if len(node.inputs) > 1:
        value = flow.value(node, 1)
    return None if value is None else [int(axis) for axis in value.reshape(-1)]


def arg_reduction(flow: Flow, node: gs.Node) -> None:
    """ArgMax and ArgMin over one axis."""
    ids = flow.get(node.inputs[0])
    if ids is not None:
        reduce_axes(flow, node, ids, [int(node.attrs.get("axis", 0))], bool(node.attrs.get("keepdims", 1)))


def over_axis(flow: Flow, node: gs.Node) -> None:
    """Softmax and the like: values along one axis depend on each other, so that axis must keep its channels."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    old_softmax = node.op in ("Softmax", "LogSoftmax", "Hardmax") and flow.network.graph.opset < 13
    axis = int(node.attrs.get("axis", 1 if old_softmax else -1)) % ids.ndim
    last = ids.ndim if old_softmax else axis + 1
    if any(size > 1 for size in ids.shape[axis:last]):
        flow.bar(ids, node, f"{node.op} runs over its channels")
    for tensor in node.outputs:
        flow.put(tensor, ids)


def cumulative(flow: Flow, node: gs.Node) -> None:
    """CumSum along an axis that carries no channels."""
    ids, axis = flow.get(node.inputs[0]), flow.value(node, 1)
    if ids is None:
        return
    if axis is None or axis.size != 1 or ids.shape[int(axis.reshape(-1)[0])] > 1:
        flow.bar(ids, node, f"{node.op} runs over its channels")
    flow.put(node.outputs[0], ids)


def mean_variance_norm(flow: Flow, node: gs.Node) -> None:
    """Normalized over some axes, which must not carry channels."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    if any(ids.shape[axis] > 1 for axis in node.attrs.get("axes", [0, 2, 3])):
        flow.bar(ids, node, f"{node.op} normalizes over its channels")
    flow.put(node.outputs[0], ids)
