"""Kinds of damage to the weights of layers beside rounding, a row each; what they do is repaired in the layers behind.

A layer is refitted first, then damaged, then rounded to nearest: zeros stay zeros, for every grid of integers has one,
where rounding with the Gram would move the other weights' errors into them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.model.named import layers_meant

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

Double = NDArray[np.float64]
Harm = Callable[[Double, Double | None], Double]


@dataclass(frozen=True)
class Damage:
    """A row of the table.

    Attributes:
        asked: whether the options ask for it.
        apply: weights (g, o, d) of a layer and the Gram (g, d, d) of its inputs, None where it was not measured, to
            weights of the same shape.
    """

    asked: Callable[[Options], bool]
    apply: Harm


DAMAGE: dict[str, Damage] = {}


def asked_damage(options: Options) -> Harm | None:
    """All the damage that is asked for, one after another; None where there is none."""
    rows = [row.apply for row in DAMAGE.values() if row.asked(options)]
    return (lambda weight, gram: reduce(lambda w, apply: apply(w, gram), rows, weight)) if rows else None


def damage_weights(network: Network, options: Options) -> None:
    """Damage the layers that are not skipped, in place, with nothing measured."""
    harm, left = asked_damage(options), layers_meant(options.skip, network)
    for name, layer in network.layers.items():
        if harm is not None and name not in left:
            layer.set(harm(layer.matrix(), None), layer.bias)
