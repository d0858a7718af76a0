"""Synthetic images that look like something of every class to the network itself, or on which a detector fires.

Images by formula excite few of a classifier's classes, and what only the others use looks free to remove. So more
images are made than are needed, and the original network names a class for each. Where there are enough images for all
classes, those that are short are bred from the images that come nearest to them (see `breeding`), some generations
long. At last equally many of each class are taken, as far as they go; where classes are more than images and no batch
norm is left, one of each of those that the network is surest of.

Of a detector's pool those are taken on which it is surest that something is there, of each class equally many: the rest
shows it nothing but background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.classifier import class_scores
from onnx_udfc.inputs.detector import detector
from onnx_udfc.inputs.feeds import take
from onnx_udfc.inputs.how_many import image_count, pool_size
from onnx_udfc.inputs.network_inputs import NetworkInputs, batch_of, learn_scaling, make_inputs
from onnx_udfc.inputs.reaction import probabilities
from onnx_udfc.inputs.sizes import input_specs_of, wanted_inputs
from onnx_udfc.inputs.sources import FORMULA
from onnx_udfc.numerics.breeding import children
from onnx_udfc.numerics.products import each
from onnx_udfc.options import Options
from onnx_udfc.runtime.machine import release
from onnx_udfc.runtime.runs import outputs_of, split
from onnx_udfc.runtime.sessions import session_of

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import Channels
    from onnx_udfc.model.network import Network

Index = NDArray[np.int64]
Judge = Callable[[dict[str, NDArray[Any]]], NDArray[Any] | None]

GENERATIONS, CHILDREN = 5, 24  # of each class that is short, in each generation
SPARE = 2  # classes are short below as many times the images that are taken of each
_PARENTS = 8
_BATCH = 16


def balanced_inputs(network: Network, channels: Channels, options: Options) -> NetworkInputs:
    """Inputs as `make_inputs` gives them, chosen from a pool where the network classifies or detects, if affordable.

    Raises:
        RequestError: the data do not fit the network.
    """
    wanted = options.number or image_count(wanted_inputs(network))
    times, runs = pool_size(network, channels, wanted)
    if times < 2 or options.calibrate:
        return make_inputs(network, options)
    learn_scaling(network, options)
    judge, classifies = _judge(network), bool(class_scores(network))
    if judge is None:
        return _as_they_come(network, options) if classifies else make_inputs(network, options)
    pool = make_inputs(network, options.counted(wanted * times))
    scores = judge(pool.values)
    if scores is None:
        return _as_they_come(network, options) if classifies else make_inputs(network, options)
    rng = np.random.default_rng(options.seed)
    values = pool.values
    if classifies and len(values) == 1 and wanted >= scores.shape[1]:
        ((name, images),) = values.items()
        images, scores = _bred(name, images, scores, judge, wanted, runs - len(images), rng)
        values = {name: images}
    surest = _sureness(network, scores, wanted, pool) if classifies else scores.max(1)
    chosen = balanced(scores.argmax(1), wanted, rng, surest)
    release()
    return replace(pool, values=take(input_specs_of(network), values, chosen))


def _as_they_come(network: Network, options: Options) -> NetworkInputs:
    """Inputs of a classifier that gives no usable scores for them."""
    note = "inputs are not balanced over the classes: the network gives no usable scores for them"
    return make_inputs(network, options).noted(note)


def _sureness(network: Network, scores: NDArray[Any], wanted: int, pool: NetworkInputs) -> NDArray[Any] | None:
    """How sure a classifier is of its answers to inputs (n,), where that is what they are chosen by, else None.

    Of photographs foreign to a network of a thousand classes most show it nothing that it knows, and what it says of
    them says little of what it does on pictures of its own. With several inputs of each class, or with batch norm in
    the file, variety counts instead, and formulas are like nothing anyway.
    """
    formulas = all(set(choice.kinds) <= {FORMULA} for choice in pool.choices)
    if wanted >= scores.shape[1] or formulas or network.has_batch_norms:
        return None
    p = probabilities(scores)
    return None if p is None else p.max(1)


def balanced(classes: Index, wanted: int, rng: np.random.Generator, sureness: NDArray[Any] | None = None) -> Index:
    """Positions (wanted,), rising, of samples whose classes (n,) are as equally frequent as they can be.

    Which samples of a class are taken is random, as which classes get one more than others; with `sureness` (n,) those
    of the largest are taken.
    """
    order = rng.permutation(len(classes))
    if sureness is not None:
        order = order[np.argsort(-sureness[order], kind="stable")]
    rank = np.zeros(len(classes), np.int64)
    for name in np.unique(classes):
        of_class = order[classes[order] == name]
        rank[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:wanted]])


def margins(scores: NDArray[Any]) -> NDArray[Any]:
    """How far each class (n, C) is above the best of the others: negative but for the class that is named."""
    second, first = np.sort(scores, axis=1)[:, -2:].T[..., None]
    return np.asarray(scores - np.where(scores == first, second, first))


def _bred(
    name: str,
    images: NDArray[Any],
    scores: NDArray[Any],
    judge: Judge,
    wanted: int,
    runs: int,
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The pool and its scores, with children of the images that come nearest to the classes that are short."""
    if images.ndim != 4 or images.dtype.kind != "f" or images.shape[1] > images.shape[3]:
        return images, scores
    low, high = images.min(), images.max()
    for _ in range(GENERATIONS):
        share = np.bincount(scores.argmax(1), minlength=scores.shape[1])
        short = np.flatnonzero(share < SPARE * wanted / scores.shape[1])
        number = min(CHILDREN, runs // max(1, len(short)))
        if not len(short) or not number:
            break
        nearest = np.argsort(-margins(scores)[:, short], axis=0, kind="stable")[:_PARENTS]
        first = rng.permuted(np.resize(nearest, (number, len(short))), axis=0).ravel()
        other = np.where(
            rng.random(first.size) < 0.5, rng.permutation(first), rng.integers(len(images), size=first.size)
        )
        born = np.clip(children(images[first], images[other], rng), low, high)
        seen = judge({name: born})
        if seen is None:
            break
        images, scores = np.concatenate([images, born]), np.concatenate([scores, seen])
        runs -= len(born)
    return images, scores


def _judge(network: Network) -> Judge | None:
    """What gives the scores (n, C) of a classifier's first output, or how sure a detector is of each class.

    None if the network is neither, or cannot be run. The function gives None if the scores are no finite numbers, or
    not one row for each sample.
    """
    tensor = network.graph.outputs[0]
    specs = input_specs_of(network)
    if not class_scores(network):
        asked = detector(network, wanted_inputs(network)[0])
        return None if asked is None else asked.sureness
    session = session_of(network, spin=True)
    if session is None:  # then the images are taken as they come
        return None

    def scores(values: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
        try:
            feeds = list(split(specs, values, _BATCH))
            runs = each(lambda feed: outputs_of(session, [tensor.name], feed)[0], feeds)
        except ModelError:
            return None
        found = np.concatenate(runs) if runs else np.zeros(0)
        if len(found) != batch_of(network, values) or found.dtype.kind != "f" or not np.isfinite(found).all():
            return None
        return np.asarray(found.reshape(len(found), -1), np.float64)

    return scores
