"""Choosing one level for each of many variables so that limits are met at the least damage.

A variable is a channel group (levels: channel counts it may keep) or a layer (levels: weight bits it may have). Level 0
is the network as it is; each further level does more damage and makes something smaller. Starting from there, the
step with the least damage per saving is taken until every limit holds,

    argmin_v  Δdamage_v / Σ_b min(1, Δsize_b,v / (size_b − limit_b))      over the limits b that are not met yet

with sizes measured anew at each step, since what a step saves depends on what else is gone. Then steps are taken back
where there is room for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]
Index = NDArray[np.int64]
Meter = Callable[[Double], Double]


class UnreachableError(Exception):
    """A limit that no choice of levels meets."""

    def __init__(self, demand: Demand, least: float) -> None:
        """Args: the limit, and the smallest size that can be reached."""
        super().__init__(f"{demand.key}: {least:g} is the least")
        self.demand, self.least = demand, least


@dataclass(frozen=True)
class Demand:
    """A size that must not be above a limit.

    Attributes:
        key: its name, e.g. macs.
        limit: the largest allowed size.
        size: values (..., V) of all variables → sizes (...).
    """

    key: str
    limit: float
    size: Meter


@dataclass(frozen=True)
class Levels:
    """What each of V variables can be set to.

    Attributes:
        values: (V, K) value at each level; rows are filled up with their last value.
        damage: (V, K) damage of each level, 0 at level 0; infinite where a row has no such level.
    """

    values: Double
    damage: Double

    def at(self, chosen: Index) -> Double:
        """Values (..., V) at the chosen levels (..., V)."""
        return self.values[np.arange(len(self.values)), chosen]

    def total(self, chosen: Index) -> float:
        """The damage of a choice (V,)."""
        return float(self.damage[np.arange(len(self.damage)), chosen].sum())


def levels(rows: Sequence[tuple[Double, Double]]) -> Levels:
    """Put (values, damage) of each variable in a table."""
    width = max((len(values) for values, _ in rows), default=1)
    values, damage = np.zeros((len(rows), width)), np.full((len(rows), width), np.inf)
    for v, (value, cost) in enumerate(rows):
        values[v] = value[-1]
        values[v, : len(value)] = value
        damage[v, : len(cost)] = cost
    return Levels(values, damage)


def solve(table: Levels, demands: Sequence[Demand]) -> Index:
    """Levels (V,) that meet every demand.

    Raises:
        UnreachableError: no choice meets one of them.
    """
    chosen = np.zeros(len(table.values), np.int64)
    while True:
        missing = [d for d in demands if float(d.size(table.at(chosen))) > d.limit]
        if not missing:
            return take_back(table, demands, chosen)
        steps = _steps(table, chosen)
        rate = _rates(table, missing, chosen, steps)
        if not len(steps) or not np.isfinite(rate).any():
            raise UnreachableError(missing[0], float(missing[0].size(table.at(chosen))))
        chosen[steps[int(np.argmin(rate))]] += 1


def _steps(table: Levels, chosen: Index) -> Index:
    """Variables that have a further level."""
    rows = np.arange(len(chosen))
    after = np.minimum(chosen + 1, table.values.shape[1] - 1)
    return np.flatnonzero((after > chosen) & np.isfinite(table.damage[rows, after]))


def _rates(table: Levels, missing: Sequence[Demand], chosen: Index, steps: Index) -> Double:
    """Damage per saving (steps,) of one step each; infinite where nothing is saved."""
    added = table.damage[steps, chosen[steps] + 1] - table.damage[steps, chosen[steps]]
    trials = table.at(_moved(chosen, steps, 1))
    gain = np.zeros(len(steps))
    for demand in missing:
        now = float(demand.size(table.at(chosen)))
        gain += np.clip((now - demand.size(trials)) / (now - demand.limit), 0.0, 1.0)
    return np.where(gain > 0, added / np.maximum(gain, 1e-30), np.inf)


def _moved(chosen: Index, variables: Index, by: int) -> Index:
    """(n, V) the choice, with one variable moved in each row."""
    moved = np.repeat(chosen[None], len(variables), axis=0)
    moved[np.arange(len(variables)), variables] += by
    return moved


def take_back(table: Levels, demands: Sequence[Demand], chosen: Index, slack: float = 0.0) -> Index:
    """Undo the most harmful steps that the limits have room for.

    Args:
        table: the levels.
        demands: the limits.
        chosen: (V,) a choice that meets them.
        slack: stop when the room left under some limit is at most this share of it.
    """
    chosen = chosen.copy()
    while all(float(d.size(table.at(chosen))) < (1 - slack) * d.limit for d in demands):
        back = np.flatnonzero(chosen > 0)
        trials = _moved(chosen, back, -1)
        fits = np.ones(len(back), bool)
        for demand in demands:
            fits &= demand.size(table.at(trials)) <= demand.limit
        saved = table.damage[back, chosen[back]] - table.damage[back, chosen[back] - 1]
        if not (fits & (saved > 0)).any():
            break
        chosen[back[int(np.argmax(np.where(fits, saved, -1.0)))]] -= 1
    return chosen


def take_back_from(table: Levels, demands: Sequence[Demand], values: Double, slack: float = 0.0) -> Double:
    """The values (V,) that are left when `take_back` begins with the levels nearest to some."""
    nearest = [int(np.argmin(abs(row - value))) for row, value in zip(table.values, values, strict=True)]
    return table.at(take_back(table, demands, np.array(nearest), slack))
