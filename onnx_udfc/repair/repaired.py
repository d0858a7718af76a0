"""What a repair may do, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.escapes import some

if TYPE_CHECKING:
    from onnx_udfc.model.unseen import RoundedUnseen, Unseen
    from onnx_udfc.numerics.activation_grids import ActivationParams
    from onnx_udfc.numerics.grids import QuantParams
    from onnx_udfc.numerics.reconstruct import Solver

Double = NDArray[np.float64]


@dataclass(frozen=True)
class RepairSettings:
    """What the repair may do.

    Attributes:
        solve: the method's own way to fit a layer, if it has one.
        damage: what is done to weights (g, o, d) before they are rounded, by the Gram (g, d, d) if it was measured.
        spared: names of layers that stay undamaged.
        finer: names of layers that get more bits than asked, and stay as they are but for these (`model.loudness`).
        unseen: key → unseen weight of the pruned network that is to be rounded, and its bits.
    """

    solve: Solver | None = None
    damage: Callable[[Double, Double | None], Double] | None = None
    spared: frozenset[str] = frozenset()
    finer: frozenset[str] = frozenset()
    unseen: Mapping[str, tuple[Unseen, float]] = field(default_factory=dict)


def finer_note(params: QuantParams) -> str:
    """Why a layer has more bits than asked."""
    return (
        f"{params.bits_in_all:g} bits, for a logarithm follows, and quiet inputs count there as much as loud ones; not"
        " refitted"
    )


@dataclass(frozen=True)
class LayerRepair:
    """What happened to a layer: fraction of the target's variance that is missing at its output."""

    error_before: float
    error_refit: float
    error_after: float

    @property
    def explained(self) -> float:
        """Fraction of the target's variance that is still there."""
        return max(0.0, 1 - self.error_after)


@dataclass
class Repaired:
    """Weights in few bits and errors by layer name, grids by tensor; the network itself was changed in place.

    `unseen`: key → weight of a recurrent layer that was rounded by what it met, and its codes.
    `fallbacks`: layer name (or what else) → what was done in place of what is meant, and why.
    """

    weights: dict[str, QuantParams] = field(default_factory=dict)
    layers: dict[str, LayerRepair] = field(default_factory=dict)
    activations: dict[str, ActivationParams] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, RoundedUnseen] = field(default_factory=dict)

    def notes(self) -> tuple[str, ...]:
        """What could not be done as it is meant, in words for the user, a line for each reason."""
        reasons = dict.fromkeys(self.fallbacks.values())
        named = {reason: [name for name, why in self.fallbacks.items() if why == reason] for reason in reasons}
        return tuple(f"{some(names)}: {reason}" for reason, names in named.items())
