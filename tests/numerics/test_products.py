"""Products in blocks: the same numbers, and the same bytes for any number of threads."""

from __future__ import annotations

import gc
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.products import (
    EACH,
    HELD,
    SIDE,
    Behind,
    at_once,
    beside,
    each,
    gram,
    parts,
    product,
    stacked,
    workers,
)  # fmt: skip

Array = NDArray[Any]
RNG = np.random.default_rng(0)
LONG, WIDE = RNG.normal(size=(3000, 640)).astype(np.float32), RNG.normal(size=(640, 200)).astype(np.float32)
SMALL = RNG.normal(size=(40, 30))


def _of_long() -> Array:
    return product(LONG, WIDE)


MADE: dict[str, tuple[Callable[[], Array], Callable[[], Array]]] = {
    "long": (_of_long, lambda: LONG.astype(np.float64) @ WIDE),
    "turned": (lambda: product(LONG.T, LONG[:, :300]), lambda: LONG.T.astype(np.float64) @ LONG[:, :300]),
    "of many columns": (lambda: product(WIDE.T[:50], LONG.T), lambda: WIDE.T[:50].astype(np.float64) @ LONG.T),
    "small": (lambda: product(SMALL, SMALL.T), lambda: SMALL @ SMALL.T),
    "empty": (lambda: product(LONG, np.zeros((640, 0), np.float32)), lambda: np.zeros((3000, 0))),
    "stack": (lambda: stacked(LONG[None], WIDE[None]), lambda: (LONG.astype(np.float64) @ WIDE)[None]),
    "gram": (lambda: gram(LONG), lambda: LONG.T.astype(np.float64) @ LONG),
    "gram of few": (lambda: gram(SMALL), lambda: SMALL.T @ SMALL),
}


@pytest.mark.parametrize("name", MADE)
def test_blocks_are_the_product(name: str) -> None:
    made, naive = MADE[name]
    expected = naive()
    scale = max(float(np.abs(expected).max(initial=0)), 1)
    np.testing.assert_allclose(made(), expected, rtol=1e-5, atol=1e-5 * scale)
    with workers(3):
        shared = made()
    assert shared.dtype == made().dtype
    assert shared.tobytes() == made().tobytes()


def test_the_cases_are_large_enough_to_be_cut() -> None:
    assert LONG.size * WIDE.shape[1] > 2 * EACH
    assert LONG.shape[1] * 50 * len(LONG) > 2 * EACH
    assert LONG.size * LONG.shape[1] > 4 * EACH
    assert LONG.shape[1] > SIDE


def test_a_gram_is_symmetric_to_the_bit() -> None:
    made = gram(LONG)
    np.testing.assert_array_equal(made, made.T)


def asleep(number: int) -> int:
    time.sleep(0.3)
    return number


def test_each_keeps_the_order_and_works_side_by_side() -> None:
    assert each(lambda i: i * i, range(5)) == [0, 1, 4, 9, 16]
    with workers(4):
        start = time.perf_counter()
        assert each(asleep, range(4)) == [0, 1, 2, 3]
        assert time.perf_counter() - start < 1.1  # one after another: 1.2
    with pytest.raises(ZeroDivisionError), workers(2):
        each(lambda i: 1 // i, range(3))


def test_who_shares_work_out_takes_part_in_it() -> None:
    def who(_: int) -> int:
        time.sleep(0.01)
        return threading.get_ident()

    with workers(2):
        assert each(who, range(8)).count(threading.get_ident()) >= 2
        waiting = beside(lambda: each(asleep, range(2)))  # the other thread is taken: then it is all done here
        assert each(lambda i: i, range(3)) == [0, 1, 2]
        assert waiting() == [0, 1]


def test_what_nobody_joined_in_time_keeps_no_arrays() -> None:
    values = np.ones(10)
    alive = weakref.ref(values)

    def total(_: int, held: Array = values) -> float:
        return float(held.sum())

    with workers(2):
        waiting = beside(lambda: each(asleep, range(4)))  # takes both threads that there are beside this one
        time.sleep(0.1)
        assert each(total, range(2)) == [10, 10]
        del values, total
        gc.collect()
        assert alive() is None
        waiting()


def test_after_a_fault_no_further_part_is_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        if number == 0:
            raise IndexError

    with workers(2), pytest.raises(IndexError):
        each(work, range(50))
    assert len(begun) < 10


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_caller_says_of_numpys_faults_holds_for_every_part(threads: int) -> None:
    def divided(x: float) -> float:
        return float(np.divide(np.float64(x), 0))

    with workers(threads):
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
            each(divided, [1.0, 2.0])
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert each(divided, [1.0, 2.0]) == [np.inf, np.inf]
        assert each(lambda i: each(lambda j: i * j, range(3)), range(3)) == [[0, 0, 0], [0, 1, 2], [0, 2, 4]]


def test_work_beside_goes_on_while_its_caller_does() -> None:
    assert beside(lambda: 3)() == 3
    with workers(2):
        start = time.perf_counter()
        waiting = beside(lambda: asleep(4))
        asleep(5)
        assert waiting() == 4
        assert time.perf_counter() - start < 0.55  # one after the other: 0.6
        start = time.perf_counter()
        assert beside(lambda: each(asleep, range(2)))() == [0, 1]  # what it shares out is shared out
        assert time.perf_counter() - start < 0.55
        assert beside(threading.get_ident)() != threading.get_ident()
        assert beside(threading.get_ident, HELD + 1)() == threading.get_ident()  # nothing comes on top of much
    with workers(2), pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0)()


def test_work_beside_work_is_done_at_once() -> None:
    def deep(levels: int) -> int:
        return 0 if levels == 0 else 1 + beside(lambda: deep(levels - 1))()

    with workers(2):
        waiting = [beside(lambda: deep(4)) for _ in range(6)]  # more than there are threads, and each waits for others
        assert [found() for found in waiting] == [4] * 6


@pytest.mark.parametrize("threads", [1, 3])
def test_work_behind_is_done_in_its_order_and_its_faults_are_told(threads: int) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.01 / number)
        return number

    def fail(_: int) -> None:
        raise ZeroDivisionError

    def last_fails() -> None:
        behind = Behind()
        for number in range(1, 6):
            behind.do(partial(work, number), done.append)
        behind.do(partial(work, 6), fail)
        behind.finish()

    with workers(threads), pytest.raises(ZeroDivisionError):
        last_fails()
    assert done == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("held", "alone"), [(HELD, True), (HELD + 1, False)])
def test_who_would_wait_for_work_behind_finds_what_is_next(held: int, alone: bool) -> None:
    """But not of much, of which the second would be held beside the first."""
    begun, go, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        assert go.wait(10 if alone else 0.1) == alone
        order.append("found 1")

    def second() -> None:
        order.append("found 2")
        go.set()

    with workers(2):
        behind = Behind()
        behind.do(first, lambda _: order.append("took 1"))
        assert begun.wait(10)
        behind.do(second, lambda _: order.append("took 2"), held)
        behind.finish()
    assert [step for step in order if "took" in step] == ["took 1", "took 2"]
    assert (order.index("found 2") < order.index("took 1")) == alone


@pytest.mark.parametrize(("rows", "work"), [(1, 1e12), (5, 0), (160, 1e12), (160, 3 * EACH), (17, 1e12)])
def test_parts_hold_every_row_once(rows: int, work: float) -> None:
    cut = parts(rows, work)
    assert [i for part in cut for i in range(rows)[part]] == list(range(rows))
    assert len(cut) <= 16
    assert len(parts(rows, EACH)) == 1


def test_as_many_parts_are_worked_on_at_once_as_there_are_threads() -> None:
    assert at_once() == 1
    with workers(3):
        assert at_once() == 3
        assert each(lambda _: at_once(), [0, 1]) == [1, 1]
