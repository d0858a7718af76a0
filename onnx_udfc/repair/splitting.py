"""Layers that become two: the weights that both begin with, from what the whole of them sees and should give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.model.factored import Factor, factor
from onnx_udfc.numerics.factors import factors
from onnx_udfc.numerics.moments import covariance
from onnx_udfc.numerics.narrowing import Narrowing, narrowing

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.factors import Curve
    from onnx_udfc.numerics.layer_fit import Sight
    from onnx_udfc.numerics.metric import Metric

Double = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Factored:
    """A layer that is two now.

    Attributes:
        whole: as it was, pruned, in the matched domain.
        factor: how it was split.
    """

    whole: Layer
    factor: Factor

    def narrowing(self, curves: Mapping[str, tuple[Curve, ...]], kept: Mapping[str, Index]) -> Narrowing | None:
        """The directions that are looked at; None where all are.

        Args:
            curves: layer name → what was found of its splits in the original.
            kept: layer name → input channels that are left.
        """
        name, split = self.whole.name, self.factor.split
        curve = next((c for c in curves.get(name, ()) if c.split == split), None)
        inputs = kept.get(name, np.arange(self.whole.in_channels))
        return None if curve is None else narrowing(curve, self.factor.rank, inputs)


def split_matched(matched: Network, chosen: Mapping[str, Factor]) -> dict[str, Factored]:
    """Split layers of the network in the matched domain, in place; by the name of the first of the two."""
    whole = matched.copy().layers if chosen else {}
    return {first: Factored(whole[name], chosen[name]) for first, name in factor(matched, chosen).items()}


def both_of(
    part: Factored, sight: Sight, metric: Metric, narrow: Narrowing | None, ridge: float
) -> tuple[Double, Double, Double]:
    """Weights of both layers, from a fit of the whole.

    Args:
        part: the layer.
        sight: what the whole of it sees, in the directions of `narrow` where there are some, and should give.
        metric: how errors of its outputs count.
        narrow: the directions.
        ridge: λ of the fit.

    Returns:
        (r, I t₁); (o, r t₂), rows in units in which errors count; the covariance (d, d) of the patches as `sight` has
        them.
    """
    start, split = part.whole.matrix(), part.factor.split
    if narrow is not None:
        start, split = narrow.of(start[0])[None], narrow.inner
    weight = sight.fit(start, ridge)
    gram = covariance(sight.patches)[0] if sight.measured is None else sight.measured.gram[0]
    first, second = factors(metric.scaled(weight)[0], gram, split, part.factor.rank, sight.patches.shape[1])
    if narrow is not None:
        first = first @ narrow.basis.T
    return first, second, gram
