"""Gradients of convolutions, pools, and of whatever takes values to other places, as nodes of a graph.

What only picks values (a slice, a gather, a maximum over windows) is run on the numbers of the places once more, and
the gradients are added up at the places that these came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto

from onnx_udfc.model.protos import attribute
from onnx_udfc.runtime.slopes import Given, Rule, Slopes
from onnx_udfc.runtime.tape import Tape


def _pads(tape: Tape, node: onnx.NodeProto, kernel: Sequence[int]) -> list[int] | None:
    """Pads before and after each axis of a convolution or pool; None if nobody knows."""
    axes = len(kernel)
    kind = attribute(node, "auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        return attribute(node, "pads") or [0] * (2 * axes)
    source, target = tape.sizes.get(node.input[0]), tape.sizes.get(node.output[0])
    if source is None or target is None:
        return None
    strides, dilations = attribute(node, "strides") or [1] * axes, attribute(node, "dilations") or [1] * axes
    whole = [
        max((n - 1) * s + (k - 1) * d + 1 - m, 0)
        for n, m, s, k, d in zip(target[2:], source[2:], strides, kernel, dilations, strict=True)
    ]
    less, more = [w // 2 for w in whole], [w - w // 2 for w in whole]
    return [*less, *more] if kind == "SAME_UPPER" else [*more, *less]


def _spread(tape: Tape, given: str, weight: str, node: onnx.NodeProto, kernel: Sequence[int], group: int) -> str | None:
    """What a convolution adds up, back to where it came from, in the shape of the node's input."""
    axes, pads = len(kernel), _pads(tape, node, kernel)
    if pads is None:
        return None
    strides, dilations = attribute(node, "strides") or [1] * axes, attribute(node, "dilations") or [1] * axes
    whole = tape.op(
        "ConvTranspose", given, weight, group=group, kernel_shape=list(kernel), strides=strides, dilations=dilations,
        output_padding=[s - 1 for s in strides],
    )  # fmt: skip
    # So it reaches to the end of the padded input and beyond; what lies in its pads, and beyond, is cut off.
    starts, spatial = tape.integers(pads[:axes]), tape.op("Shape", node.input[0], start=2)
    return tape.op("Slice", whole, starts, tape.op("Add", starts, spatial), tape.integers(range(2, 2 + axes)))


def _convolution(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    size, group = tape.sizes.get(node.input[1]), attribute(node, "group", 1)
    if size is None or node.input[1] not in tape.constants:
        return None
    kernel = size[2:]
    plain = all(v == 1 for name in ("strides", "dilations") for v in attribute(node, name) or ())
    pads = _pads(tape, node, kernel)
    if plain and pads is not None and all(0 <= p < k for p, k in zip(pads, [*kernel, *kernel], strict=True)):
        turned = _mirrored(tape, node.input[1], size, group)
        around = [k - 1 - p for p, k in zip(pads, [*kernel, *kernel], strict=True)]
        return {0: tape.op("Conv", str(given[0]), turned, group=group, kernel_shape=list(kernel), pads=around)}
    found = _spread(tape, str(given[0]), node.input[1], node, kernel, group)
    return None if found is None else {0: found}


def _mirrored(tape: Tape, weight: str, size: Sequence[int], group: int) -> str:
    """The weight (I, O / groups, k…) of the convolution that leads back, each kernel turned around."""
    out, into, kernel = size[0] // group, size[1], list(size[2:])
    axes = list(range(3, 3 + len(kernel)))
    apart = tape.op("Reshape", weight, tape.integers([group, out, into, *kernel]))
    swapped = tape.op("Transpose", apart, perm=[0, 2, 1, *axes])
    ends = [tape.integers([v] * len(axes)) for v in (-1, -(2**31))]
    turned = tape.op("Slice", swapped, *ends, tape.integers(axes), tape.integers([-1] * len(axes)))
    return tape.op("Reshape", turned, tape.integers([group * into, out, *kernel]))


def _transposed_convolution(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    size = tape.sizes.get(node.input[1])
    known = attribute(node, "auto_pad", "NOTSET") == "NOTSET" and attribute(node, "output_shape") is None
    if size is None or node.input[1] not in tape.constants or not known:
        return None
    kept = [a for a in node.attribute if a.name in ("strides", "dilations", "pads", "group")]
    values = {a.name: onnx.helper.get_attribute_value(a) for a in kept}
    return {0: tape.op("Conv", str(given[0]), node.input[1], kernel_shape=list(size[2:]), **values)}


def _average(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Windows over the edge are divided by their whole size, whatever the node counts there."""
    kernel, channels = attribute(node, "kernel_shape"), (tape.sizes.get(node.input[0]) or (0, 0))[1]
    if kernel is None or not channels or attribute(node, "ceil_mode", 0):
        return None
    weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
    found = _spread(tape, str(given[0]), tape.constant(weight), node, kernel, channels)
    return None if found is None else {0: found}


def _maximum(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Each maximum comes from one place, which the pool itself tells."""
    if attribute(node, "storage_order", 0):
        return None
    if len(node.output) < 2:
        node.output.append("")
    node.output[1] = node.output[1] or tape.fresh()
    return {0: _added(tape, str(given[0]), node.output[1], node.input[0])}


def _global_maximum(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    there = tape.op("Equal", node.input[0], node.output[0])
    return {0: tape.op("Mul", str(given[0]), tape.op("Cast", there, to=TensorProto.FLOAT))}


def _added(tape: Tape, given: str, places: str, tensor: str) -> str:
    """Gradients added up at numbered places of a tensor."""
    flat = tape.integers([-1])
    zeros = tape.op("Reshape", tape.zeros(tensor), flat)
    at, values = tape.op("Reshape", places, flat), tape.op("Reshape", given, flat)
    return tape.reshaped(tape.op("ScatterElements", zeros, at, values, axis=0, reduction="add"), tensor)


def _numbers(tape: Tape, tensor: str) -> str:
    """The number of each place of a tensor, in its shape."""
    many = tape.op("Size", tensor)
    zero, one = (tape.constant(np.array(v, np.int64)) for v in (0, 1))
    return tape.reshaped(tape.op("Range", zero, many, one), tensor)


def _picked(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """A node that picks values of its first input by the others."""
    again = onnx.NodeProto()
    again.CopyFrom(node)
    again.name, again.input[0] = "", _numbers(tape, node.input[0])
    places = [tape.fresh() for _ in node.output]
    again.output[:] = places
    tape.model.graph.node.append(again)
    parts = [_added(tape, d, at, node.input[0]) for d, at in zip(given, places, strict=True) if d is not None]
    total = parts[0]
    for part in parts[1:]:
        total = tape.op("Add", total, part)
    return {0: total}


def _reshaped(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    return {0: tape.reshaped(str(given[0]), node.input[0])}


def _turned(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    rank = tape.rank(node.input[0])
    order = attribute(node, "perm") or list(range(rank))[::-1]
    return {0: tape.op("Transpose", str(given[0]), perm=[order.index(i) for i in range(len(order))])}


def _side_by_side(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Concat."""
    if any(name not in tape.sizes for name in node.input):
        return None
    axis = attribute(node, "axis", 0)
    ends = np.cumsum([0, *(tape.sizes[name][axis] for name in node.input)]).tolist()
    found: dict[int, str] = {}
    for number, (start, end) in enumerate(pairwise(ends)):
        if node.input[number] not in tape.constants:
            bounds = [tape.integers([v]) for v in (start, end, axis)]
            found[number] = tape.op("Slice", str(given[0]), *bounds)
    return found


def _padded(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Pad with a constant; what is cut off by negative pads has no gradient."""
    rank = tape.rank(node.input[0])
    if attribute(node, "mode", "constant") != "constant" or rank < 1 or (len(node.input) > 3 and node.input[3]):
        return None
    return {0: tape.op("Pad", str(given[0]), tape.op("Neg", node.input[1]))}


def _mean(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """A mean over axes: each place has the same part."""
    many, few = (tape.op("Cast", tape.op("Size", t), to=TensorProto.FLOAT) for t in (node.input[0], node.output[0]))
    summed = _total(tape, node, given)
    return None if summed is None else {0: tape.op("Mul", summed[0], tape.op("Div", few, many))}


def _total(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """A sum over axes."""
    rank, kept = tape.rank(node.input[0]), attribute(node, "keepdims", 1)
    if rank < 0:
        return None
    value, axes = str(given[0]), node.input[1] if len(node.input) > 1 else ""
    if not kept and node.op_type in ("ReduceMean", "ReduceSum"):
        old = attribute(node, "axes")
        over = axes or tape.integers(old if old is not None else range(rank))
        value = tape.op("Unsqueeze", value, over)
    return {0: tape.op("Expand", value, tape.op("Shape", node.input[0]))}


def _resized(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Larger by whole numbers: the sum over what a value became; of linear interpolation nearly so."""
    source, target = tape.sizes.get(node.input[0]), tape.sizes.get(node.output[0])
    if source is None or target is None or any(t % s for s, t in zip(source, target, strict=True)):
        return None
    scale = [t // s for s, t in zip(source, target, strict=True)]
    if scale[:2] != [1, 1] or len(scale) < 3:
        return None
    mean = tape.op("AveragePool", str(given[0]), kernel_shape=scale[2:], strides=scale[2:])
    return {0: tape.op("Mul", mean, tape.number(float(np.prod(scale))))}


def _to_depth(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    if attribute(node, "mode", "DCR") != "DCR":
        return None
    return {0: tape.op("SpaceToDepth", str(given[0]), blocksize=attribute(node, "blocksize", 1))}


def _to_space(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    return {0: tape.op("DepthToSpace", str(given[0]), blocksize=attribute(node, "blocksize", 1))}


BY_PLACE: dict[str, Rule] = {
    "Conv": _convolution, "ConvTranspose": _transposed_convolution, "AveragePool": _average, "MaxPool": _maximum,
    "GlobalMaxPool": _global_maximum, "GlobalAveragePool": _mean, "ReduceMean": _mean, "ReduceSum": _total,
    "Slice": _picked, "Gather": _picked, "Split": _picked, "Expand": _picked, "Tile": _picked,
    "Flatten": _reshaped, "Reshape": _reshaped, "Squeeze": _reshaped, "Unsqueeze": _reshaped, "Transpose": _turned,
    "Concat": _side_by_side, "Pad": _padded, "Resize": _resized, "DepthToSpace": _to_depth,
    "SpaceToDepth": _to_space,
}  # fmt: skip
