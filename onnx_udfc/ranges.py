"""Ranges of activations, taken as their values come by on a walk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx_udfc.activations import ActivationParams, search_range
from onnx_udfc.graph import Network
from onnx_udfc.placement import Placement
from onnx_udfc.walk import Value, Walk


def watchers(placement: Placement, grids: dict[str, ActivationParams]) -> dict[str, Callable[[Value], Value]]:
    """For each quantized tensor what takes its range into `grids` and passes on what the quantized network will see."""
    return {tensor: _watcher(placement, tensor, grids) for tensor in placement.sites}


def _watcher(placement: Placement, tensor: str, grids: dict[str, ActivationParams]) -> Callable[[Value], Value]:
    source = placement.tied.get(tensor, tensor)

    def watch(value: Value) -> Value:
        if source not in grids:
            grids[source] = search_range(value, placement.dtype, placement.caps.get(source))
        return grids[source].simulate(value).astype(value.dtype)

    return watch


def measure_ranges(
    network: Network, placement: Placement, inputs: Mapping[str, Value], threads: int
) -> dict[str, ActivationParams]:
    """Grids of a placement's tensors by one pass over a network whose weights are final.

    Args:
        network: with the weights that the written codes stand for.
        placement: where activations are quantized.
        inputs: graph input name → values.
        threads: threads of onnxruntime, 0 for all.
    """
    grids: dict[str, ActivationParams] = {}
    walk = Walk(network.to_model(), inputs, [], threads, watchers(placement, grids))
    for tensor in placement.sites:
        if placement.grid_of(tensor) not in grids:
            walk.get(tensor)
    return grids
