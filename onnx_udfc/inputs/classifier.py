"""A classifier that is asked: the probabilities of its classes, before anything else is known of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.reaction import MOST_CLASSES, probabilities
from onnx_udfc.runtime.runs import InputSpec, cut, outputs_of
from onnx_udfc.runtime.sessions import session_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]
Ask = Callable[[NDArray[Any]], Double]
_BATCH = 4


def class_scores(network: Network) -> tuple[Any, ...]:
    """Shape (n, C, ...) of the network's first output if that can be the scores of classes, else ()."""
    shape = tuple(network.graph.outputs[0].shape or ())
    if len(shape) < 2 or not isinstance(shape[1], int) or any(d != 1 for d in shape[2:]):
        return ()
    return shape if 1 < shape[1] <= MOST_CLASSES else ()


def asked(network: Network, spec: InputSpec) -> Ask | None:
    """What gives the classes' probabilities (n, C) for inputs (n, ...).

    None where the network has several inputs or outputs, or an output of whole numbers, or cannot be loaded. The
    function gives an empty array (0, 0) where the output is no row of classes for each input, or not finite.
    """
    outputs = network.graph.outputs
    if len(outputs) != 1 or len(network.graph.inputs) != 1 or np.dtype(outputs[0].dtype or "O").kind != "f":
        return None
    session = session_of(network)
    if session is None:
        return None

    def ask(x: NDArray[Any]) -> Double:
        feeds = cut((spec,), {spec.name: x.astype(spec.dtype)}, _BATCH).feeds
        try:
            runs = [outputs_of(session, [outputs[0].name], feed)[0] for feed in feeds]
        except ModelError:
            return np.zeros((0, 0))
        if any(run.ndim < 2 or run.shape[1:] != runs[0].shape[1:] for run in runs):
            return np.zeros((0, 0))
        scores = np.concatenate(runs)[: len(x)].astype(np.float64)
        rows = len(scores) == len(x) and scores.shape[1] > 1 and scores[0].size == scores.shape[1]
        found = probabilities(scores) if rows and np.isfinite(scores).all() else None
        return np.zeros((0, 0)) if found is None else found

    return ask
