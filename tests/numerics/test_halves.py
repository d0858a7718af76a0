"""What float16 holds, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.halves import Span, holds, rounded_filters, span_of


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


def test_rounded_filters_keep_their_sums() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 20, (32, 1, 3, 3)).astype(np.float32)
    weight[:, :, 1, 1] -= weight.sum((2, 3))  # they give nothing on a constant
    weight[:, :, 0, 0] = 1e-2
    plain, found = (half.astype(np.float64) for half in (weight.astype(np.float16), rounded_filters(weight)))
    exact = weight.astype(np.float64).sum((2, 3))
    assert np.abs(found.sum((2, 3)) - exact).max() < 1e-3 * np.abs(plain.sum((2, 3)) - exact).max()
    others = np.ones((3, 3), bool)
    others[0, 0] = False
    np.testing.assert_array_equal(found[..., others], plain[..., others])


@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (8, 4, 1, 1), (8, 4, 3, 3)])
def test_other_filters_are_rounded_to_the_nearest(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(rounded_filters(weight), weight.astype(np.float16))
