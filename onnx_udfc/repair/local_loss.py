"""What each tensor's grid takes of what is in it, seen by itself: no run of the network for each.

With y what the reader makes of a tensor's values and z the same of their codes, for channel c

    loss = N_c / (N_c + V_c)       N_c = E (y − z)²,  V_c = Var y        mean over channels before a depthwise layer
    loss = Σ N_c / (Σ N_c + Σ V_c)                                      before any other

A depthwise layer reads each channel by itself, and its batch norm brings small ones up to the size of the others: of
channels that are a hundredth of the widest one, a grid over all of them leaves nothing. Before a dense layer it is the
sum that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.emit.placement import INTEGER_OPS, TIED
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.repair.ranges import read_of
from onnx_udfc.runtime.runs import model_specs, sample_count
from onnx_udfc.runtime.walk import Value, Walk

if TYPE_CHECKING:
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.activation_grids import ActivationParams, Read

SAMPLES = 2
BETWEEN = frozenset({"Relu", "Clip", *INTEGER_OPS, *TIED}) - {"Concat"}  # what a channel passes on its way to a layer


def losses(
    network: Network, placement: Placement, grids: Mapping[str, ActivationParams], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """The loss of each of `placement.tensors`, 0 to 1.

    The network has the weights that the written codes stand for; SAMPLES of the inputs are run.
    """
    model = network.to_model()
    specs = model_specs(model, list(inputs))
    walk = Walk(model, take(specs, inputs, evenly_spaced(sample_count(specs, inputs), SAMPLES)), ())
    apart = before_depthwise(network)
    return {
        tensor: lost_in(walk.get(tensor), grids[tensor], read_of(network, tensor), tensor in apart)
        for tensor in placement.tensors
    }


def lost_in(values: Value, grid: ActivationParams, read: Read, apart: bool) -> float:
    """The module's equation for values (n, C, ...) of one tensor."""
    y = read(values.astype(np.float64))
    z = read(grid.coded(values)[...].astype(np.float64))
    axes = tuple(i for i in range(y.ndim) if i != 1)
    noise, signal = np.square(y - z).mean(axes), y.var(axes)
    total = noise + signal
    if not total.any():
        return 0.0
    return float((noise[total > 0] / total[total > 0]).mean() if apart else noise.sum() / total.sum())


def before_depthwise(network: Network) -> frozenset[str]:
    """Names of the tensors whose channels a depthwise layer reads, through activations or directly."""
    found, waiting = set[str](), [layer.node.inputs[0] for layer in network.layers.values() if layer.depthwise]
    layers = {id(layer.node) for layer in network.layers.values()}
    while waiting:
        tensor = waiting.pop()
        if tensor.name in found:
            continue
        found.add(tensor.name)
        waiting += [t for n in tensor.inputs if n.op in BETWEEN and id(n) not in layers for t in n.inputs]
    return frozenset(found)
