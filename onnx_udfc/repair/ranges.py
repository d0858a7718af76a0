"""Ranges of activations, taken as their values come by on a walk.

Ranges are clipped by least squares. Images by formula cause thinner tails deep in a network than photographs do (in
MobileNetV2's last blocks the largest value is a tenth), so what they give is widened by HEADROOM, as far as they reach
themselves. Behind the last layer clipping costs most, for classes that are clipped all tie: there the whole range is
taken, MARGIN times as wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx_udfc.emit.placement import Placement
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range, whole_range
from onnx_udfc.runtime.pieces import Pieces
from onnx_udfc.runtime.walk import Value, Walk

HEADROOM = 1.25
MARGIN = 1.5  # of the logits that synthetic images cause: photographs are classified with more confidence


def watchers(
    network: Network, placement: Placement, grids: dict[str, ActivationParams], *, real: bool
) -> dict[str, Callable[[Value], Value]]:
    """For each quantized tensor what takes its range into `grids` and passes on what the quantized network will see."""
    last = set() if real else last_tensors(network, placement)
    headroom = 1.0 if real else HEADROOM

    def grid(tensor: str, value: Value) -> ActivationParams:
        cap = placement.caps.get(tensor)
        if tensor in last:
            return whole_range(value, placement.dtype, cap, MARGIN)
        return search_range(value, placement.dtype, cap, headroom)

    return {tensor: _watcher(placement.tied.get(tensor, tensor), grids, grid) for tensor in placement.sites}


def _watcher(
    source: str, grids: dict[str, ActivationParams], grid: Callable[[str, Value], ActivationParams]
) -> Callable[[Value], Value]:
    def watch(value: Value) -> Value:
        if source not in grids:
            grids[source] = grid(source, value)
        return grids[source].seen(value)

    return watch


def last_tensors(network: Network, placement: Placement) -> set[str]:
    """Quantized tensors behind which no integer layer comes: logits, maps, boxes."""
    read: set[str] = set()
    for node in reversed(network.graph.nodes):
        if node.name in placement.integer or any(t.name in read for t in node.outputs):
            read.update(t.name for t in node.inputs)
    return {tensor for tensor in placement.sites if tensor not in read}


def measure_ranges(
    network: Network, placement: Placement, inputs: Mapping[str, Value], *, real: bool, pieces: Pieces | None = None
) -> dict[str, ActivationParams]:
    """Grids of a placement's tensors by one pass over a network whose weights are final.

    Args:
        network: with the weights that the written codes stand for.
        placement: where activations are quantized.
        inputs: graph input name → values.
        real: whether the inputs are real ones, whose tails can be relied on.
        pieces: open sessions, on the provider that runs the network.
    """
    grids: dict[str, ActivationParams] = {}
    walk = Walk(network.to_model(), inputs, [], watchers(network, placement, grids, real=real), pieces)
    for tensor in placement.sites:
        if placement.grid_of(tensor) not in grids:
            walk.get(tensor)
    return grids
