"""Latency as a paired ratio: both networks run in turn, so that what slows the machine slows both.

Each round times A and B back to back, the first alternating; the figure is the median over rounds of B/A. Rounds in
which the system took the processor away (the thread's own time falls short of the time that passed) are left out where
enough others remain: on a busy machine they fall on one of the two by accident. The spread is the distribution-free
95 % interval of a median: the order statistics at n/2 ± 0.98·√n. Sessions are made anew a few times, because where a
session's memory happens to lie moves its time by some percent. Where one thread computes all, and nothing but the ratio
is wanted, its processor time is the figure. A run may leave its values where they are computed, without the copies that
a caller's arrays cost.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_udfc.runtime.providers import CPU_NAME, Provider

RESTARTS = 4
MIN_ROUNDS = 3
ENOUGH = 12
TAKEN_AWAY = 0.03  # share of the time that the thread did not have, above which a round is disturbed
SLOW = 10.0  # seconds after which networks that take long for a run are told from what there is
CLOCK = 20e-6  # seconds by which the two clocks may differ


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of both, the median paired ratio (compressed / original) and its 95 % interval.

    Attributes:
        original_ms: Median time of one run of the original.
        compressed_ms: The same of the compressed network.
        ratio: Median over rounds of compressed / original.
        low: Lower end of the interval of that median.
        high: Upper end.
        rounds: Rounds that count.
        disturbed: Rounds that were left out.
    """

    original_ms: float
    compressed_ms: float
    ratio: float
    low: float
    high: float
    rounds: int
    disturbed: int = 0


@dataclass(frozen=True)
class Round:
    """Seconds that one run of each took, and whether the processor was taken away meanwhile."""

    first: float
    second: float
    disturbed: bool = False


Run = Callable[[], object]


def paired_latency(
    make_first: Callable[[], Run],
    make_second: Callable[[], Run],
    seconds: float = 4.0,
    longest: float | None = None,
    *,
    one_thread: bool = False,
) -> Latency:
    """Time two runs in turn for about `seconds`.

    Args:
        make_first: Gives a fresh run of A.
        make_second: Gives a fresh run of B.
        seconds: Time to spend, without the making.
        longest: Time to spend at most where there are not enough undisturbed rounds yet; None is `seconds`.
        one_thread: The calling thread alone computes, so that its processor time counts, which nothing disturbs.
    """
    rounds: list[Round] = []
    begun = time.perf_counter()
    for restart in range(RESTARTS):
        if rounds and time.perf_counter() - begun > max(SLOW, longest or seconds):
            break
        if restart % 2:
            second, first = make_second(), make_first()
        else:
            first, second = make_first(), make_second()
        timed = _processor if one_thread else _timed
        rounds += _rounds(first, second, timed, seconds / RESTARTS, (longest or seconds) / RESTARTS)
    return summarize(rounds)


def _rounds(
    first: Run, second: Run, timed: Callable[[Run], tuple[float, bool]], seconds: float, longest: float
) -> list[Round]:
    """Return rounds in alternating order, after a warm-up."""
    begun = time.perf_counter()
    for run in (first, second):
        run()
    for run in (first, second) if time.perf_counter() - begun < SLOW / RESTARTS else ():
        run()
    result: list[Round] = []
    start, calm = time.perf_counter(), 0
    while len(result) < MIN_ROUNDS or time.perf_counter() - start < (seconds if calm >= ENOUGH else longest):
        if len(result) % 2:
            b, a = timed(second), timed(first)
        else:
            a, b = timed(first), timed(second)
        result.append(Round(a[0], b[0], a[1] or b[1]))
        calm += not result[-1].disturbed
    return result


def _timed(run: Run) -> tuple[float, bool]:
    """Return the seconds of one run, and whether this thread lacked the processor for a part of them."""
    busy, start = time.thread_time(), time.perf_counter()
    run()
    passed = time.perf_counter() - start
    busy = time.thread_time() - busy
    return passed, passed - busy > TAKEN_AWAY * passed + CLOCK


def _processor(run: Run) -> tuple[float, bool]:
    """Return the seconds that this thread had the processor for one run; never disturbed."""
    start = time.thread_time()
    run()
    return max(time.thread_time() - start, 1e-9), False


def summarize(rounds: Sequence[Round]) -> Latency:
    """Return medians and the interval of the ratio's median, of undisturbed rounds if there are enough."""
    calm = [r for r in rounds if not r.disturbed]
    used = calm if len(calm) >= ENOUGH else list(rounds)  # with several threads, or on a GPU, no round is calm
    ratios = sorted(r.second / r.first for r in used)
    n = len(ratios)
    half = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return Latency(
        original_ms=1e3 * statistics.median(r.first for r in used),
        compressed_ms=1e3 * statistics.median(r.second for r in used),
        ratio=statistics.median(ratios),
        low=ratios[low],
        high=ratios[high],
        rounds=n,
        disturbed=len(rounds) - n,
    )


def run_on_device(session: ort.InferenceSession, feeds: Mapping[str, NDArray[np.generic]], provider: Provider) -> Run:
    """A run whose inputs lie on the provider's device before it and whose outputs stay there; it ends when they do.

    Args:
        session: of that provider.
        feeds: input name → value.
        provider: where the values lie; of several devices the one that its settings name.
    """
    here = session.get_providers()[:1] == [CPU_NAME]
    device, number = ("cpu", 0) if here else ("cuda", int(provider.settings.get("device_id", "0")))
    binding = session.io_binding()
    given = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
    for name, value in given.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, number))
    for output in session.get_outputs():
        binding.bind_output(output.name, device, number)

    def run(_held: object = given) -> None:  # the memory that runs on the processor read; the binding does not hold it
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
