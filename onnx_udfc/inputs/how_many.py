"""How many inputs are made up where the network says which ones are taken, and how many these are chosen from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx_udfc.inputs.classifier import class_scores
from onnx_udfc.model.counts import count, totals

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import Channels
    from onnx_udfc.model.network import Network

BESIDE_RANKS = 320  # images where layers that may become two are seen at few positions, at most
MOST_TIMES = 8  # as many images in the pool as are needed, at most
POOL_MACS = 120e9  # of all runs over the pool and what is bred from it: a few seconds
POOL_PIXELS = 13e6  # of the pool: a few seconds, too


def can_be_more(network: Network, channels: Channels, number: int) -> bool:
    """Whether so many inputs, more than usual, are still chosen from a pool in which a classifier sees all classes.

    More than a pool can be made for show some classes hardly at all, and that costs more than it gains.
    """
    return bool(class_scores(network)) and pool_size(network, channels, number)[0] >= 2


def pool_size(network: Network, channels: Channels, wanted: int) -> tuple[int, int]:
    """How many times as many images as are wanted a pool may hold, and how many runs of the network are affordable.

    Both are 0 where nothing is known of the cost.
    """
    macs = totals({name: count(layer, channels.shapes.sizes) for name, layer in network.layers.items()}).macs
    shapes = (channels.shapes.sizes.get(tensor.name, ()) for tensor in network.graph.inputs)
    pixels = sum(math.prod(shape[2:]) for shape in shapes)
    runs, most = int(POOL_MACS // macs) if macs else 0, int(POOL_PIXELS // pixels) if pixels else 0
    return min(MOST_TIMES, most // wanted, runs // (2 * wanted)), runs
