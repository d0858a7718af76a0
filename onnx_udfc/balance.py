"""Synthetic images that look like something of every class to the network itself.

Images by formula excite few of a classifier's classes: of 500, a CIFAR-10 network may call half a ship. What only other
classes use then looks free to remove. So more images are made than are needed, the original network names a class for
each, and equally many of each class are taken, as far as they go.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels import Channels
from onnx_udfc.counts import count, totals
from onnx_udfc.feeds import split
from onnx_udfc.graph import Network
from onnx_udfc.inputs import NetworkInputs, batch_of, image_count, input_specs_of, make_inputs
from onnx_udfc.options import Options
from onnx_udfc.sessions import open_session

Index = NDArray[np.int64]

MOST_TIMES = 16  # as many images in the pool as are needed, at most
POOL_MACS = 100e9  # of all runs over the pool: a few seconds
POOL_PIXELS = 13e6  # of all its images: a few seconds, too
_BATCH = 16


def balanced_inputs(network: Network, channels: Channels, options: Options, seed_offset: int = 0) -> NetworkInputs:
    """Inputs as `make_inputs` gives them, chosen from a pool where the network is a classifier and the pool affordable.

    Args:
        network: the original.
        channels: its channels, for the shapes of its tensors.
        options: as for `make_inputs`.
        seed_offset: as for `make_inputs`.

    Raises:
        RequestError: the data do not fit the network.
    """
    wanted = options.images or image_count(input_specs_of(network))
    times = _affordable(network, channels, wanted)
    if options.calibrate or times < 2:
        return make_inputs(network, options, seed_offset)
    pool = make_inputs(network, replace(options, images=wanted * times), seed_offset)
    classes = _classes(network, pool, options.threads)
    if classes is None:
        return make_inputs(network, options, seed_offset)
    chosen = balanced(classes, wanted, options.seed + seed_offset)
    size = len(classes)
    values = {name: v[chosen] if v.ndim and len(v) == size else v for name, v in pool.values.items()}
    return replace(pool, values=values)


def balanced(classes: Index, wanted: int, seed: int) -> Index:
    """Positions (wanted,), rising, of samples whose classes (n,) are as equally frequent as they can be.

    Which samples of a class are taken, and which classes get one more than others, is random.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(classes))
    rank = np.zeros(len(classes), np.int64)
    for name in np.unique(classes):
        of_class = order[classes[order] == name]
        rank[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:wanted]])


def _affordable(network: Network, channels: Channels, wanted: int) -> int:
    """How many times the images wanted the pool may have; 0 where nothing is known of the cost."""
    macs = totals({name: count(layer, channels.shapes.sizes) for name, layer in network.layers.items()}).macs
    pixels = sum(math.prod(s[2:]) for s in (channels.shapes.sizes.get(t.name, ()) for t in network.graph.inputs))
    if not macs or not pixels:
        return 0
    return int(min(MOST_TIMES, POOL_MACS // (macs * wanted), POOL_PIXELS // (pixels * wanted)))


def _classes(network: Network, pool: NetworkInputs, threads: int | None) -> Index | None:
    """The class (n,) that the network's first output gives each sample; None if it is no classifier."""
    tensor = network.graph.outputs[0]
    shape = tuple(tensor.shape or ())
    if len(shape) < 2 or not isinstance(shape[1], int) or shape[1] < 2 or any(d != 1 for d in shape[2:]):
        return None
    try:
        session = open_session(network.to_model(), "cpu", threads)
        runs: list[Any] = [
            session.run([tensor.name], feed)[0] for feed in split(input_specs_of(network), pool.values, _BATCH)
        ]
    except Exception:  # onnxruntime's exceptions share no base class; then the images are taken as they come
        return None
    scores = np.concatenate(runs)
    if len(scores) != batch_of(pool.values) or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        return None
    return np.asarray(scores.reshape(len(scores), -1).argmax(1), np.int64)
