"""Makes channels dead, so that pruning them must not change what a network computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_udfc.channels.groups import ChannelGroup, Channels, Slot, find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.model.network import Network, read

Keep = Mapping[str, NDArray[np.int64]]


def largest(network: Network, group: ChannelGroup, ratio: float) -> NDArray[np.int64]:
    """The channels with the largest weights, as many in every cell; a fraction `ratio` of them goes."""
    score = np.zeros(group.channels)
    for name in group.producers:
        layer = network.layers[name]
        rows = layer.matrix()
        norms = np.einsum("goi,goi->go", rows, rows).ravel()
        score += norms[group.outputs(name)].sum(1)
    cells = int(group.cells.max()) + 1
    per_cell = (group.channels - round(group.channels * ratio)) // cells
    per_cell = max(1, min(per_cell, int(np.bincount(group.cells).min())))
    inside = [np.flatnonzero(group.cells == cell) for cell in range(cells)]
    return np.sort(np.concatenate([i[np.argsort(-score[i], kind="stable")[:per_cell]] for i in inside]))


def kill(network: Network, channels: Channels, keep: Keep) -> Network:
    """A copy in which no consumer reads a channel that is not kept."""
    copy = network.copy()
    nodes = {node.name: node for node in copy.graph.nodes}
    for name, kept in keep.items():
        group = channels[name]
        gone = np.setdiff1d(np.arange(group.channels), kept)
        for slot in group.slots:
            if slot.role == "consumer":
                tensor = nodes[slot.node].inputs[1]
                tensor.values = _without(tensor.values, slot, slot.members[gone].ravel())
    return copy


def _without(values: NDArray[np.floating], slot: Slot, gone: NDArray[np.int64]) -> NDArray[np.floating]:
    """The weight with zeros for some input channels."""
    values = values.copy()
    if slot.groups == 1:
        values[(slice(None),) * slot.axis + (gone,)] = 0
    else:
        share = values.shape[slot.axis]
        blocks = np.split(values, slot.groups, 0)
        for channel in gone:
            blocks[channel // share][:, channel % share] = 0
        values = np.concatenate(blocks)
    return values


def outputs(model: onnx.ModelProto, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float64]]:
    """What a model with float outputs computes, without onnxruntime's rewriting of the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value, np.float64) for value in session.run(None, dict(feeds))]


def random_feeds(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.floating]]:
    """Random values for every input of a model."""
    rng = np.random.default_rng(0)
    return {
        i.name: rng.random(sizes[i.name]).astype(onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
        for i in model.graph.input
    }


def assert_dead_channels_go_exactly(model: onnx.ModelProto, ratio: float) -> None:
    """Without the channels that nothing reads, and with them, a network gives the same."""
    network = read(model)
    channels = find_groups(network)
    keep = {group.name: largest(network, group, ratio) for group in channels.groups}
    dead = kill(network, channels, keep)
    before = dead.to_model()
    feeds = random_feeds(before, channels.shapes.sizes)
    after = prune(dead, channels, keep).network.to_model()
    for expected, found in zip(outputs(before, feeds), outputs(after, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(initial=0))
