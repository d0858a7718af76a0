"""What a layer of the compressed network sees, and the fit of its weights to it.

Where a ReLU or a Clip follows, only what passes it counts. With a = clip(t) the value that the original network passes
on, s the residual stream that is added before the activation (0 without), the fit alternates (Zhang et al., arXiv
1505.06798) between the values z that are nearest to both and the weights:

    z = argmin (a - clip(z))² + μ (z - (W p + b + s))²          W, b: the ridge regression of z - s on p
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics import products
from onnx_udfc.numerics.moments import (
    STILL,
    Array,
    Moments,
    column_means,
    column_variances,
    group_parts,
    joined,
    moments,
    row_parts,
    without_still,
)
from onnx_udfc.numerics.reconstruct import Factor, Solver, energy, regress, residual

Double = NDArray[np.float64]

WIDEST_GRAM = 8192  # above it a Gram is too large to hold
LARGEST = 1e16  # its square times a million positions is within float32
_PULL = 0.1  # μ
_STRETCHES = 4  # of the samples in each half
_ROUNDS = 2


@dataclass(frozen=True)
class Bounds:
    """The activation behind a layer, as a clip: a ReLU has no upper bound."""

    low: float
    high: float


@dataclass
class Sight:
    """Patches and targets of a layer.

    Attributes:
        patches: (g, n, d) of the compressed network's input.
        targets: (g, n, o) what the layer should give there.
        bounds: the activation that follows, or None.
        stream: (g, n, o) what the compressed network adds before the activation, or None.
        moved: (g, o) how far a fit has moved the mean of the targets.
        measured: the moments of both; None if samples are fewer than half the unknowns, or these are too many.
        factor: (G + λI)⁻¹ of the last fit; None where there was none.
        overflown: products of the values exceed float32; then nothing is fitted.
        energy: of the targets, centered.
    """

    patches: Array
    targets: Array
    bounds: Bounds | None = None
    stream: Array | None = None
    measured: Moments | None = field(init=False, default=None)
    moved: Double = field(init=False)
    factor: Factor | None = field(init=False, default=None)
    overflown: bool = field(init=False, default=False)
    energy: float = field(init=False)

    def __post_init__(self) -> None:
        """Measure once; the fit, the rounding and the errors share it."""
        self.moved = np.zeros((len(self.targets), self.targets.shape[2]))
        self.energy = energy(self.targets)
        self.overflown = not (summable(self.patches) and summable(self.targets))
        if not self.overflown and self.patches.shape[2] <= min(WIDEST_GRAM, 2 * self.patches.shape[1]):
            self.measured = without_still(moments(self.patches, self.targets))

    @property
    def still(self) -> bool:
        """Whether the layer's input never varies: then nothing tells other weights from those that it has."""
        if self.measured is not None:
            return not self.measured.gram.any()
        mean, variance = column_means(self.patches), column_variances(self.patches)
        return bool((variance <= np.square(STILL * mean)).all())

    @property
    def determined(self) -> bool:
        """Whether there are more samples than unknowns."""
        return bool(self.patches.shape[1] > self.patches.shape[2])

    def preferred(self, prior: Double, ridges: Sequence[float]) -> float:
        """The ridge of those given whose fit to half of the samples leaves the least of the other half.

        Samples lie side by side by image, so a half are whole stretches: positions of one image tell of each other.
        """
        stretch = np.arange(self.patches.shape[1]) * 2 * _STRETCHES // self.patches.shape[1] % 2
        halves = [(self.patches[:, stretch == k], self.targets[:, stretch == k]) for k in (0, 1)]

        def fits(p: Array, t: Array) -> list[Double]:
            if p.shape[1] < p.shape[2]:
                return [regress(p, t, prior, ridge).weight for ridge in ridges]
            found = moments(p, t)
            return [Factor(found.gram, ridge).solve(found.cross, prior) for ridge in ridges]

        first, second = (fits(*half) for half in halves)
        left = [_left(*halves[1], a) + _left(*halves[0], b) for a, b in zip(first, second, strict=True)]
        return ridges[int(np.argmin(left))]

    def fit(self, prior: Double, ridge: float, *, through: bool = True, solve: Solver | None = None) -> Double:
        """Weights (g, o, d) near the prior; moves the targets to what the activation lets pass.

        Args:
            prior: (g, o, d) weights to start from.
            ridge: λ relative to mean(diag G).
            through: mind the activation.
            solve: another way to fit.
        """
        if self.overflown or self.still:
            return prior
        if solve is not None:
            return solve(self.patches, self.targets, prior, ridge)
        if self.measured is None or not self.determined:
            return regress(self.patches, self.targets, prior, ridge).weight
        factor = self.factor = Factor(self.measured.gram, ridge)
        weight = factor.solve(self.measured.cross, prior)
        if self.bounds is None or not through:
            return weight
        return self._fit_through(self.bounds, factor, weight, prior)

    def _fit_through(self, bounds: Bounds, factor: Factor, weight: Double, prior: Double) -> Double:
        assert self.measured is not None
        before = self.measured.target_mean
        stream = np.float32(0) if self.stream is None else self.stream
        passed = np.clip(self.targets + stream, np.float32(bounds.low), np.float32(bounds.high))
        parts, center = group_parts(self.patches), self.measured.mean[:, None].astype(np.float32)
        whole = self.patches - center if len(parts) == 1 else None

        def centered(some: slice) -> Array:
            return self.patches[some] - center[some] if whole is None else whole

        level = self.targets.mean(1, keepdims=True)
        for _ in range(_ROUNDS):
            steps = weight.transpose(0, 2, 1).astype(np.float32)
            now = joined([products.stacked(centered(some), steps[some]) for some in parts])
            now += level + stream
            _to_nearest_passing(now, passed, bounds)
            now -= stream
            self.targets, level = now, now.mean(1, dtype=np.float32, keepdims=True)
            left = now - level
            products_of = [products.stacked(centered(some).transpose(0, 2, 1), left[some]) for some in parts]
            cross = joined(products_of).astype(np.float64) / self.patches.shape[1]
            weight = factor.solve(cross, prior)
        after = column_means(self.targets)
        self.moved, self.energy = after - before, energy(self.targets)
        self.measured = Moments(self.measured.count, self.measured.mean, self.measured.gram, after, cross)
        return weight

    def error(self, weight: Double) -> float:
        """Fraction of the targets' variance that W (g, o, d) leaves, mean free."""
        if self.measured is not None:
            return residual(self.measured, weight, self.energy)
        return _left(self.patches, self.targets, weight, self.energy)


def _left(patches: Array, targets: Array, weight: Double, whole: float | None = None) -> float:
    """Fraction of the targets' variance that W leaves, mean free, of samples without moments."""
    left = targets - patches @ weight.transpose(0, 2, 1).astype(np.float32)
    return energy(left) / max(energy(targets) if whole is None else whole, 1e-30)


def _to_nearest_passing(now: Array, passed: Array, bounds: Bounds) -> None:
    """Turn y = W p + b + s (g, n, o) into the z of the module's equation, in place.

    Inside of the bounds that is (a + μ y) / (1 + μ) = y + (a - y) / (1 + μ); beyond one, where the clip is flat, y
    itself. It costs less there if y is farther beyond the bound than κ times the distance of a from it,
    κ = √(1 + 1/μ) - 1.
    """
    low, high, pull = np.float32(bounds.low), np.float32(bounds.high), np.float32(_PULL)
    reach = np.float32(np.sqrt(1 + 1 / _PULL) - 1)
    for part in row_parts(now):
        y, a = now[..., part, :], passed[..., part, :]
        step = a - y
        step /= 1 + pull
        if np.isfinite(low):
            step *= y >= low - (a - low) * reach
        if np.isfinite(high):
            step *= y <= high + (high - a) * reach
        y += step


def summable(values: Array) -> bool:
    """Whether sums of products of the values stay within float32."""
    return bool(max(float(values.max(initial=0)), -float(values.min(initial=0))) < LARGEST)
