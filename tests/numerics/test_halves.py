"""What float16 holds, by hand."""

from __future__ import annotations

import numpy as np

from onnx_udfc.numerics.halves import Span, holds, span_of


def test_span_by_hand() -> None:
    found = span_of(np.array([[0.0, -3.0], [1.0, 2.0]], np.float32))
    assert found == Span(3.0, True, 0.0)
    assert span_of(np.array([0.5, 0.25], np.float32)) == Span(0.5, False, 0.0)
    assert span_of(np.zeros((0, 3), np.float32)) == Span()


def test_too_large_values_do_not_fit() -> None:
    assert span_of(np.array([16000.5], np.float32)).fits
    assert not span_of(np.array([17000.5], np.float32)).fits  # another input may cause four times as much
    assert not span_of(np.array([np.inf, 0.5], np.float32)).fits


def test_whole_numbers_that_are_not_exact_do_not_fit() -> None:
    assert span_of(np.array([2048.0, 3.0], np.float32)).fits
    assert not span_of(np.array([2049.0, 3.0], np.float32)).fits


def test_small_values_are_told_by_what_is_lost() -> None:
    values = np.random.default_rng(0).uniform(0.5, 1, 1000).astype(np.float32)
    assert not span_of(values).small
    assert not span_of(values * np.float32(2.0**-13)).small
    assert span_of(values * np.float32(2.0**-18)).small


def test_the_worse_of_two() -> None:
    assert Span(3.0, True, 0.5).joined(Span(4.0, False, 0.0)) == Span(4.0, False, 0.5)


def test_constants() -> None:
    assert holds(np.array([1.0, 1e-7], np.float32))  # what is lost is nothing beside the other
    assert not holds(np.array([1e-8], np.float32))  # would be 0: an epsilon
    assert not holds(np.array([7e4], np.float32))
    assert holds(np.array([0.0], np.float32))
