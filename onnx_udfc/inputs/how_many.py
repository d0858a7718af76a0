"""How many inputs are made up to be fitted and judged on, and how many the former are chosen from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.inputs.choice import affordable
from onnx_udfc.inputs.classifier import class_scores
from onnx_udfc.model.counts import work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_udfc.channels.groups import Channels
    from onnx_udfc.inputs.kinds import Wanted
    from onnx_udfc.model.network import Network

PIXELS = 1_600_000  # of all made-up images together: 160 of 32 x 32 (the most), 32 of 224 x 224
MOST, LEAST = 160, 4
MOST_WITHOUT = 640  # small inputs (36 ms of sound, for one) of a network without classes, at most
RUN_MACS = 60e9  # of a run over them: a second or two
BESIDE_RANKS = 320  # images where layers that may become two are seen at few positions, at most
MOST_TIMES = 8  # as many images in the pool as are needed, at most
POOL_MACS = 120e9  # of all runs over the pool and what is bred from it: a few seconds
POOL_PIXELS = 13e6  # of the pool: a few seconds, too
OTHER_IMAGES = 1000  # added to the seed: nothing is judged on the inputs that the repair has seen
MOST_JUDGED, FEWEST_JUDGED = 96, 16  # inputs
MORE_JUDGED = 2  # times as many as are fitted on: a judgement costs little and is counted in answers
PROBES = 2  # times those that may be run to find out what a network expects, at most


def image_count(wanted: Sequence[Wanted], most: int = MOST) -> int:
    """As many samples as `PIXELS` allows, between LEAST and the most."""
    pixels = [_pixels(w) for w in wanted if w.kind in ("picture", "bytes")]
    pixels += [int(np.prod(w.sample)) for w in wanted if w.kind == "signal"]
    return int(np.clip(PIXELS // max([1, *pixels]), LEAST, most))


def judged_count(network: Network, wanted: Sequence[Wanted]) -> int:
    """How many inputs a result is judged on, where nobody says so: as many as are no great work."""
    usual = min(MORE_JUDGED * image_count(wanted), MOST_JUDGED)
    return max(min(usual, FEWEST_JUDGED), min(usual, PROBES * affordable(network)))


def _pixels(wanted: Wanted) -> int:
    """Of a picture; of steps by columns, whichever comes first, the steps."""
    return int(np.prod(wanted.size)) if len(wanted.shape) != 3 or wanted.flat else max(wanted.sample)


def without_classes(network: Network, channels: Channels, wanted: Sequence[Wanted], most: int) -> int:
    """How many inputs are made up for a network that has no classes to be balanced over, at the most so many.

    As usual for what is large, or takes long to run.
    """
    usual, macs = image_count(wanted), _macs(network, channels)
    if most <= usual or not macs or class_scores(network):
        return usual
    return max(usual, min(most, image_count(wanted, MOST_WITHOUT), int(RUN_MACS // macs)))


def can_be_more(network: Network, channels: Channels, number: int) -> bool:
    """Whether so many inputs, more than usual, are still chosen from a pool in which a classifier sees all classes.

    More than a pool can be made for show some classes hardly at all, and that costs more than it gains.
    """
    return bool(class_scores(network)) and pool_size(network, channels, number)[0] >= 2


def pool_size(network: Network, channels: Channels, wanted: int) -> tuple[int, int]:
    """How many times as many images as are wanted a pool may hold, and how many runs of the network are affordable.

    Both are 0 where nothing is known of the cost.
    """
    macs = _macs(network, channels)
    shapes = (channels.shapes.sizes.get(tensor.name, ()) for tensor in network.graph.inputs)
    pixels = sum(math.prod(shape[2:]) for shape in shapes)
    runs, most = int(POOL_MACS // macs) if macs else 0, int(POOL_PIXELS // pixels) if pixels else 0
    return min(MOST_TIMES, most // wanted, runs // (2 * wanted)), runs


def _macs(network: Network, channels: Channels) -> int:
    """Multiply-accumulates of a run on one input."""
    return work(network, channels.shapes.sizes)
