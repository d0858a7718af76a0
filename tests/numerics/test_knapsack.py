"""The solver against all choices of small problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnx_udfc.numerics.knapsack import Demand, Levels, UnreachableError, levels, solve, take_back


def problem(seed: int, variables: int = 4, count: int = 4) -> Levels:
    """Values that fall from `count`, damage that rises ever faster."""
    random = np.random.default_rng(seed)
    steps = np.sort(random.uniform(0.1, 1.0, (variables, count - 1)), axis=1)
    values = np.arange(count, 0, -1.0)
    return levels([(values, np.concatenate([[0.0], np.cumsum(s)])) for s in steps])


def best(table: Levels, demands: list[Demand]) -> float:
    """The least damage of all choices that meet the demands."""
    choices = itertools.product(*[range(table.values.shape[1])] * len(table.values))
    fitting = [np.array(c) for c in choices if all(d.size(table.at(np.array(c))) <= d.limit for d in demands)]
    return min(table.total(c) for c in fitting)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [5.0, 9.0, 12.0, 15.0])
def test_equal_units_and_convex_damage_are_solved_exactly(seed: int, limit: float) -> None:
    table = problem(seed)
    demands = [Demand("sum", limit, lambda v: v.sum(-1))]
    chosen = solve(table, demands)
    assert table.at(chosen).sum() <= limit
    assert table.total(chosen) == pytest.approx(best(table, demands), rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_products_and_two_limits_are_solved_nearly(seed: int) -> None:
    table = problem(seed)
    demands = [
        Demand("products", 20.0, lambda v: (v[..., 1:] * v[..., :-1]).sum(-1)),
        Demand("weighted", 16.0, lambda v: v @ np.array([1.0, 2.0, 3.0, 1.0])),
    ]
    chosen = solve(table, demands)
    assert all(d.size(table.at(chosen)) <= d.limit for d in demands)
    assert table.total(chosen) <= 1.35 * best(table, demands)


def test_a_limit_that_holds_already_changes_nothing() -> None:
    assert solve(problem(0), [Demand("sum", 16.0, lambda v: v.sum(-1))]).tolist() == [0, 0, 0, 0]


def test_an_impossible_limit_names_the_least() -> None:
    with pytest.raises(UnreachableError) as caught:
        solve(problem(0), [Demand("sum", 3.0, lambda v: v.sum(-1))])
    assert (caught.value.demand.key, caught.value.least) == ("sum", 4.0)


def test_steps_are_taken_back_where_there_is_room() -> None:
    table = levels([(np.array([4.0, 3.0]), np.array([0.0, 1.0])), (np.array([4.0, 2.0]), np.array([0.0, 2.0]))])
    chosen = take_back(table, [Demand("sum", 7.0, lambda v: v.sum(-1))], np.array([1, 1]))
    assert chosen.tolist() == [1, 0]  # the more harmful step of the two that fit


def test_rows_of_different_length_never_leave_their_levels() -> None:
    table = levels([(np.array([8.0]), np.zeros(1)), (np.array([8.0, 1.0]), np.array([0.0, 5.0]))])
    chosen = solve(table, [Demand("sum", 9.0, lambda v: v.sum(-1))])
    assert table.at(chosen).tolist() == [8.0, 1.0]
