"""Activations whose ranges hang on an input's scale that nothing tells stay in float.

Pictures and sounds have scales that networks mostly read, and a batch norm records its own. Of other numbers (features,
embeddings, spectra) nothing is known: ranges taken on numbers of deviation 1 clip all that the network says of numbers
of deviation 16, and the check, on the same made-up numbers, sees nothing of it. So such inputs are made TIMES as large:
tensors that grow with them are left in float, and what a normalization, a sigmoid or a softmax stands before is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.feeds import evenly_spaced, sample_count, take
from onnx_udfc.runtime.runs import model_specs
from onnx_udfc.runtime.walk import Walk

if TYPE_CHECKING:
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.model.network import Network
    from onnx_udfc.runtime.walk import Pieces

TIMES = 8.0
FOLLOWS = 2.0  # as large a value at TIMES the scale: the range hangs on it
SAMPLES = 8


def bound(
    network: Network,
    placement: Placement,
    inputs: Mapping[str, NDArray[Any]],
    unknown: Collection[str],
    pieces: Pieces | None = None,
) -> frozenset[str]:
    """The quantized tensors whose range follows the scale of inputs.

    Args:
        network: with the weights that the written codes stand for.
        placement: where activations are quantized.
        inputs: graph input name → values.
        unknown: the inputs whose scale is not known.
        pieces: open sessions, on the provider that runs the network.
    """
    model = network.to_model()
    specs = model_specs(model, list(inputs))
    few = take(specs, inputs, evenly_spaced(sample_count(specs, inputs), SAMPLES))
    more = {name: value * value.dtype.type(TIMES) if name in unknown else value for name, value in few.items()}
    first, second = (_largest(Walk(model, values, (), pieces=pieces), placement) for values in (few, more))
    return placement.on_grid({tensor for tensor in first if second[tensor] >= FOLLOWS * first[tensor] > 0})


def _largest(walk: Walk, placement: Placement) -> dict[str, float]:
    return {tensor: float(np.abs(walk.get(tensor)).max(initial=0.0)) for tensor in placement.tensors}


def reason(unknown: Collection[str]) -> str:
    """Why they stay in float, in words for the user."""
    names = ", ".join(unknown)
    return f"their ranges follow the scale of {names}, which nothing tells: give real inputs by --calibrate"
