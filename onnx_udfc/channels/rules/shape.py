"""Channel rules of the operators that move, split, join and reshape data."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.labels import Flow, Ids

LARGEST_RESHAPE = 1 << 23  # ids that are laid out in full for one Reshape
RUN_TIME = "where it is cut is only known at run time"
PAD_RUN_TIME = "how it is padded is only known at run time"


def concat(flow: Flow, node: gs.Node) -> None:
    """Channels side by side; along another axis than theirs, equal channels are united."""
    rank = len(flow.known(node.outputs[0]))
    axis = int(node.attrs["axis"]) % rank
    parts = [_whole(flow, node, i, axis) for i in range(len(node.inputs))]
    across = [set() if isinstance(t, gs.Constant) else flow.axes(t) - {axis} for t in node.inputs]
    for i, part in enumerate(parts):
        if across[i] and any(other != across[i] for other in across):
            flow.bar(part, node, "it is joined with a tensor whose channels cannot be removed")
    wide = max(range(len(parts)), key=lambda i: len(across[i]))
    if across[wide]:
        for part, axes in zip(parts, across, strict=True):
            if axes == across[wide]:
                flow.unite(part.take([0], axis), parts[wide].take([0], axis), node)
                flow.unite(part, part.take([0], axis), node)
        flow.put(node.outputs[0], parts[wide].take([0], axis))
    else:
        flow.put(node.outputs[0], np.concatenate(parts, axis))


def _whole(flow: Flow, node: gs.Node, index: int, axis: int) -> Ids:
    """The ids of an input, one for every index along the axis; new ones that stay where it carries none."""
    tensor = node.inputs[index]
    ids = None if isinstance(tensor, gs.Constant) else flow.get(tensor)
    length = flow.known(tensor)[axis]
    if ids is None:
        ids = flow.fresh(node, index, length)
        flow.bar(ids, node, f"joined with channels that cannot be removed by {node.op}")
        return ids.reshape([length if a == axis else 1 for a in range(len(flow.known(node.outputs[0])))])
    if not flow.axes(tensor) and length > 1:
        flow.bar(ids, node, "its only channel is spread over several")
    shape = list(ids.shape)
    shape[axis] = length
    return np.broadcast_to(ids, shape)


def split(flow: Flow, node: gs.Node) -> None:
    """Subsets of the channels."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    if axis not in flow.axes(node.inputs[0]):
        for tensor in node.outputs:
            flow.put(tensor, ids)
        return
    lengths = [flow.known(tensor)[axis] for tensor in node.outputs]
    for tensor, part in zip(node.outputs, np.split(ids, np.cumsum(lengths)[:-1], axis), strict=True):
        flow.put(tensor, part)
    if len(node.inputs) > 1 and not node.inputs[1].is_empty():
        flow.edit_input(node, 1, np.asarray(lengths, np.int64))
    else:
        flow.edit_sizes(node, lengths)


def slice_(flow: Flow, node: gs.Node) -> None:
    """A constant range of the channels."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    given = [flow.value(node, i) for i in range(1, 5)]
    if any(value is None for value in given):
        flow.bar(ids, node, RUN_TIME)
        return
    starts, ends, axes, steps = ([int(v) for v in value.reshape(-1)] for value in given if value is not None)
    axes = [axis % ids.ndim for axis in axes] or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    out = ids
    for k, axis in enumerate(axes):
        if axis not in flow.axes(node.inputs[0]):
            continue
        picked = slice(starts[k], ends[k], steps[k])
        if steps[k] < 0 and ends[k] < -flow.original_length(node.inputs[0], axis):
            picked = slice(starts[k], None, steps[k])
        out, starts[k], ends[k] = flow.cut(node, out, axis, picked)
    if out is not ids and len(axes) > 1 and not all(isinstance(t, gs.Constant) for t in node.inputs[1:3]):
        flow.bar(ids, node, RUN_TIME)
    flow.put(node.outputs[0], out)
    if out is not ids:
        flow.edit_input(node, 1, np.asarray(starts, np.int64))
        flow.edit_input(node, 2, np.asarray(ends, np.int64))


def gather(flow: Flow, node: gs.Node) -> None:
    """Channels picked by constant indices."""
    if isinstance(node.inputs[0], gs.Constant) or (ids := flow.get(node.inputs[0])) is None:
        return
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    rank = len(flow.known(node.inputs[1]))
    indices = flow.value(node, 1)
    if axis not in flow.axes(node.inputs[0]):
        flow.put(node.outputs[0], ids.reshape(ids.shape[:axis] + (1,) * rank + ids.shape[axis + 1 :]))
    elif indices is None or rank != 1 or not isinstance(node.inputs[1], gs.Constant):
        flow.bar(ids, node, "single channels are picked from it by Gather")
    else:
        out, indices = flow.pick(node, ids, axis, np.asarray(indices, np.int64))
        flow.put(node.outputs[0], out)
        flow.edit_input(node, 1, indices)


def transpose(flow: Flow, node: gs.Node) -> None:
    """Axes in another order."""
    ids = flow.get(node.inputs[0])
    if ids is not None:
        flow.put(node.outputs[0], np.transpose(ids, node.attrs.get("perm", list(range(ids.ndim))[::-1])))


def reshape(flow: Flow, node: gs.Node) -> None:
    """The ids laid out in full, reshaped, and axes along which they do not vary dropped again."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    before, after = flow.known(node.inputs[0]), flow.known(node.outputs[0])
    out = _reshaped(ids, flow.axes(node.inputs[0]), before, after)
    if out is None:
        flow.bar(ids, node, "the tensor is too large to follow through a Reshape")
        return
    out = flow.narrowed(node.outputs[0], out)
    flow.put(node.outputs[0], out)
    if len(flow.axes(node.outputs[0])) > max(1, len(flow.axes(node.inputs[0]))):
        flow.box(out, node)
    if node.op == "Reshape":
        _retarget(flow, node, out, after)


def _reshaped(ids: Ids, axes: set[int], before: tuple[int, ...], after: tuple[int, ...]) -> Ids | None:
    """The ids of a reshaped tensor; equal first and last sizes are left out of it. None if it is too large."""
    shared = min(len(before), len(after))
    first = next((i for i in range(shared) if before[i] != after[i]), shared)
    last = next((i for i in range(shared - first) if before[-1 - i] != after[-1 - i]), shared - first)
    middle = before[first : len(before) - last]
    if axes.isdisjoint(range(first, len(before) - last)):
        shape = ids.shape[:first] + (1,) * (len(after) - first - last) + ids.shape[len(before) - last :]
        return ids.reshape(shape)
    if int(np.prod(middle)) > LARGEST_RESHAPE:
        return None
    whole = np.broadcast_to(ids, ids.shape[:first] + middle + ids.shape[len(before) - last :])
    return whole.reshape(ids.shape[:first] + after[first : len(after) - last] + ids.shape[len(before) - last :])


def _retarget(flow: Flow, node: gs.Node, out: Ids, after: tuple[int, ...]) -> None:
    """The target of a Reshape names the sizes of the axes with channels."""
    target, axes = node.inputs[1], flow.axes(node.outputs[0])
    if isinstance(target, gs.Constant):
        sizes = [int(v) for v in target.values.reshape(-1)]
        flow.edit_input(node, 1, np.asarray([_new_size(s, after[a], a in axes) for a, s in enumerate(sizes)]))
    elif not flow.retarget(node, 1, axes, after):
        flow.bar(out, node, "its shape is computed at run time in a way that cannot be followed")


def _new_size(old: int, new: int, carries: bool) -> int:
    """A dimension of a Reshape's target: -1 and 0 stay what they are."""
    return new if carries and old > 0 else old


def expand(flow: Flow, node: gs.Node) -> None:
    """Repeated along axes that carry no channels."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    before, after = flow.known(node.inputs[0]), flow.known(node.outputs[0])
    ids = ids.reshape((1,) * (len(after) - ids.ndim) + ids.shape)
    before = (1,) * (len(after) - len(before)) + before
    if not flow.axes(node.inputs[0]) and before != after:
        flow.bar(ids, node, "its only channel is spread over several")
    flow.put(node.outputs[0], ids)
    target, axes = node.inputs[1], flow.axes(node.outputs[0])
    if isinstance(target, gs.Constant):
        sizes = [int(v) for v in target.values.reshape(-1)]
        offset = len(after) - len(sizes)
        named = [s > 1 and a + offset in axes for a, s in enumerate(sizes)]
        new = [after[a + offset] if named[a] else s for a, s in enumerate(sizes)]
        flow.edit_input(node, 1, np.asarray(new))
    elif not flow.retarget(node, 1, axes, after):
        flow.bar(ids, node, "its shape is computed at run time in a way that cannot be followed")


def tile(flow: Flow, node: gs.Node) -> None:
    """Repeated along axes that carry no channels."""
    ids, repeats = flow.get(node.inputs[0]), flow.value(node, 1)
    if ids is None:
        return
    axes = flow.axes(node.inputs[0])
    if repeats is None or not axes or any(int(repeats[a]) != 1 for a in axes):
        flow.bar(ids, node, "its channels are repeated by Tile")
        return
    flow.put(node.outputs[0], ids)


def pad(flow: Flow, node: gs.Node) -> None:
    """Channels pass; zero channels that are padded in front or behind are new ones that can go too."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    amounts, axes = flow.value(node, 1), flow.value(node, 3)
    if amounts is None or axes is None:
        flow.bar(ids, node, PAD_RUN_TIME)
        return
    pads = [int(v) for v in amounts.reshape(-1)]
    named = [int(a) % ids.ndim for a in axes.reshape(-1)] or list(range(ids.ndim))
    out, carried = ids, flow.axes(node.inputs[0])
    for k, axis in enumerate(named):
        before, after = pads[k], pads[k + len(named)]
        if axis not in carried or (before == 0 and after == 0):
            continue
        if min(before, after) < 0 or node.attrs.get("mode", "constant") != "constant" or len(carried) > 1:
            flow.bar(ids, node, "its channels are padded by copies, or cut")
            return
        ends = [flow.fresh(node, side, length) for side, length in enumerate((before, after))]
        out = np.concatenate([_shaped(ends[0], axis, ids.ndim), out, _shaped(ends[1], axis, ids.ndim)], axis)
        pads[k], pads[k + len(named)] = len(ends[0]), len(ends[1])
    if out is not ids and not isinstance(node.inputs[1], gs.Constant):
        flow.bar(ids, node, PAD_RUN_TIME)
    flow.put(node.outputs[0], out)
    if out is not ids:
        flow.edit_input(node, 1, np.asarray(pads, np.int64))


def _shaped(ids: Ids, axis: int, rank: int) -> Ids:
    return ids.reshape([len(ids) if a == axis else 1 for a in range(rank)])


def resize(flow: Flow, node: gs.Node) -> None:
    """Channels pass if only space is resized."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    before, after = flow.known(node.inputs[0]), flow.known(node.outputs[0])
    axes = flow.axes(node.inputs[0])
    if any(before[axis] != after[axis] for axis in axes) or not axes:
        flow.bar(ids, node, f"{node.op} resizes along its channels")
    flow.put(node.outputs[0], ids)
    if len(node.inputs) > 3 and not node.inputs[3].is_empty() and "axes" not in node.attrs:
        _resize_target(flow, node, ids, after)


def _resize_target(flow: Flow, node: gs.Node, ids: Ids, after: tuple[int, ...]) -> None:
    target, axes = node.inputs[3], flow.axes(node.outputs[0])
    if isinstance(target, gs.Constant):
        sizes = [int(v) for v in target.values.reshape(-1)]
        flow.edit_input(node, 3, np.asarray([after[a] if a in axes else s for a, s in enumerate(sizes)]))
    elif not flow.retarget(node, 3, axes, after):
        flow.bar(ids, node, "its size is computed at run time in a way that cannot be followed")


def depth_to_space(flow: Flow, node: gs.Node) -> None:
    """The r*r input channels of an output channel go together."""
    ids = flow.line(node, node.inputs[0], 1)
    if ids is None:
        return
    area = int(node.attrs["blocksize"]) ** 2
    by_column = node.attrs.get("mode", "DCR") == "CRD"
    blocks = ids.reshape(-1, area) if by_column else ids.reshape(area, -1).T
    flow.unite(blocks[:, 1:], blocks[:, :1], node)
    flow.put(node.outputs[0], blocks[:, 0].reshape(1, -1, 1, 1))


def space_to_depth(flow: Flow, node: gs.Node) -> None:
    """Every input channel becomes r*r output channels, the offset in the block varying slowest."""
    ids = flow.line(node, node.inputs[0], 1)
    if ids is not None:
        area = int(node.attrs["blocksize"]) ** 2
        flow.put(node.outputs[0], np.tile(ids, area).reshape(1, -1, 1, 1))
