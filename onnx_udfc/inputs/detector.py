"""A detector that is asked: how sure it is of each class in pictures, before anything else is known of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.kinds import Scale, Wanted, to_network
from onnx_udfc.numerics.detectors import Reader, find_reader
from onnx_udfc.numerics.images import synthetic_images
from onnx_udfc.runtime.runs import InputSpec, asked_at_once, cut, outputs_of
from onnx_udfc.runtime.sessions import open_session, packed

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]
_BATCH = 4
_MOST_OUTPUTS = 16
BEST = 3  # candidates of a class whose scores are averaged: a single one that fires may be chance


class Detector:
    """A network whose outputs may be boxes with scores.

    Raises:
        ModelError: onnxruntime cannot load it.
    """

    def __init__(self, network: Network, specs: Sequence[InputSpec]) -> None:
        self._specs, self._names = tuple(specs), [tensor.name for tensor in network.graph.outputs]
        self._session = open_session(packed(network.to_model()), threads=1, spin=False)
        self._reader: Reader | None = None

    def sureness(self, values: Mapping[str, NDArray[Any]]) -> Double | None:
        """How sure it is of each class (n, C) in each of its inputs, 0 to 1; None where it gives no detections."""
        runs = cut(self._specs, values, asked_at_once(self._specs, values, _BATCH))
        parts = [self._of_run(feed) for feed in runs.feeds]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or len({part.shape[1] for part in found}) != 1:
            return None
        rows = np.concatenate(found)[: runs.samples]
        return rows if len(rows) == runs.samples and rows.shape[1] and np.isfinite(rows).all() else None

    def _of_run(self, feed: Mapping[str, NDArray[Any]]) -> Double | None:
        try:
            given = outputs_of(self._session, self._names, feed)
        except ModelError:
            return None
        outputs = {name: np.asarray(value) for name, value in zip(self._names, given, strict=True)}
        self._reader = self._reader or find_reader(outputs)
        if self._reader is None:
            return None
        scores = self._reader.candidates(outputs).scores
        best = min(BEST, scores.shape[1])
        return np.asarray(np.sort(scores, axis=1)[:, scores.shape[1] - best :].mean(1)) if best else None


def detector(network: Network, wanted: Wanted) -> Detector | None:
    """The network, if it has this one input, of pictures, and gives boxes with scores for them; else None."""
    if len(network.graph.inputs) != 1 or wanted.kind != "picture" or len(network.graph.outputs) > _MOST_OUTPUTS:
        return None
    try:
        found = Detector(network, (wanted.spec,))
    except ModelError:  # an operator that onnxruntime lacks
        return None
    x = to_network(synthetic_images(_BATCH, wanted.channels, wanted.size, seed=1), wanted, Scale())
    return None if found.sureness({wanted.spec.name: x.astype(wanted.spec.dtype)}) is None else found
