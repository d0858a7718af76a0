"""Channel rules of the operators with weights and of the normalizations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.labels import Flow, Ids, of_second_axis

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer


def weighted(flow: Flow, node: gs.Node) -> None:
    """Data times a constant weight: new channels come out, or in a depthwise layer those that go in.

    Where the weight is not a plain constant nothing is known of the output, and the inputs must stay.
    """
    layer = flow.network.layers.get(node.name)
    if layer is None:
        for tensor in node.inputs:
            flow.bar(flow.get(tensor), node, f"it feeds a {node.op} whose weight is not a plain constant")
        return
    ids, groups = flow.line(node, node.inputs[0], layer.axis), layer.groups
    if groups > 1 and groups == layer.in_channels:
        if ids is not None:
            _depthwise(flow, node, ids, layer)
        return
    out_axis, in_axis = layer.weight_axes
    if ids is not None:
        flow.link(node, 1, "consumer", in_axis, ids, 1 if layer.stuffed else groups)
        if groups > 1:
            flow.balance(ids, groups, node)
    out = flow.fresh(node, 0, layer.out_channels)
    flow.link(node, 1, "producer", out_axis, out, groups if layer.stuffed else 1)
    _bias(flow, node, "producer", out)
    if groups > 1:
        flow.balance(out, groups, node)
    flow.lay(node.outputs[0], out, layer.axis)


def _depthwise(flow: Flow, node: gs.Node, ids: Ids, layer: Layer) -> None:
    out = np.repeat(ids, layer.out_channels // layer.in_channels)
    flow.link(node, 1, "link", 0, ids if layer.stuffed else out)
    _bias(flow, node, "link", out)
    flow.edit_attribute(node, "group", len(ids))
    flow.lay(node.outputs[0], out)


def _bias(flow: Flow, node: gs.Node, role: str, ids: Ids) -> None:
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        flow.link(node, 2, role, 0, ids)


@of_second_axis
def channel_norm(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """BatchNormalization and InstanceNormalization: all further inputs have a value for every channel."""
    if any(not isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]):
        flow.bar(ids, node, f"it feeds a {node.op} whose parameters are computed")
    else:
        for i in range(1, len(node.inputs)):
            flow.link(node, i, "link", 0, ids)
    flow.lay(node.outputs[0], ids)


@of_second_axis
def group_norm(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Every group is normalized as a whole, so whole groups stay or go."""
    blocks, channels = int(node.attrs["num_groups"]), flow.original_length(node.inputs[0], 1)
    if any(not isinstance(t, gs.Constant) for t in node.inputs[1:3]) or node.inputs[1].shape[0] != channels:
        flow.bar(ids, node, "it feeds a GroupNormalization without one scale and shift per channel")
    else:
        rows = whole_blocks(flow, node, ids, blocks)
        flow.edit_attribute(node, "num_groups", rows)
        for i in (1, 2):
            flow.link(node, i, "link", 0, ids)
    flow.lay(node.outputs[0], ids)


def whole_blocks(flow: Flow, node: gs.Node, ids: Ids, blocks: int) -> int:
    """Unite the ids of every block of the original channels; returns the number of blocks at hand."""
    length = flow.original_length(node.inputs[0], 1) // blocks
    rows = ids.reshape(-1, length)
    if length > 1:
        flow.unite(rows[:, 1:], rows[:, :1], node)
    return len(rows)


@of_second_axis
def local_response_norm(flow: Flow, node: gs.Node, ids: Ids) -> None:
    """Channels pass, but each is scaled by its neighbours: an approximation, which the report mentions."""
    flow.approximates(node, "local response normalization: its window over channels sees fewer of them")
    flow.lay(node.outputs[0], ids)
