"""Plots of points: round ticks, and everything at its place."""

from __future__ import annotations

import re

import pytest

from onnx_udfc.evaluate.scatter import Dot, scatter, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.06, [0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 0.5, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (87.3, 92.1, [88, 89, 90, 91, 92]),
        (-3.0, 40.0, [0, 10, 20, 30, 40]),
        (0.0, 3e-9, [0, 1e-9, 2e-9, 3e-9]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_dots_are_at_their_places() -> None:
    page = scatter([Dot(1.0, 10.0, "a"), Dot(0.5, 20.0, "b <c>", "front", "1")], "bytes", "dB")
    places = re.findall(r'class="dot (\w+)" style="left:([\d.]+)%;top:([\d.]+)%" title="([^"]*)"', page)
    assert [(kind, title) for kind, _, _, title in places] == [("plain", "a"), ("front", "b &lt;c&gt;")]
    (x1, y1), (x2, y2) = ((float(x), float(y)) for _, x, y, _ in places)
    assert x1 == pytest.approx(2 * x2, rel=1e-3)
    assert x1 == pytest.approx(100 / 1.06, rel=1e-3)
    assert y2 == pytest.approx(100 * 0.06 / 1.12, abs=0.01)
    assert y1 == pytest.approx(100 - y2, abs=0.01)


def test_one_point_alone_is_a_plot() -> None:
    for dot in (Dot(0.0, 0.0, "zero"), Dot(1.0, -5.0, "below")):
        assert scatter([dot], "x", "y").count('class="dot') == 1
