"""First layers that take longer as integers than in float.

A layer that reads an input of the network as integers has that input quantized for it and laid out channels last; in
float, the same is done to what it writes. With m its multiply-accumulates, of which integers save half of the time, it
stays in float where

    PAIR · (values read - values written) > m.

Stems of few channels are of that kind: 3x3 from three channels to eight takes twice as long in integers.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.emit.placement import PAIR
from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.counts import count

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network


def slow_first(network: Network, target: str) -> tuple[str, ...]:
    """Names of the layers that alone read an input of the network and are quicker in float on the target.

    Args:
        network: as it will be written.
        target: key of TARGETS.
    """
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
