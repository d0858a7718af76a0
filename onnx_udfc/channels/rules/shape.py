"""Channel rules of the operators that move, split, join and reshape data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.arithmetic import OPEN, UNKNOWN, plain
from onnx_udfc.channels.arithmetic import cut as part_of
from onnx_udfc.channels.labels import Cut, Flow, Ids, MisfitError, along, of_channels, of_second_axis
from onnx_udfc.channels.targets import READS_SIZES, Target

LARGEST_RESHAPE = 1 << 23  # ids that are laid out in full for one Reshape
RUN_TIME = "where it is cut is only known at run time"
PAD_RUN_TIME = "how it is padded is only known at run time"


def concat(flow: Flow, node: gs.Node) -> None:
    """Channels side by side; along another axis than theirs, equal channels are united."""
    rank = len(flow.known(node.outputs[0]))
    axis = int(node.attrs["axis"]) % rank
    parts = [_whole(flow, node, i, axis) for i in range(len(node.inputs))]
    across = [flow.axes(tensor) - {axis} for tensor in node.inputs]
    if any(other != across[0] for other in across):  # some lie along the axis, others across it
        for part in parts:
            flow.bar(part, node, "it is joined with a tensor whose channels cannot be removed")
    wide = max(range(len(parts)), key=lambda i: len(across[i]))
    if across[wide]:
        for part, axes in zip(parts, across, strict=True):
            if axes == across[wide]:
                flow.unite(_first(part, axis), _first(parts[wide], axis), node)
                flow.unite(part, _first(part, axis), node)
        flow.put(node.outputs[0], _first(parts[wide], axis))
    else:
        flow.put(node.outputs[0], np.concatenate(parts, axis))


def _first(ids: Ids, axis: int) -> Ids:
    """The first place along an axis; a view, for the array may be a small one seen large."""
    return ids[(slice(None),) * axis + (slice(0, 1),)]


def _whole(flow: Flow, node: gs.Node, index: int, axis: int) -> Ids:
    """The ids of an input, one for every index along the axis; new ones that stay where it carries none."""
    tensor = node.inputs[index]
    ids = flow.get(tensor)
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


@of_channels
def split(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Subsets of the channels."""
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    if axis not in flow.axes(node.inputs[0]):
        for tensor in node.outputs:
            flow.put(tensor, ids)
        return
    ends = np.cumsum([flow.original_length(tensor, axis) for tensor in node.outputs])
    if ends[-1] != flow.original_length(node.inputs[0], axis):
        raise MisfitError(f"{ends[-1]} channels come out of it")
    parts = [flow.where(node, axis, part) for part in np.split(np.arange(ends[-1]), ends[:-1])]
    if not np.array_equal(np.concatenate(parts), np.arange(ids.shape[axis])):
        raise MisfitError("its pieces lie among each other")
    for tensor, part in zip(node.outputs, parts, strict=True):
        flow.put(tensor, np.take(ids, part, axis))
    lengths = [len(part) for part in parts]
    if len(node.inputs) > 1 and not node.inputs[1].is_empty():
        flow.edit_input(node, 1, np.asarray(lengths, np.int64))
    else:
        flow.edit_sizes(node, lengths)


@of_channels
def slice_(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """A constant range of the channels, with any step; its ends may be computed from nothing but counts of channels."""
    carried = flow.axes(node.inputs[0])
    cuts = _cuts(flow, node, ids.ndim, carried)
    if cuts is None:
        flow.bar(ids, node, RUN_TIME)
        return
    out = ids
    for k, cut in enumerate(cuts):
        if cut.axis not in carried:
            continue
        length = flow.original_length(node.inputs[0], cut.axis)
        picked = np.arange(length)[part_of(cut.start, cut.end, cut.step, length)]
        at = flow.where(node, cut.axis, picked)
        if len(picked) and not len(at):
            raise MisfitError("nothing is left of what it takes")
        cuts[k] = Cut(cut.axis, cut.start, cut.end, cut.step, tuple(at.tolist()), ids.shape[cut.axis])
        out = np.take(out, at, cut.axis)
    if out.size:
        flow.put(node.outputs[0], out)
    if any(cut.at is not None for cut in cuts):
        flow.edit_cut(node, cuts)


def _cuts(flow: Flow, node: gs.Node, rank: int, carried: set[int]) -> list[Cut] | None:
    """What a Slice takes of every axis that it names; None if that of an axis with channels is not known.

    Where channels are cut, all ends become constants, so all of them must be known.
    """
    given = [flow.first_number(node, i) for i in range(1, 5)]
    if "starts" in node.attrs:  # before opset 10
        given[:3] = [plain(np.asarray(node.attrs.get(name, []), np.int64)) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = given
    if axes is None or any(axes.marks.ravel()):
        return None
    count = len(axes.values) or (len(starts.values) if starts is not None else rank)
    named = [int(axis) % rank for axis in axes.values.ravel()] or list(range(count))
    if carried.isdisjoint(named):
        _no_counts(flow, node, range(count))
        return []
    if starts is None or ends is None or steps is None or len(named) != len(starts.values):
        return None
    marks = [m for numbers in (starts, ends, steps) for m in numbers.marks.ravel()]
    if any(int(m) & (OPEN | UNKNOWN) for m in marks):
        return None
    _no_counts(flow, node, [k for k, axis in enumerate(named) if axis not in carried])
    strides = [int(v) for v in steps.values.ravel()] or [1] * count
    ranges = zip(named, starts.values.ravel(), ends.values.ravel(), strides, strict=True)
    return [Cut(axis, int(start), int(end), step) for axis, start, end, step in ranges]


def _no_counts(flow: Flow, node: gs.Node, places: Sequence[int]) -> None:
    """No count of channels may decide where other axes are cut."""
    for tensor in node.inputs[1:3]:
        flow.escape(node, tensor.name, places)


@of_channels
def gather(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Channels picked by constant indices."""
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    rank = len(flow.known(node.inputs[1]))
    if axis not in flow.axes(node.inputs[0]):
        flow.put(node.outputs[0], ids.reshape(ids.shape[:axis] + (1,) * rank + ids.shape[axis + 1 :]))
        return
    if not isinstance(node.inputs[1], gs.Constant):
        flow.bar(ids, node, "single channels are picked from it by Gather")
        return
    length, values = flow.original_length(node.inputs[0], axis), np.asarray(node.inputs[1].values, np.int64)
    if values.size and not -length <= values.min() <= values.max() < length:
        raise MisfitError(f"it picks a channel that is none of {length}")
    at = flow.where(node, axis, values.reshape(-1) % length)
    out = np.take(ids, at, axis)
    if rank == 1 and out.size:
        flow.put(node.outputs[0], out)
    elif rank == 0 and len(at) and flow.axes(node.inputs[0]) != {axis}:
        flow.put(node.outputs[0], out.reshape(out.shape[:axis] + out.shape[axis + 1 :]))
    elif out.size:
        flow.bar(out, node, "single channels are picked from it by Gather")
    if len(at) < values.size and (rank != 1 or not len(at)):
        raise MisfitError("nothing is left of what it takes")
    flow.edit_input(node, 1, at.reshape(values.shape) if rank != 1 else at)


@of_channels
def transpose(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Axes in another order."""
    flow.put(node.outputs[0], np.transpose(ids, node.attrs.get("perm")))


@of_channels
def reshape(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """The ids laid out in full, reshaped, and axes along which they do not vary dropped again."""
    before, after = flow.known(node.inputs[0]), flow.known(node.outputs[0])
    ends = _shared(*(tuple(flow.shapes.sizes[tensor.name]) for tensor in (node.inputs[0], node.outputs[0])))
    out = _reshaped(ids, flow.axes(node.inputs[0]), before, after, *ends)
    if out is None:
        flow.bar(ids, node, "the tensor is too large to follow through a Reshape")
        return
    out = flow.narrowed(node.outputs[0], out)
    flow.put(node.outputs[0], out)
    if len(flow.axes(node.outputs[0])) > max(1, len(flow.axes(node.inputs[0]))):
        flow.box(out, node)
    if node.op == "Reshape":
        _retarget(flow, node, out, after)


def _shared(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int]:
    """How many first and last axes of a tensor a Reshape leaves as they are."""
    shared = min(len(before), len(after))
    first = next((i for i in range(shared) if before[i] != after[i]), shared)
    return first, next((i for i in range(shared - first) if before[-1 - i] != after[-1 - i]), shared - first)


def _reshaped(
    ids: Ids, axes: set[int], before: tuple[int, ...], after: tuple[int, ...], first: int, last: int
) -> Ids | None:
    """The ids of a reshaped tensor; equal first and last axes are left out of it. None if it is too large."""
    middle = before[first : len(before) - last]
    if axes.isdisjoint(range(first, len(before) - last)):
        shape = ids.shape[:first] + (1,) * (len(after) - first - last) + ids.shape[len(before) - last :]
        return ids.reshape(shape)
    if int(np.prod(middle)) > LARGEST_RESHAPE:
        return None
    if np.prod(middle) != np.prod(after[first : len(after) - last]):
        raise MisfitError(f"{before} does not make {after}")
    whole = np.broadcast_to(ids, ids.shape[:first] + middle + ids.shape[len(before) - last :])
    return whole.reshape(ids.shape[:first] + after[first : len(after) - last] + ids.shape[len(before) - last :])


def _retarget(flow: Flow, node: gs.Node, out: Ids, after: tuple[int, ...]) -> None:
    """The target of a Reshape names the sizes of the axes with channels."""
    target, axes, before = node.inputs[1], flow.axes(node.outputs[0]), flow.known(node.inputs[0])
    if isinstance(target, gs.Constant):
        sizes = [int(v) for v in target.values.reshape(-1)]
        new = [after[a] if a in axes and s > 0 else s for a, s in enumerate(sizes)]  # -1 and 0 stay what they are
        flow.edit_input(node, 1, np.asarray(new, np.int64))
        return
    copied = {} if node.attrs.get("allowzero", 0) else {axis: before[axis] for axis in axes if axis < len(before)}
    wanted = {axis: after[axis] for axis in axes}
    if not flow.retarget(node, Target(node.op, 1, {axis: axis for axis in axes}, wanted, copied, (-1,))):
        flow.bar(out, node, "its shape is computed at run time in a way that cannot be followed")


@of_channels
def expand(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Repeated along axes that carry no channels."""
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
        flow.edit_input(node, 1, np.asarray(new, np.int64))
        return
    numbers = flow.number(node, 1)
    offset = 0 if numbers is None else len(after) - len(numbers.values)
    places = {axis: axis - offset for axis in axes if axis >= offset}
    if not flow.retarget(node, Target(node.op, 1, places, {axis: after[axis] for axis in places}, {}, (1,))):
        flow.bar(ids, node, "its shape is computed at run time in a way that cannot be followed")


@of_channels
def tile(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Repeated along axes that carry no channels."""
    repeats, axes = flow.value(node, 1), flow.axes(node.inputs[0])
    if repeats is None or not axes or any(int(repeats[a]) != 1 for a in axes):
        flow.bar(ids, node, "its channels are repeated by Tile")
        return
    flow.put(node.outputs[0], ids)


@of_channels
def pad(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Channels pass; zero channels that are padded in front or behind are new ones that can go too."""
    amounts, axes = flow.value(node, 1), flow.value(node, 3)
    if "pads" in node.attrs:  # before opset 11
        amounts = np.asarray(node.attrs["pads"], np.int64)
    if amounts is None or axes is None:
        flow.bar(ids, node, PAD_RUN_TIME)
        return
    pads = [int(v) for v in amounts.reshape(-1)]
    if len(pads) != 2 * (axes.size or ids.ndim):
        raise MisfitError(f"it names {len(pads)} amounts")
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
        out = np.concatenate([along(ends[0], axis, ids.ndim), out, along(ends[1], axis, ids.ndim)], axis)
        pads[k], pads[k + len(named)] = len(ends[0]), len(ends[1])
    by_attribute = "pads" in node.attrs
    if out is not ids and not by_attribute and not isinstance(node.inputs[1], gs.Constant):
        flow.bar(ids, node, PAD_RUN_TIME)
    flow.put(node.outputs[0], out)
    if out is not ids and by_attribute:
        flow.edit_attribute(node, "pads", pads)
    elif out is not ids:
        flow.edit_input(node, 1, np.asarray(pads, np.int64))


@of_channels
def resize(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Channels pass if only space is resized."""
    before, after = flow.known(node.inputs[0]), flow.known(node.outputs[0])
    axes = flow.axes(node.inputs[0])
    if any(before[axis] != after[axis] for axis in axes) or not axes:
        flow.bar(ids, node, f"{node.op} resizes along its channels")
    flow.put(node.outputs[0], ids)
    named = [int(a) % ids.ndim for a in node.attrs.get("axes", range(ids.ndim))]
    places = {axis: place for place, axis in enumerate(named) if axis in axes}
    for index in READS_SIZES[node.op]:
        if index < len(node.inputs) and not node.inputs[index].is_empty():
            by_size = index == 3
            wanted = {axis: after[axis] if by_size else 1 for axis in places}
            _resize_target(flow, node, ids, Target(node.op, index, places, wanted, {}))


def _resize_target(flow: Flow, node: gs.Node, ids: Ids, target: Target) -> None:
    """Sizes must be those of the channels, scales 1."""
    tensor = node.inputs[target.index]
    if isinstance(tensor, gs.Constant):
        if target.index == 3 and tensor.values.size:
            sizes = np.asarray(tensor.values).reshape(-1).copy()
            for axis, place in target.places.items():
                sizes[place] = target.wanted[axis]
            flow.edit_input(node, 3, sizes)
    elif not flow.retarget(node, target):
        flow.bar(ids, node, "its size is computed at run time in a way that cannot be followed")


@of_second_axis
def depth_to_space(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """The r*r input channels of an output channel go together."""
    area = int(node.attrs["blocksize"]) ** 2
    by_column = node.attrs.get("mode", "DCR") == "CRD"
    blocks = ids.reshape(-1, area) if by_column else ids.reshape(area, -1).T
    flow.unite(blocks[:, 1:], blocks[:, :1], node)
    flow.lay(node.outputs[0], blocks[:, 0])


@of_second_axis
def space_to_depth(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Every input channel becomes r*r output channels, the offset in the block varying slowest."""
    flow.lay(node.outputs[0], np.tile(ids, int(node.attrs["blocksize"]) ** 2))
