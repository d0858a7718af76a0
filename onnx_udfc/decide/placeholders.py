"""Codes that stand for those that are not known yet, where only the size of the file matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.decide.unrepaired import bits_of_unseen, unseen_to_round
from onnx_udfc.model.unseen import RoundedUnseen
from onnx_udfc.numerics.grids import QuantParams
from onnx_udfc.numerics.rounding import FINER

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

DIGITS = 12  # of a number to the base 3: enough for half a million weights


def of_layers(network: Network, bits: Mapping[str, float], finer: frozenset[str]) -> dict[str, QuantParams]:
    """Codes and scales of layers: the same for layers that share their weight, others for every other.

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


def of_unseen(network: Network, options: Options, bits: Mapping[str, float], taken: int) -> dict[str, RoundedUnseen]:
    """The same of unseen weights; `bits` are those of layers, `taken` the numbers that they have."""
    numbers: dict[str, int] = {}
    found, unseen = {}, unseen_to_round(network, options)
    widths = bits_of_unseen(network, unseen, options, bits)
    for key, weight in unseen.items():
        number = taken + numbers.setdefault(key if weight.path else weight.label, len(numbers))
        shape = (1, *weight.sizes(weight.axes))
        found[key] = RoundedUnseen(weight, _codes(widths[key], shape, number))
    return found


def _codes(bits: float, shape: tuple[int, int, int], number: int) -> QuantParams:
    """Codes and scales that differ by their number: a file holds what is equal once."""
    codes = np.zeros(shape, np.int8)
    digits = number // 3 ** np.arange(min(DIGITS, codes.size)) % 3 - 1
    codes.reshape(-1)[: digits.size] = digits
    scale = np.asarray(np.float32(1.0 + number * 2.0**-20), np.float64)
    return QuantParams(bits, codes, np.full(shape[:2], scale))
