"""Channel rules of the operators with weights and of the normalizations."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.labels import Flow, Ids, along


def conv(flow: Flow, node: gs.Node) -> None:
    """Input channels along axis 1; the output channels are new, or follow the input's in a depthwise convolution."""
    _convolution(flow, node, transposed=False)


def conv_transpose(flow: Flow, node: gs.Node) -> None:
    """As a convolution, with weight (in, out / groups, ...)."""
    _convolution(flow, node, transposed=True)


def _convolution(flow: Flow, node: gs.Node, transposed: bool) -> None:
    if node.name not in flow.network.layers:
        opaque_layer(flow, node)
        return
    layer = flow.network.layers[node.name]
    ids = flow.line(node, node.inputs[0], 1)
    size, groups = flow.known(node.outputs[0]), layer.groups
    if groups > 1 and groups == layer.in_channels:
        _depthwise(flow, node, ids, transposed)
        return
    in_axis, out_axis = (0, 1) if transposed else (1, 0)
    if ids is not None:
        flow.link(node, 1, "consumer", in_axis, ids, 1 if transposed else groups)
        if groups > 1:
            flow.balance(ids, groups, node)
    out = flow.fresh(node, 0, layer.out_channels)
    flow.link(node, 1, "producer", out_axis, out, groups if transposed else 1)
    _bias(flow, node, 2, "producer", out)
    if groups > 1:
        flow.balance(out, groups, node)
    flow.put(node.outputs[0], along(out, 1, len(size)))


def _depthwise(flow: Flow, node: gs.Node, ids: Ids | None, transposed: bool) -> None:
    layer = flow.network.layers[node.name]
    if ids is None:
        return
    multiplier = layer.out_channels // layer.in_channels
    out = np.repeat(ids, multiplier)
    flow.link(node, 1, "link", 0, ids if transposed else out)
    _bias(flow, node, 2, "link", out)
    flow.edit_attribute(node, "group", len(ids))
    flow.put(node.outputs[0], along(out, 1, len(flow.known(node.outputs[0]))))


def _bias(flow: Flow, node: gs.Node, index: int, role: str, ids: Ids) -> None:
    if index < len(node.inputs) and not node.inputs[index].is_empty():
        flow.link(node, index, role, 0, ids)


def opaque_layer(flow: Flow, node: gs.Node) -> None:
    """A layer whose weight is not a plain constant: nothing is known of its output, its inputs must stay."""
    for tensor in node.inputs:
        flow.bar(flow.get(tensor), node, f"it feeds a {node.op} whose weight is not a plain constant")


def product(flow: Flow, node: gs.Node) -> None:
    """Data times a constant matrix: input channels along the last axis, new ones out. Anything else is a barrier."""
    if node.name not in flow.network.layers:
        opaque_layer(flow, node)
        return
    layer = flow.network.layers[node.name]
    out_axis, in_axis = layer.weight_axes
    ids = flow.line(node, node.inputs[0], -1)
    if ids is not None:
        flow.link(node, 1, "consumer", in_axis, ids)
    out = flow.fresh(node, 0, layer.out_channels)
    flow.link(node, 1, "producer", out_axis, out)
    _bias(flow, node, 2, "producer", out)
    flow.put(node.outputs[0], along(out, -1, len(flow.known(node.outputs[0]))))


def batch_norm(flow: Flow, node: gs.Node) -> None:
    """Scale, shift, mean and variance of every channel (axis 1)."""
    _per_channel_parameters(flow, node, range(1, 5))


def instance_norm(flow: Flow, node: gs.Node) -> None:
    """Scale and shift of every channel (axis 1)."""
    _per_channel_parameters(flow, node, range(1, 3))


def _per_channel_parameters(flow: Flow, node: gs.Node, indices: range) -> None:
    ids = flow.line(node, node.inputs[0], 1)
    if ids is None:
        return
    if any(not isinstance(node.inputs[i], gs.Constant) for i in indices):
        flow.bar(ids, node, f"it feeds a {node.op} whose parameters are computed")
    else:
        for i in indices:
            flow.link(node, i, "link", 0, ids)
    flow.put(node.outputs[0], along(ids, 1, len(flow.known(node.outputs[0]))))


def group_norm(flow: Flow, node: gs.Node) -> None:
    """Every group is normalized as a whole, so whole groups stay or go."""
    ids = flow.line(node, node.inputs[0], 1)
    if ids is None:
        return
    blocks, channels = int(node.attrs["num_groups"]), flow.original_length(node.inputs[0], 1)
    if any(not isinstance(t, gs.Constant) for t in node.inputs[1:3]) or node.inputs[1].shape[0] != channels:
        flow.bar(ids, node, "it feeds a GroupNormalization without one scale and shift per channel")
    else:
        rows = whole_blocks(flow, node, ids, blocks)
        flow.edit_attribute(node, "num_groups", rows)
        for i in (1, 2):
            flow.link(node, i, "link", 0, ids)
    flow.put(node.outputs[0], along(ids, 1, len(flow.known(node.outputs[0]))))


def whole_blocks(flow: Flow, node: gs.Node, ids: Ids, blocks: int) -> int:
    """Unite the ids of every block of the original channels; returns the number of blocks at hand."""
    length = flow.original_length(node.inputs[0], 1) // blocks
    rows = ids.reshape(-1, length)
    if length > 1:
        flow.unite(rows[:, 1:], rows[:, :1], node)
    return len(rows)


def layer_norm(flow: Flow, node: gs.Node) -> None:
    """Everything from `axis` on is normalized together."""
    ids = flow.get(node.inputs[0])
    if ids is None:
        return
    first = int(node.attrs.get("axis", -1)) % ids.ndim
    if any(axis >= first for axis in flow.axes(node.inputs[0])):
        flow.bar(ids, node, "its channels are normalized together by a LayerNormalization")
    flow.put(node.outputs[0], ids)


def local_response_norm(flow: Flow, node: gs.Node) -> None:
    """Channels pass, but each is scaled by its neighbours: an approximation, which the report mentions."""
    ids = flow.line(node, node.inputs[0], 1)
    if ids is not None:
        flow.approximates(node, "local response normalization: its window over channels sees fewer of them")
        flow.put(node.outputs[0], along(ids, 1, len(flow.known(node.outputs[0]))))
