"""Which channels to keep.

Criteria from weights give a score for each channel (larger stays). `obs` orders them by what the consumer loses:
backward elimination by blocks (Optimal Brain Surgeon, Hassibi and Stork 1993, as in arXiv 2208.11580), on the Gram G of
the consumer's input with k rows for each channel, H = G + λ I:

    cost_j = tr(W_jᵀ [(H⁻¹)_jj]⁻¹ W_j)
    W ← W - (H⁻¹)_:j [(H⁻¹)_jj]⁻¹ W_j        H⁻¹ ← H⁻¹ - (H⁻¹)_:j [(H⁻¹)_jj]⁻¹ (H⁻¹)_j:

One pass gives the whole nested order and what each removal costs. On few samples errors look smaller than they are:
with n of them and f = Σ s/(s + λ) unknowns (s: eigenvalues of G) by about (1 - f/n)², as in generalized
cross-validation (Craven and Wahba, 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.inverses import inverse
from onnx_udfc.numerics.products import product
from onnx_udfc.numerics.reconstruct import Producer

Double = NDArray[np.float64]
Index = NDArray[np.int64]

_OPTIMISM = 4  # 2 for independent samples; those of one image are not
_FULL = 0.9  # of the samples: as many unknowns are reckoned with at most
_TOGETHER = 48  # rows that went before all others are brought up to date
_DROPPED = 0.1  # of the rows: from so many gone on the others are laid out anew, which takes as long as the products
_STEPS = 96  # a wide layer loses several channels at a time, in at most about this many steps


@dataclass(frozen=True)
class Removal:
    """A nested order of removal.

    Attributes:
        order: all channels, the first to go first.
        cost: the error that each removal adds (same order), in units of the consumer's output variance; the last is
            infinite, since a group never goes to zero.
        shares: whether costs add up to a share of that variance; else they only compare channels.
        parts: consumer → its part of the costs.
        weighed: the costs where each consumer's part counts as much as that consumer does; None where all count one.
    """

    order: Index
    cost: Double
    shares: bool = False
    parts: Mapping[str, Double] = field(default_factory=dict)
    weighed: Double | None = None

    def weighed_by(self, weights: Mapping[str, float]) -> Removal:
        """The same where errors of each consumer count as much as its weight says, one where none is given."""
        if all(weights.get(name, 1.0) == 1 for name in self.parts):
            return self
        total = sum((part * weights.get(name, 1.0) for name, part in self.parts.items()), np.zeros(len(self.cost)))
        return replace(self, weighed=total)

    def kept(self, count: int) -> Index:
        """The `count` channels that stay, sorted."""
        return np.sort(self.order[len(self.order) - count :])


@dataclass
class ConsumerInput:
    """What one consumer (one channel group of it) sees of the channels to be removed.

    Attributes:
        gram: (d, d) covariance of its patches.
        weight: (d, o) its weights, transposed.
        rows: (C, m) rows of the Gram that each channel owns; -1 where this group owns none of a channel.
        count: samples behind the Gram, if few of them are behind what the costs say; 0 if the costs are to be believed.
        name: of the consumer.
    """

    gram: Double
    weight: Double
    rows: Index
    count: int = 0
    name: str = ""


CRITERIA: dict[str, Callable[[Producer], Double]] = {
    "l2": lambda producer: np.asarray(np.linalg.norm(producer.trained, axis=1)),
    "l1": lambda producer: np.asarray(abs(producer.trained).sum(1)),
    "folded-l2": lambda producer: np.asarray(np.linalg.norm(producer.weight, axis=1)),
    "bn-scale": lambda producer: abs(producer.scale),  # |γ / σ|
}
MEASURED = ("obs",)  # criteria that need moments


def removal_by_score(score: Double) -> Removal:
    """Order of removal by rising score (C,); the cost is the squared score."""
    order = np.argsort(score, kind="stable")
    cost = np.square(score[order])
    cost[-1] = np.inf
    return Removal(order, cost)


def shares_by_score(score: Double, multiply: bool) -> Removal:
    """Order of removal by rising score (C,), priced in the unit of measured costs.

    A channel costs its part of the squared scores of all: what its removal would take of the variance if channels were
    independent and equally read, and nothing took over. That is rather more than would be measured.

    Args:
        score: of every channel.
        multiply: as `Removal.shares`; to be the same as that of the measured ones.
    """
    plain = removal_by_score(score)
    return Removal(plain.order, plain.cost / max(float(np.square(score).sum()), 1e-30), multiply)


def eliminate(consumers: list[ConsumerInput], channels: int, ridge: float) -> Removal:
    """Backward elimination of all channels from all consumers at once; costs of the consumers add up.

    Args:
        consumers: at least one; their arrays are not changed.
        channels: C.
        ridge: λ relative to mean(diag G).
    """
    states = [_Elimination(c, ridge) for c in consumers]
    alive = np.arange(channels)
    order: list[int] = []
    cost: list[float] = []
    parts: dict[str, list[Double]] = {c.name: [] for c in consumers}
    batch = max(1, -(-channels // _STEPS))
    while len(alive) > 1:
        each = [s.costs(alive) for s in states]
        costs = sum(each, start=np.zeros(len(alive)))
        lowest = np.sort(np.argsort(costs, kind="stable")[: min(batch, len(alive) - 1)])
        lowest = lowest[np.argsort(costs[lowest], kind="stable")]
        order += alive[lowest].tolist()
        cost += costs[lowest].tolist()
        for name, rows in parts.items():
            mine = (e[lowest] for e, c in zip(each, consumers, strict=True) if c.name == name)
            rows.append(sum(mine, np.zeros(len(lowest))))
        for state in states:
            state.remove(alive[lowest])
        alive = np.delete(alive, lowest)
    shares = all(c.count == 0 for c in consumers)
    known = {name: np.concatenate([*rows, [np.inf]]) for name, rows in parts.items()}
    return Removal(np.array([*order, int(alive[0])]), np.array([*cost, np.inf]), shares, known)


def _inverse(system: Double) -> Double:
    """The inverse of a Gram with its ridge; of one that rounding has made indefinite, too."""
    try:
        return inverse(system)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.inv(system), np.float64)


class _Elimination:
    """The shrinking inverse Gram of one consumer, and S = W Wᵀ of its weights: all that costs depend on.

    With r the rows that go, z = (H⁻¹)_:r [(H⁻¹)_rr]⁻¹ and a = S_r: − ½ S_rr zᵀ, removing them is

        H⁻¹ ← H⁻¹ − z (H⁻¹)_r:        S ← S − z a − aᵀ zᵀ

    These products wait until many rows have gone, and are made at once; until then only what is asked for is brought
    up to date: each channel's blocks on the diagonal, and the rows that go next.
    """

    def __init__(self, consumer: ConsumerInput, ridge: float) -> None:
        d = len(consumer.gram)
        weight = consumer.weight.astype(np.float64)
        self.strength = ridge * max(float(np.trace(consumer.gram)) / d, 1e-30)
        self.inverse, self.spread = _inverse(consumer.gram + self.strength * np.eye(d)), weight @ weight.T
        self.rows, self.count = consumer.rows.copy(), consumer.count
        self.present = self.rows[:, 0] >= 0
        self.gone = np.zeros(d, bool)
        self.diagonal = self.inverse.diagonal().copy()
        self.blocks, self.spreads = (m[self.rows[:, :, None], self.rows[:, None]] for m in (self.inverse, self.spread))
        self._waiting: list[tuple[NDArray[Any], ...]] = []  # zᵀ, (H⁻¹)_r: and a, each (rows that went, d)

    def costs(self, channels: Index) -> Double:
        """Cost (n,) of removing each of the channels alone."""
        present = self.present[channels]
        cost = np.zeros(len(channels))
        blocks, spreads = self.blocks[channels[present]], self.spreads[channels[present]]
        if blocks.shape[1:] == (1, 1):
            cost[present] = (spreads / blocks)[:, 0, 0]
        elif len(blocks):
            cost[present] = np.einsum("nmk,nkm->n", np.linalg.inv(blocks), spreads)
        return cost * self.optimism()

    def optimism(self) -> float:
        """How much smaller errors look on the samples than they are."""
        if not self.count:
            return 1.0
        alive = ~self.gone
        unknowns = alive.sum() - self.strength * self.diagonal[alive].sum()
        return float((1 - min(unknowns / self.count, _FULL)) ** -_OPTIMISM)

    def remove(self, channels: Index) -> None:
        """Remove the channels; the others take over what they can."""
        rows = self.rows[channels[self.present[channels]]].ravel()
        self.present[channels] = False
        if not len(rows):
            return
        inverse, spread = self.inverse[rows], self.spread[rows]
        for gone_z, gone_h, gone_a in self._waiting:
            inverse -= gone_z[:, rows].T @ gone_h
            spread -= gone_z[:, rows].T @ gone_a + gone_a[:, rows].T @ gone_z
        z = np.asarray(np.linalg.solve(inverse[:, rows], inverse), np.float64)
        a: Double = spread - 0.5 * spread[:, rows] @ z
        self.diagonal -= np.einsum("bd,bd->d", z, inverse)
        owned, left = self.rows[self.present], z[:, self.rows[self.present]]
        self.blocks[self.present] -= np.einsum("bcm,bck->cmk", left, inverse[:, owned])
        moved = np.einsum("bcm,bck->cmk", left, a[:, owned])
        self.spreads[self.present] -= moved + moved.swapaxes(1, 2)
        self.gone[rows] = True
        self._waiting.append((z, inverse, a))
        if sum(len(z) for z, *_ in self._waiting) >= _TOGETHER:
            self._catch_up()

    def _catch_up(self) -> None:
        """Make the products that wait, and drop the rows that went where these are many."""
        z, h, a = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        if self.gone.sum() > _DROPPED * len(self.gone):
            stay = ~self.gone
            z, h, a = z[:, stay], h[:, stay], a[:, stay]
            moved = np.cumsum(stay) - 1
            self.rows = np.where(self.rows >= 0, moved[self.rows], -1)
            self.inverse, self.spread = (m.compress(stay, 0).compress(stay, 1) for m in (self.inverse, self.spread))
            self.diagonal, self.gone = self.diagonal[stay], np.zeros(int(stay.sum()), bool)
        self.inverse -= product(z.T, h)
        crossed = product(z.T, a)
        self.spread -= crossed
        self.spread -= crossed.T
