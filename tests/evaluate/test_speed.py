"""A result that is clearly slower where speed was asked for is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onnx_udfc.errors import CheckError
from onnx_udfc.evaluate import speed
from onnx_udfc.evaluate.final_check import asks_for_speed
from onnx_udfc.evaluate.report import Fidelity
from onnx_udfc.evaluate.verdict import Asked, certain_fault
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.latency import Latency
from tests.normed_graphs import CHAIN, scaled_model

FINE = Fidelity("synthetic", 50.0, 1.0, None)


class Session:
    """One whose run takes so many milliseconds, and says so."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds

    def run(self, _names: object, _feed: object) -> float:
        return self.milliseconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """In place of the real clock; the seconds that each look was given, each as sure as a tenth."""
    looks = []

    def paired(
        make_first: Callable[[], Any], make_second: Callable[[], Any], seconds: float, _longest: float | None = None
    ) -> Latency:
        looks.append(seconds)
        first, second = make_first(), make_second()
        ratio = second() / first()
        return Latency(first(), second(), ratio, 0.9 * ratio, 1.1 * ratio, 20)

    monkeypatch.setattr(speed, "open_session", lambda given, *_, **__: Session(given))
    monkeypatch.setattr(speed, "paired_latency", paired)
    return looks


@pytest.mark.parametrize(("original", "result", "found"), [
    (10.0, 5.0, None), (10.0, 12.0, None), (10.0, 15.0, 1.5), (0.1, 0.5, None),
])  # fmt: skip
def test_what_is_clearly_slower_is_said_to_be(
    clock: list[float], original: float, result: float, found: float | None
) -> None:
    assert speed.slower_by(original, result, {}, 1) == found  # type: ignore[arg-type]
    assert clock == list(speed.LOOKS if found else speed.LOOKS[:1])


def test_where_speed_is_asked_for() -> None:
    assert asks_for_speed(Options(bits=8, activations=8))
    assert asks_for_speed(Options(budget={"latency": 0.5}))
    assert not asks_for_speed(Options(bits=8))
    assert not asks_for_speed(Options(bits=8, activations=8, target="tensorrt"))


def test_slower_is_a_certain_fault() -> None:
    assert certain_fault(FINE, 9000, 5000, Asked(activations=True), 1.33) == (
        "the result takes 1.33 times the original's time on this machine; leave --activations out"
    )
    assert certain_fault(FINE, 9000, 5000, Asked(activations=True)) == ""


def test_it_is_refused_but_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_udfc.evaluate.final_check.slower_by", lambda *_: 1.5)
    model = scaled_model(CHAIN)
    with pytest.raises(CheckError, match=r"1\.50 times the original's time.*--force"):
        compress(model, Options(bits=8, activations=8, threads=1))
    report = compress(model, Options(bits=8, activations=8, threads=1, force=True)).report
    assert any("1.50 times" in text for text in report.warnings)
    assert not any("times the original" in t for t in compress(model, Options(bits=8, threads=1)).report.warnings)
