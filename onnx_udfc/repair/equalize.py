"""Channels of a tensor brought nearer to one range, before one grid is laid over all of them.

A channel that a layer writes may be divided by any s > 0 if whatever reads it multiplies its weights by s: exact where
nothing but a Relu, LeakyRelu or PRelu is between (a Clip at 6 would have to clip at 6/s). With ranges r_c, weights
W_c that read channel c, and one step Δ = max_c(r_c/s_c)/255 for the tensor, the error behind what reads it is about

    Δ²/12 Σ_c s_c² |W_c|²  +  Σ_o δ_o²/12 Σ_c E[x_c²]/s_c²        δ_o: step of the weights that output o reads with

(Nagel et al., arXiv 1906.04721, have weights alone in mind). s_c = (r_c / max r)^α is taken, with the α of least error.

It is done beside depthwise layers, whose channels differ most, at most halfway, and only where it takes a good part of
the error: what is gained in steps is taken from the headroom of channels that the inputs at hand hardly excite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.numerics.activation_grids import GRID
from onnx_udfc.numerics.grids import FORMATS
from onnx_udfc.runtime.walk import Value, Walk

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.runtime.walk import Pieces

Double = NDArray[np.float64]

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
POWERS = (0.0, 0.25, 0.5)
LEAST = 0.1  # of the widest channel's range: what these inputs hardly excite, others may
WORTH = 0.8  # of the error at α = 0 that must be left at most


@dataclass(frozen=True)
class Link:
    """A tensor between layers: who writes it, what is read, and by which layers."""

    producer: Layer
    tensor: str
    consumers: tuple[Layer, ...]


def links(network: Network) -> Iterator[Link]:
    """Tensors that one layer writes, maybe through a Relu of some slope, and only layers read; one is depthwise."""
    outputs = {t.name for t in network.graph.outputs}
    by_node = {id(layer.node): layer for layer in network.layers.values()}
    for layer in network.layers.values():
        if not layer.kernel:
            continue
        tensor = layer.node.outputs[0]
        if tensor.name not in outputs and _passes(tensor):
            tensor = tensor.outputs[0].outputs[0]
        readers = tuple(by_node[id(node)] for node in tensor.outputs if id(node) in by_node)
        only = readers and len(readers) == len(tensor.outputs) and tensor.name not in outputs
        if only and all(_reads(r, tensor) for r in readers) and (layer.depthwise or all(r.depthwise for r in readers)):
            yield Link(layer, tensor.name, readers)


def _passes(tensor: gs.Tensor) -> bool:
    """Whether one node alone reads a tensor, and s times as much in a channel is s times as much behind it, s > 0."""
    node = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    return node is not None and node.op in HOMOGENEOUS and node.inputs[0] is tensor and not node.domain


def _reads(layer: Layer, tensor: gs.Tensor) -> bool:
    return bool(layer.kernel) and layer.node.inputs[0] is tensor


def equalize(
    network: Network, inputs: Mapping[str, Value], bits: float, pieces: Pieces | None = None
) -> tuple[str, ...]:
    """Rescale channels in place where that lowers the error of activations in 8 bits; `Network.scale` tells by what.

    It computes the same afterwards, up to rounding. `bits` are those of the weights, 2 to 8.

    Returns:
        Names of the tensors whose channels were rescaled.
    """
    walk = Walk(network.to_model(), inputs, [], pieces=pieces)
    changed = []
    for link in links(network):
        if not walk.available(link.tensor):
            continue
        x = walk.get(link.tensor)
        factor = _factor(link, *channel_extents(x), bits)
        if factor is not None:
            _rescale(link, factor)
            for name in (link.producer.node.outputs[0].name, link.tensor):
                network.scale[name] = network.scale.get(name, 1.0) * factor
            changed.append(link.tensor)
    return tuple(changed)


def channel_extents(x: Value) -> tuple[Double, Double]:
    """Largest magnitude and mean square (C,) of the channels of x (N, C, *space), a sample at a time."""
    axes = tuple(range(1, x.ndim - 1))
    largest = np.max([np.abs(sample).max(axes) for sample in x], axis=0)
    square = np.sum([np.square(sample, dtype=np.float64).sum(axes) for sample in x], axis=0)
    return largest.astype(np.float64), square * (square.size / x.size)


def _factor(link: Link, ranges: Double, power: Double, bits: float) -> Double | None:
    """Factors s (C,) of least error, or None where it is hardly less than that of s = 1."""
    widest = float(ranges.max())
    if not 0 < widest < np.inf:
        return None
    relative = np.maximum(ranges / widest, LEAST)
    tries = [relative**p for p in POWERS]
    errors = [_error(link, s, ranges, power, bits) for s in tries]
    best = int(np.argmin(errors))
    return tries[best] if errors[best] < WORTH * errors[0] else None


def _error(link: Link, s: Double, ranges: Double, power: Double, bits: float) -> float:
    step = float((ranges / s).max()) / GRID["uint8"][1]
    error = 0.0
    for layer in link.consumers:
        weight = _by_channel(layer) * s.reshape(layer.groups, 1, -1, 1)  # (g, o, C/g, taps)
        error += step**2 * float(np.square(weight).sum())
        steps = np.abs(weight).max((2, 3)) / FORMATS[bits].reach
        seen = (power / s**2).reshape(layer.groups, -1).sum(1) * weight.shape[3]
        error += float((np.square(steps) * seen[:, None]).sum())
    return error


def _by_channel(layer: Layer) -> Double:
    """Weights (g, o, C/g, taps) float64."""
    matrix = layer.matrix()
    return matrix.reshape(*matrix.shape[:2], layer.in_channels // layer.groups, -1)


def _rescale(link: Link, s: Double) -> None:
    layer = link.producer
    matrix = layer.matrix()
    layer.set(matrix / s.reshape(layer.groups, -1, 1), layer.bias / s)
    norm = layer.batch_norm
    if norm is not None:
        layer.batch_norm = replace(norm, gamma=norm.gamma / s, beta=norm.beta / s)
    for reader in link.consumers:
        weight = _by_channel(reader) * s.reshape(reader.groups, 1, -1, 1)
        reader.set(weight.reshape(reader.matrix_shape), reader.bias)
