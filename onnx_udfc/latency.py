"""Latency as a paired ratio: both networks run in turn, so that what slows the machine slows both.

Each round times A and B back to back, the first alternating; the figure is the median over rounds of B/A. Its spread is
the distribution-free 95 % interval of a median: the order statistics at n/2 ± 0.98·√n. Sessions are made anew a few
times, because where a session's memory happens to lie moves its time by some percent.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESTARTS = 4
MIN_SAMPLE = 0.004  # seconds; shorter runs are repeated within one sample
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of both, the median paired ratio (compressed / original) and its 95 % interval."""

    original_ms: float
    compressed_ms: float
    ratio: float
    low: float
    high: float
    rounds: int


Run = Callable[[], object]


def paired_latency(make: Callable[[bool], tuple[Run, Run]], seconds: float = 4.0) -> Latency:
    """Time two runs in turn for about `seconds`.

    Args:
        make: Given whether B is made first, returns fresh (run A, run B).
        seconds: Time to spend, without the making.
    """
    samples: list[tuple[float, float]] = []
    for restart in range(RESTARTS):
        first, second = make(restart % 2 == 1)
        samples += _rounds(first, second, seconds / RESTARTS)
    return summarize(samples)


def _rounds(first: Run, second: Run, seconds: float) -> list[tuple[float, float]]:
    """Return pairs of seconds per run, in alternating order, after a warm-up."""
    repeats_first, repeats_second = _repeats(first), _repeats(second)
    result: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(result) < MIN_ROUNDS or time.perf_counter() < end:
        if len(result) % 2:
            b = _timed(second, repeats_second)
            result.append((_timed(first, repeats_first), b))
        else:
            a = _timed(first, repeats_first)
            result.append((a, _timed(second, repeats_second)))
    return result


def _repeats(run: Run) -> int:
    """Return how many runs make a sample of MIN_SAMPLE seconds, after two runs to warm up."""
    run()
    run()
    return max(1, math.ceil(MIN_SAMPLE / max(_timed(run, 1), 1e-7)))


def _timed(run: Run, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def summarize(samples: Sequence[tuple[float, float]]) -> Latency:
    """Return medians and the interval of the ratio's median from pairs of seconds."""
    ratios = sorted(b / a for a, b in samples)
    n = len(ratios)
    half = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return Latency(
        original_ms=1e3 * statistics.median(a for a, _ in samples),
        compressed_ms=1e3 * statistics.median(b for _, b in samples),
        ratio=statistics.median(ratios),
        low=ratios[low],
        high=ratios[high],
        rounds=n,
    )
