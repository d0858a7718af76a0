"""Activations whose ranges hang on an input's scale that nothing tells stay in float.

Of numbers that are neither sounds nor pictures (features, embeddings, spectra), and that no batch norm records, nothing
is known: ranges taken on numbers of deviation 1 clip what the network says of larger ones, and the check, on the same
made-up numbers, sees nothing of it. So such inputs are made what else they may be: tensors that grow with them are left
in float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.runtime.runs import model_specs, sample_count
from onnx_udfc.runtime.walk import Walk

if TYPE_CHECKING:
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.inputs.kinds import Another
    from onnx_udfc.model.network import Network
    from onnx_udfc.runtime.walk import Pieces

FOLLOWS = 2.0  # as large a value at another scale: the range hangs on it
SAMPLES = 8


def bound(
    network: Network,
    placement: Placement,
    inputs: Mapping[str, NDArray[Any]],
    unknown: Mapping[str, Sequence[Another]],
    pieces: Pieces | None = None,
) -> frozenset[str]:
    """The quantized tensors whose range follows the scale of inputs.

    The network has the weights that the written codes stand for; `unknown` is inputs whose scale is not known → what
    else they may be.
    """
    model = network.to_model()
    specs = model_specs(model, list(inputs))
    few = take(specs, inputs, evenly_spaced(sample_count(specs, inputs), SAMPLES))
    first, found = _sizes(Walk(model, few, (), pieces=pieces), placement), set[str]()
    for other in dict.fromkeys(other for others in unknown.values() for other in others):
        changed = {name: other.of(value) if other in unknown.get(name, ()) else value for name, value in few.items()}
        try:
            second = _sizes(Walk(model, changed, (), pieces=pieces), placement)
        except ModelError:  # numbers that it does not take are none that it reads
            continue
        # Behind the border of zeros that a convolution adds all is as large as the mean: that is no range.
        at = 0 if other.plus == 0 else 1
        found |= {tensor for tensor in first if second[tensor][at] >= FOLLOWS * first[tensor][at] > 0}
    return placement.on_grid(found)


def _sizes(walk: Walk, placement: Placement) -> dict[str, tuple[float, float]]:
    """The largest value of each tensor, and the root of the mean square."""
    found = {}
    for tensor in placement.tensors:
        value = np.asarray(walk.get(tensor), np.float64)
        found[tensor] = (
            float(np.abs(value).max(initial=0.0)),
            float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0,
        )
    return found


def reason(unknown: Collection[str]) -> str:
    """Why they stay in float, in words for the user."""
    names = ", ".join(unknown)
    return f"their ranges follow the scale of {names}, which nothing tells: give real inputs by --calibrate"
