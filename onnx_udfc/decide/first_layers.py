"""First layers that take longer as integers than in float.

A layer that reads an input of the network as integers has that input quantized for it and laid out channels last; in
float, the same is done to what it writes. With m its multiply-accumulates, of which integers save half of the time, it
stays in float where

    PAIR · (values read - values written) > m.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.emit.placement import PAIR
from onnx_udfc.emit.targets import TARGETS, activation_tensors
from onnx_udfc.model.counts import count
from onnx_udfc.model.loudness import before_logarithm

if TYPE_CHECKING:
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.model.network import Network


def slow_first(network: Network, target: str) -> tuple[str, ...]:
    """Names of the layers that alone read an input of the network and are quicker in float on the target."""
    inputs = {t.name for t in network.graph.inputs if len(t.outputs) == 1}
    first = [layer for layer in network.layers.values() if layer.convolves and layer.node.inputs[0].name in inputs]
    if not first or not TARGETS[target].timed:
        return ()
    sizes = resolve(network, network.sizes).sizes
    found = []
    for layer in first:
        ends = [sizes.get(t.name) for t in (layer.node.inputs[0], layer.node.outputs[0])]
        read, written = (0 if size is None else prod(size) for size in ends)
        work = count(layer, sizes).macs
        if work and PAIR * (read - written) > work:
            found.append(layer.name)
    return tuple(found)


def suited(network: Network, quantized: Collection[str], slow: Sequence[str]) -> list[str]:
    """The layers that may run as integers: not those for which eight bits are too few, nor those that are slow then."""
    without = {*before_logarithm(network), *slow}
    return [name for name in quantized if name not in without]


def integer_placement(network: Network, quantized: Collection[str], target: str) -> Placement:
    """Where activations are quantized.

    `quantized` are names of the layers whose weights are; the target has integer kernels.

    Raises:
        RequestError: as `activation_tensors`.
    """
    slow = slow_first(network, target)
    placement = activation_tensors(network, suited(network, quantized, slow), target)
    return replace(placement, slow_first=tuple(name for name in slow if name in quantized))
