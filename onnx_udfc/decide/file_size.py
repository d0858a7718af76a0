"""Bytes of the written file as a function of what the groups keep and of the layers' bits.

Weights, biases and scales are counted; everything else (names, nodes, what is not a layer) is what the file has beyond
them when the unpruned network is written. `written_bytes` is the truth: the file is put together, with codes
that mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.decide.finer import finer_layers
from onnx_udfc.decide.first_layers import integer_placement
from onnx_udfc.decide.unrepaired import NODE_BYTES, asked_of_unseen
from onnx_udfc.emit.float16 import to_float16
from onnx_udfc.emit.short_names import shorten_names
from onnx_udfc.emit.stamp import stamp
from onnx_udfc.emit.writer import Bases, Emitted, emit
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.model.unseen import RoundedUnseen
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.grids import QuantParams
from onnx_udfc.numerics.rounding import FINER
from onnx_udfc.options.words import FLOAT

if TYPE_CHECKING:
    from onnx_udfc.decide.ranks import Ranks
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

Double = NDArray[np.float64]

_STEP = 2.0**-6  # of activations in a draft: kernels take a clipping at 6 over where no code is above it
_SCALE_BYTES = 4

_DIGITS = 12  # of a number to the base 3: enough for half a million weights
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
        total += np.where(level > 0, each + NODE_BYTES + self.ranks.rank(level) * _SCALE_BYTES * (bits < FLOAT), 0.0)
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
    params = _codes_of_layers(network, chosen, finer_layers(network, options))
    unseen = _codes_of_unseen(network, options, chosen, len(network.layers))
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


def _codes_of_layers(network: Network, bits: Mapping[str, float], finer: frozenset[str]) -> dict[str, QuantParams]:
    """Codes and scales that mean nothing: the same for layers that share their weight, others for every other.

    `finer` are names of layers that get more bits.
    """
    shared = network.origin.shared
    numbers: dict[str, int] = {}
    found = {}
    for name, width in bits.items():
        layer = network.layers[name]
        source = shared.get(layer.constant.name, layer.constant.name)
        number = numbers.setdefault(source, len(numbers))
        found[name] = _codes(width, layer.matrix_shape, number)
        if name in finer:
            found[name] = replace(found[name], finer=_codes(FINER, layer.matrix_shape, number))
    return found


def _codes_of_unseen(
    network: Network, options: Options, bits: Mapping[str, float], taken: int
) -> dict[str, RoundedUnseen]:
    """The same of unseen weights; `bits` are those of layers, `taken` the numbers that they have."""
    numbers: dict[str, int] = {}
    found = {}
    for key, (weight, width) in asked_of_unseen(network, options, bits).items():
        number = taken + numbers.setdefault(key if weight.path else weight.label, len(numbers))
        shape = (1, *weight.sizes(weight.axes))
        found[key] = RoundedUnseen(weight, _codes(width, shape, number))
    return found


def _codes(bits: float, shape: tuple[int, int, int], number: int) -> QuantParams:
    """Codes and scales that differ by their number: a file holds what is equal once."""
    codes = np.zeros(shape, np.int8)
    digits = number // 3 ** np.arange(min(_DIGITS, codes.size)) % 3 - 1
    codes.reshape(-1)[: digits.size] = digits
    scale = np.asarray(np.float32(1.0 + number * 2.0**-20), np.float64)
    return QuantParams(bits, codes, np.full(shape[:2], scale))
