"""Latency ratios: the arithmetic on rounds, and a file against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_udfc.evaluate.validate import validate
from onnx_udfc.options import Judging
from onnx_udfc.runtime.latency import Round, paired_latency, summarize


def test_latency_is_the_median_of_paired_ratios() -> None:
    pairs = [(1.0, 0.5), (2.0, 1.0), (1.0, 9.0), (4.0, 2.0), (1.0, 0.6)]
    found = summarize([Round(a, b) for a, b in pairs])
    assert found.ratio == 0.5
    assert found.low == 0.5
    assert found.high == 9.0
    assert found.rounds == 5
    assert found.original_ms == 1000


def test_disturbed_rounds_count_only_where_there_are_no_others() -> None:
    disturbed = [Round(1.0, 7.0, True)] * 20
    found = summarize([*disturbed, *[Round(1.0, 0.5)] * 12])
    assert (found.ratio, found.rounds, found.disturbed) == (0.5, 12, 20)
    found = summarize([*disturbed, *[Round(1.0, 0.5)] * 11])
    assert (found.ratio, found.rounds, found.disturbed) == (7.0, 31, 0)


def test_latency_of_a_run_that_does_twice_as_much() -> None:
    def work(n: int) -> Any:
        return lambda: sum(i * i for i in range(n))

    found = paired_latency(lambda: work(20_000), lambda: work(40_000), seconds=1.0)
    assert 1.7 < found.ratio < 2.3
    assert found.low <= found.ratio <= found.high


def test_latency_of_a_file_with_itself_is_one(assets: Path) -> None:
    path = assets / "models" / "resnet56_cifar10_bn.onnx"
    ratios = []
    for _ in range(3):  # a loaded machine may disturb one measurement, not three
        found = validate(path, path, Judging(limit=1, memory=False, seconds=6, threads=1))
        assert found.latency is not None
        ratios.append(found.latency.ratio)
        if 0.97 <= found.latency.ratio <= 1.03:
            return
    pytest.fail(f"ratios of a file with itself: {ratios}")


def test_networks_that_take_long_are_timed_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four fresh sessions of five runs each took minutes of networks of seconds."""
    now, runs = [0.0], [0, 0]

    def slow(which: int) -> Any:
        def run() -> None:
            runs[which] += 1
            now[0] += 3.0

        return run

    monkeypatch.setattr("onnx_udfc.runtime.latency.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("onnx_udfc.runtime.latency.time.thread_time", lambda: now[0])
    found = paired_latency(lambda: slow(0), lambda: slow(1), seconds=0.4)
    assert (found.ratio, found.rounds, runs) == (1.0, 3, [4, 4])
