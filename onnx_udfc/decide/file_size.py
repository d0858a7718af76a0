"""Bytes of the written file as a function of what the groups keep and of the layers' bits.

Weights, biases and scales are counted; everything else (names, nodes, what is not a layer) is what the file has beyond
them when the unpruned network is written. `written_bytes` is the truth: the file is put together, with codes
that mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.decide.finer import finer_layers
from onnx_udfc.decide.first_layers import integer_placement
from onnx_udfc.decide.placeholders import of_layers, of_unseen
from onnx_udfc.emit.float16 import to_float16
from onnx_udfc.emit.short_names import shorten_names
from onnx_udfc.emit.stamp import stamp
from onnx_udfc.emit.writer import Bases, Emitted, emit
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.options.words import FLOAT

if TYPE_CHECKING:
    from onnx_udfc.decide.ranks import Ranks
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

Double = NDArray[np.float64]

_STEP = 2.0**-6  # of activations in a draft: kernels take a clipping at 6 over where no code is above it
_SCALE_BYTES = 4
_NODE_BYTES = 150  # of one more node with its names; what is written in the end is measured

CORRECTIONS = 6  # how often a limit is moved until what is really written or timed meets it


@dataclass(frozen=True)
class FileSize:
    """A model of the file's size.

    Attributes:
        ranks: what the layers may become.
        base: bytes that no choice changes.
        weight: bits → bytes that a weight of each layer takes (L,).
        layer: bits → bytes that each layer adds in nodes and names; 0 for float.
    """

    ranks: Ranks
    base: float
    weight: Mapping[float, Double]
    layer: Mapping[float, float]

    def bytes(self, kept: Double, level: Double, bits: Double) -> Double:
        """Bytes (...) for kept channels (..., G), levels of rank (..., L) and bits (..., L)."""
        out, _ = self.ranks.size.lengths(kept)
        each = _looked_up(self.layer, bits)
        total = self.ranks.weights(kept, level) * _looked_up(self.weight, bits) + each
        total += out * (_SCALE_BYTES + _SCALE_BYTES * (bits < FLOAT))
        total += np.where(level > 0, each + _NODE_BYTES + self.ranks.rank(level) * _SCALE_BYTES * (bits < FLOAT), 0.0)
        return np.asarray(self.base + total.sum(-1))


def _looked_up(table: Mapping[float, Double] | Mapping[float, float], bits: Double) -> Double:
    found = np.zeros(bits.shape)
    for key, value in table.items():
        found = np.where(bits == key, value, found)
    return found


def file_size(network: Network, ranks: Ranks, widths: Sequence[float], options: Options) -> FileSize:
    """Measure how the network is written.

    `ranks` are what its layers may become, `widths` the weight bits that will be asked for.
    """
    size = ranks.size
    out, layers = float(size.out.sum()), list(network.layers.values())
    entries = np.maximum(size.out * size.into * size.kernel, 1.0)
    stored = np.array([layer.weight_bytes for layer in layers], np.float64)
    if options.float16:
        stored *= [0.5 if layer.constant.dtype == np.float32 else 1.0 for layer in layers]
    biased = with_biases(network)
    bases: Bases = {}
    base = short_bytes(written(biased, {}, options), network) - float(stored.sum()) - out * _SCALE_BYTES
    weight: dict[float, Double] = {FLOAT: stored / entries}
    layer: dict[float, float] = {FLOAT: 0.0}
    for bits in widths:
        model = written(biased, dict.fromkeys(network.layers, bits), options, bases)
        sizes = {t.name: len(t.raw_data) for t in model.graph.initializer}
        codes = np.array([sizes.get(f"{one.constant.name}.codes", 0) for one in layers], np.float64)
        weight[bits] = codes / entries
        left = short_bytes(model, network) - base - float(codes.sum()) - 2 * out * _SCALE_BYTES
        layer[bits] = left / max(len(layers), 1)
    return FileSize(ranks, base, weight, layer)


def with_biases(network: Network) -> Network:
    """A copy in which every layer has a bias that is not the file's own, as it does after its repair."""
    copy = network.copy()
    for layer in copy.layers.values():
        tensor = layer.bias_tensor
        if tensor is None:
            layer.set(layer.matrix(), np.ones(layer.out_channels))
        else:
            tensor.values = np.ones_like(tensor.values)
    return copy


def drafted(network: Network, bits: Mapping[str, float], options: Options, bases: Bases | None = None) -> Emitted:
    """The network as it would be written, with codes that mean nothing; `bases` as of `emit`."""
    chosen = {name: b for name, b in bits.items() if b != FLOAT}
    params = of_layers(network, chosen, finer_layers(network, options))
    unseen = of_unseen(network, options, chosen, len(network.layers))
    if options.activations is None or not params:
        emitted = emit(network, params, None, options.target, unseen=unseen, bases=bases)
    else:
        placement = integer_placement(network, params, options.target)
        grids = {t: ActivationParams(_STEP, 0, placement.dtype) for t in placement.sites}
        emitted = emit(network, params, grids, options.target, placement, unseen, bases)
    if options.float16:
        to_float16(emitted.model, {})
    stamp(emitted.model, options)
    return emitted


def written(
    network: Network, bits: Mapping[str, float], options: Options, bases: Bases | None = None
) -> onnx.ModelProto:
    """The file that it would make."""
    return drafted(network, bits, options, bases).model


def written_bytes(network: Network, bits: Mapping[str, float], options: Options, bases: Bases | None = None) -> int:
    """Size of that file."""
    return short_bytes(written(network, bits, options, bases), network)


def short_bytes(model: onnx.ModelProto, network: Network) -> int:
    """Size of a file with short names, which its model has from then on."""
    shorten_names(model, network.layers, network.origin.names)
    return model_bytes(model)
