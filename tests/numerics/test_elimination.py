from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.elimination import CRITERIA, ConsumerInput, eliminate, removal_by_score
from onnx_udfc.numerics.reconstruct import Producer

Floats = NDArray[np.float64]
RIDGE = 0.01


def consumer(channels: int, taps: int, outputs: int, seed: int, absent: Sequence[int] = ()) -> ConsumerInput:
    """Correlated patches whose rows are spread over the Gram; rows that belong to no channel come last."""
    rng = np.random.default_rng(seed)
    d = (channels - len(absent)) * taps + 2
    p = rng.normal(size=(4 * d, d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)) / np.sqrt(d)) * rng.uniform(0.2, 2, d)
    order, rows = rng.permutation(d - 2), np.full((channels, taps), -1, np.int64)
    present = [c for c in range(channels) if c not in absent]
    rows[present] = order.reshape(len(present), taps)
    return ConsumerInput(np.cov(p.T), rng.normal(size=(d, outputs)), rows)


def objective(c: ConsumerInput, gone: Sequence[int]) -> float:
    """Least ridge error of replacing the consumer's weights W0 by weights without the rows of the channels `gone`.

    min over W with W[gone] = 0 of tr (W - W0)ᵀ H (W - W0), H = G + λ I: solved from scratch with a naive inverse.
    """
    H = c.gram + RIDGE * np.trace(c.gram) / len(c.gram) * np.eye(len(c.gram))
    rows = c.rows[list(gone)]
    removed = rows[rows >= 0]
    stay = np.setdiff1d(np.arange(len(H)), removed)
    W = np.zeros_like(c.weight)
    W[stay] = np.linalg.inv(H[np.ix_(stay, stay)]) @ H[stay] @ c.weight
    off = W - c.weight
    return float(np.trace(off.T @ H @ off))


def naive_order(consumers: Sequence[ConsumerInput], channels: int) -> tuple[list[int], list[float]]:
    """Each step refits every candidate from scratch and takes the one with the least rise: O(C² d³)."""
    gone: list[int] = []
    costs: list[float] = []
    level = 0.0
    while len(gone) < channels - 1:
        left = [c for c in range(channels) if c not in gone]
        totals = [sum(objective(x, [*gone, c]) for x in consumers) for c in left]
        best = int(np.argmin(totals))
        gone.append(left[best])
        costs.append(totals[best] - level)
        level = totals[best]
    return [*gone, *(c for c in range(channels) if c not in gone)], costs


CASES = {
    "one tap": [consumer(9, 1, 4, 0)],
    "nine taps": [consumer(6, 9, 5, 1)],
    "one output": [consumer(8, 2, 1, 2)],
    "two consumers": [consumer(8, 1, 3, 3), consumer(8, 4, 2, 4)],
    "groups of a convolution": [consumer(8, 3, 3, 5, absent=(0, 1, 2, 3)), consumer(8, 3, 3, 6, absent=(4, 5, 6, 7))],
    "a channel that one of two reads": [consumer(6, 1, 3, 7), consumer(6, 2, 3, 8, absent=(2, 4))],
}


@pytest.mark.parametrize("name", CASES)
def test_elimination_is_a_refit_of_every_candidate(name: str) -> None:
    consumers = CASES[name]
    channels = len(consumers[0].rows)
    removal = eliminate(consumers, channels, RIDGE)
    order, costs = naive_order(consumers, channels)
    assert removal.order.tolist() == order
    np.testing.assert_allclose(removal.cost[:-1], costs, rtol=1e-5, atol=1e-9)
    assert removal.cost[-1] == np.inf


@pytest.mark.parametrize("name", CASES)
def test_elimination_leaves_its_arguments_alone(name: str) -> None:
    before = copy.deepcopy(CASES[name])
    first = eliminate(CASES[name], len(before[0].rows), RIDGE)
    for a, b in zip(before, CASES[name], strict=True):
        assert np.array_equal(a.gram, b.gram)
        assert np.array_equal(a.weight, b.weight)
        assert np.array_equal(a.rows, b.rows)
    second = eliminate(CASES[name], len(before[0].rows), RIDGE)
    assert np.array_equal(first.order, second.order)
    assert np.array_equal(first.cost, second.cost)


def test_channels_that_nobody_reads_go_first_and_cost_nothing() -> None:
    c = consumer(6, 2, 3, 0)
    c.weight[c.rows[4].ravel()] = 0
    absent = consumer(6, 2, 3, 1, absent=(2,))
    for removal, unread in ((eliminate([c], 6, RIDGE), 4), (eliminate([absent], 6, RIDGE), 2)):
        assert removal.order[0] == unread
        assert removal.cost[0] == 0


def test_a_dead_channel_goes_first() -> None:
    c = consumer(6, 2, 3, 0)
    dead = c.rows[3].ravel()
    c.gram[dead], c.gram[:, dead] = 0, 0
    removal = eliminate([c], 6, RIDGE)
    assert removal.order[0] == 3
    assert removal.cost[0] < 0.05 * removal.cost[1]


def test_one_of_two_duplicates_goes_early_and_the_other_takes_over() -> None:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(500, 8))
    p[:, 5] = p[:, 2]
    c = ConsumerInput(np.cov(p.T), rng.normal(size=(8, 4)) + 3, np.arange(8)[:, None])
    removal = eliminate([c], 8, 1e-6)
    assert removal.order[0] in (2, 5)
    assert removal.cost[0] < 1e-4 * removal.cost[1]
    place = removal.order.tolist()
    assert abs(place.index(2) - place.index(5)) > 1


def test_wide_layers_lose_several_at_a_time_and_all_in_the_end() -> None:
    c = consumer(300, 1, 20, 0)
    removal = eliminate([c], 300, RIDGE)
    assert sorted(removal.order) == list(range(300))
    assert np.isfinite(removal.cost[:-1]).all()
    assert (removal.cost[:-1] >= 0).all()
    kept = removal.kept(150)
    by_norm = np.argsort(np.square(c.weight[c.rows[:, 0]]).sum(1))
    assert objective(c, np.setdiff1d(np.arange(300), kept).tolist()) < 0.8 * objective(c, by_norm[:150].tolist())


def test_a_zero_gram_gives_an_order() -> None:
    c = ConsumerInput(np.zeros((6, 6)), np.ones((6, 2)), np.arange(6)[:, None])
    removal = eliminate([c], 6, RIDGE)
    assert sorted(removal.order) == list(range(6))
    assert np.isfinite(removal.cost[:-1]).all()


def test_orders_are_nested() -> None:
    removal = eliminate(CASES["two consumers"], 8, RIDGE)
    for count in range(1, 8):
        fewer, more = removal.kept(count), removal.kept(count + 1)
        assert len(fewer) == count
        assert (np.diff(fewer) > 0).all()
        assert set(fewer) < set(more)
    assert np.array_equal(removal.kept(8), np.arange(8))


def test_the_lowest_score_goes_first_and_ties_in_order() -> None:
    removal = removal_by_score(np.array([3.0, 1.0, 2.0, 1.0]))
    assert removal.order.tolist() == [1, 3, 2, 0]
    assert removal.cost.tolist() == [1, 1, 4, np.inf]
    assert removal.kept(2).tolist() == [0, 2]


def test_criteria_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, 7) * rng.choice([-1, 1], 7)
    raw = rng.normal(size=(7, 9))
    p = Producer(raw * scale[:, None], rng.normal(size=7), scale)
    naive = {
        "l2": [float(np.sqrt(sum(w * w for w in row))) for row in raw],
        "l1": [float(sum(abs(w) for w in row)) for row in raw],
        "folded-l2": [float(np.sqrt(sum(w * w for w in row))) for row in p.weight],
        "bn-scale": [abs(float(s)) for s in scale],
    }
    for name, score in naive.items():
        np.testing.assert_allclose(CRITERIA[name](p), score, rtol=1e-9)


def test_a_channel_with_scale_zero_has_a_finite_score() -> None:
    p = Producer(np.zeros((3, 4)), np.zeros(3), np.zeros(3))
    for criterion in CRITERIA.values():
        assert np.isfinite(criterion(p)).all()


def test_errors_on_few_samples_count_more() -> None:
    given = consumer(9, 1, 4, 0)
    plain = eliminate([given], 9, RIDGE)
    d = len(given.gram)
    strength = RIDGE * np.trace(given.gram) / d
    unknowns = float((np.linalg.eigvalsh(given.gram) / (np.linalg.eigvalsh(given.gram) + strength)).sum())
    few = eliminate([replace(given, count=20)], 9, RIDGE)
    assert few.order[0] == plain.order[0]
    np.testing.assert_allclose(few.cost[0], plain.cost[0] / (1 - unknowns / 20) ** 4, rtol=1e-9)
    many = eliminate([replace(given, count=10**9)], 9, RIDGE)
    np.testing.assert_allclose(many.cost[:-1], plain.cost[:-1], rtol=1e-6)


def test_each_consumer_has_its_part_of_the_costs_and_may_count_more() -> None:
    first, second = consumer(8, 1, 3, 3), consumer(8, 4, 2, 4)
    first.name, second.name = "first", "second"
    removal = eliminate([first, second], 8, RIDGE)
    assert removal.weighed_by({}) is removal
    one, other, both = (cost[:-1] for cost in (removal.parts["first"], removal.parts["second"], removal.cost))
    np.testing.assert_allclose(one + other, both, rtol=1e-12)
    weighed = removal.weighed_by({"second": 5.0})
    assert weighed.weighed is not None
    np.testing.assert_array_equal(weighed.cost, removal.cost)
    np.testing.assert_allclose(weighed.weighed[:-1], both + 4 * other)
