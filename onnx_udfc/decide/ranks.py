"""Ranks as one more kind of level: which layers may become two, into which ranks, and what that makes smaller.

A layer that is split weighs r (I t₁ + O t₂) in place of O I k (`numerics.factors`). Of the points (what is saved,
damage) of all its splits and ranks only those on the lower convex hull are levels: no step to another is ever worth it.
Where one such step saves a large part of the network, levels between are held in reserve: the last step taken may save
far more than is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.decide.allocate import as_one_of_many
from onnx_udfc.model.factored import Factor, why_whole
from onnx_udfc.numerics.factors import Curve, Split

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.decide.footprint import Footprint
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]
Index = NDArray[np.int64]

MOST_LEVELS, MOST_FINE, MOST_BETWEEN = 24, 64, 16
_LARGE = 0.05  # of the whole network: steps that save more have levels in reserve
_TRIFLE = 1e-6  # of a damage, by which what saves less of several that are alike is better
_STEPS = (16, 8, 4, 2, 1)  # what ranks are multiples of: the largest that is a sixteenth of the most at most
_FINE, _LEAST_FINE = 0.01, 4  # of the whole network: steps that save more are made finer, down to this multiple


@dataclass(frozen=True)
class Ranks:
    """What each layer (L) may become, at most K levels of it; level 0 is the layer as it is.

    Attributes:
        size: of the layers as they are.
        factors: (L) of tuples: the factor at level 1, 2, …
        damage: (L) of arrays (1 + levels,), 0 at level 0.
        reserved: (L) of arrays (1 + levels,), whether a level is no step on the hull.
        into: (L, K) weights that each input channel has at a level: r t₁.
        out: (L, K) weights that each output channel has: r t₂.
        first: (L, K) how often a weight of the first layer is used for one input.
    """

    size: Footprint
    factors: tuple[tuple[Factor, ...], ...]
    damage: tuple[Double, ...]
    reserved: tuple[NDArray[np.bool_], ...]
    into: Double
    out: Double
    first: Double

    def weights(self, kept: Double, level: Double) -> Double:
        """Weights (..., L) for kept channels (..., G) and levels (..., L)."""
        first, second = self._parts(kept, level)
        whole = self.size.weights(kept)
        return np.where(level > 0, np.minimum(first + second, whole), whole)  # else it is not split after all

    def macs(self, kept: Double, level: Double) -> Double:
        """Multiply-accumulates (...) of the whole network."""
        first, second = self._parts(kept, level)
        whole = self.size.weights(kept)
        split = first * self._at(self.first, level) + second * self.size.positions
        in_effect = (level > 0) & (first + second < whole)
        return np.asarray(np.where(in_effect, split, whole * self.size.positions).sum(-1))

    def params(self, kept: Double, level: Double) -> Double:
        """Weights and biases (...) of the whole network."""
        out, _ = self.size.lengths(kept)
        return np.asarray(self.weights(kept, level).sum(-1) + out @ self.size.biased)

    def chosen(self, level: Double) -> dict[str, Factor]:
        """Layer name → what it becomes, for the layers that are not at level 0."""
        pairs = zip(self.size.layers, self.factors, level.astype(int), strict=True)
        return {name: factors[at - 1] for name, factors, at in pairs if at > 0}

    def rank(self, level: Double) -> Double:
        """Channels between (..., L) the two; 0 for whole layers."""
        found = np.zeros(self.into.shape)
        for i, factors in enumerate(self.factors):
            found[i, 1 : len(factors) + 1] = [f.rank for f in factors]
        return self._at(found, level)

    def _parts(self, kept: Double, level: Double) -> tuple[Double, Double]:
        """Weights (..., L) of both layers."""
        out, into = self.size.lengths(kept)
        return self._at(self.into, level) * into, self._at(self.out, level) * out

    def _at(self, table: Double, level: Double) -> Double:
        return np.asarray(table[np.arange(len(table)), level.astype(np.int64)])


Saving = Callable[[int, Split, Index], Double]


def rank_levels(
    network: Network,
    sizes: Mapping[str, Size],
    size: Footprint,
    curves: Mapping[str, Sequence[Curve]],
    saving: Saving,
    whole: float = math.inf,
) -> Ranks:
    """The levels of every layer.

    `curves` is layer name → what each split loses at every rank, as a share of what the layer writes to; `saving` what
    splitting a layer (by its number) at ranks (n,) saves (n,), in the unit that is to be saved; `whole` is that of the
    network: where one layer is nearly all of it, its levels are finer.
    """
    factors, damage, reserved, spots = [], [], [], []
    for i, (layer, positions) in enumerate(zip(network.layers.values(), size.positions, strict=True)):
        found = [_points(layer, c, partial(saving, i), _FINE * whole) for c in curves.get(layer.name, ())]
        every = [point for points in found for point in points]
        steps = _thinned(_hull(every), _FINE * whole)
        levels = _with_reserve(every, steps, _LARGE * whole)
        reserved.append(np.array([False, *(point not in steps for point in levels)]))
        factors.append(tuple(p.factor for p in levels))
        damage.append(np.array([0.0, *[p.damage for p in levels]]))
        spots.append([_first_positions(layer, sizes, p.factor.split, float(positions)) for p in levels])
    width = 1 + max((len(f) for f in factors), default=0)
    tables = np.zeros((3, len(factors), width))
    for i, (row, first) in enumerate(zip(factors, spots, strict=True)):
        for k, (f, where) in enumerate(zip(row, first, strict=True), start=1):
            t1, t2 = f.split.taps
            tables[:, i, k] = f.rank * t1, f.rank * t2, where
    return Ranks(size, tuple(factors), tuple(damage), tuple(reserved), *tables)


@dataclass(frozen=True)
class _Point:
    saved: float
    damage: float
    factor: Factor


def _points(layer: Layer, found: Curve, saving: Callable[[Split, Index], Double], largest: float) -> list[_Point]:
    """Every rank of one split that saves something, in steps that save so much at most."""
    if why_whole(layer):
        return []
    t1, t2 = found.split.taps
    most = min(layer.in_channels * t1, layer.out_channels * t2)
    step = next(s for s in _STEPS if s == 1 or 16 * s <= most)
    a_rank = float(-np.diff(saving(found.split, np.array([1, 2])))[0])
    while step > _LEAST_FINE and step * a_rank > largest:
        step //= 2
    ranks = np.arange(step, most, step)
    saved = saving(found.split, ranks)
    damage = found.weight * as_one_of_many(np.minimum(found.lost[ranks], 1.0))
    pairs = zip(ranks.tolist(), saved.tolist(), damage.tolist(), strict=True)
    return [_Point(s, d, Factor(found.split, r)) for r, s, d in pairs if s > 0]


def saved_weights(size: Footprint) -> Saving:
    """Savings in weights."""

    def saving(at: int, split: Split, ranks: Index) -> Double:
        t1, t2 = split.taps
        return np.asarray(size.into[at] * size.out[at] * t1 * t2 - ranks * (t1 * size.into[at] + t2 * size.out[at]))

    return saving


def saved_macs(network: Network, sizes: Mapping[str, Size], size: Footprint) -> Saving:
    """Savings in multiply-accumulates."""
    layers = list(network.layers.values())

    def saving(at: int, split: Split, ranks: Index) -> Double:
        (t1, t2), positions = split.taps, float(size.positions[at])
        ahead = _first_positions(layers[at], sizes, split, positions)
        whole = size.into[at] * size.out[at] * t1 * t2 * positions
        return np.asarray(whole - ranks * (t1 * size.into[at] * ahead + t2 * size.out[at] * positions))

    return saving


def _first_positions(layer: Layer, sizes: Mapping[str, Size], split: Split, positions: float) -> float:
    """How often a weight of the first layer is used: it has the output's size along its own axes only."""
    source = sizes.get(layer.node.inputs[0].name)
    target = sizes.get(layer.node.outputs[0].name)
    if not layer.convolves or source is None or target is None:
        return positions
    return float(math.prod(target[2 : 2 + split.leading]) * math.prod(source[2 + split.leading :]))


def _hull(points: list[_Point]) -> list[_Point]:
    """The lower convex hull from (0, 0) on, by rising savings."""
    hull = [_Point(0.0, 0.0, Factor(Split("channel", (), 0), 0))]
    for point in sorted(points, key=lambda p: (p.saved, -p.damage)):
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        if point.saved > hull[-1].saved:
            hull.append(point)
    return hull[1:]


def _with_reserve(points: list[_Point], steps: list[_Point], large: float) -> list[_Point]:
    """The steps, and in front of each that saves much what does no more damage than it, the least for what it saves.

    Damage has an upper end: what saves less of several that reach it counts as a trifle better.
    """
    found, before = list[_Point](), _Point(0.0, 0.0, Factor(Split("channel", (), 0), 0))
    for step in steps:
        between, least, room = list[_Point](), step.damage, step.saved - before.saved
        for point in sorted(points, key=lambda p: (-p.saved, p.damage)) if room > large else ():
            if before.saved < point.saved < step.saved and before.damage < point.damage <= least:
                least, trifle = point.damage, _TRIFLE * (step.saved - point.saved) / room
                between.insert(0, replace(point, damage=least - trifle * (least - before.damage)))
        kept = np.unique(np.linspace(0, len(between) - 1, min(len(between), MOST_BETWEEN)).astype(int))
        found += [*(between[i] for i in kept), step]
        before = step
    return found


def _above(a: _Point, b: _Point, c: _Point) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.damage - a.damage) * (c.saved - a.saved) >= (c.damage - a.damage) * (b.saved - a.saved)


def _thinned(points: list[_Point], largest: float) -> list[_Point]:
    """At most so many of them, evenly by their savings; more where steps would be larger than that."""
    wide = bool(points) and (points[-1].saved - points[0].saved) > largest * MOST_LEVELS
    most = MOST_FINE if wide else MOST_LEVELS
    if len(points) <= most:
        return points
    chosen = np.unique(np.linspace(0, len(points) - 1, most).astype(int))
    return [points[i] for i in chosen]
