from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.sixteen_bits import SixteenBits, in_sixteen_bits
from tests.memory import taken


def test_each_column_keeps_its_own_range_and_its_ends() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(3000, 4)) * [1e-6, 1, 1e3, 0] + [0, 50, -1e4, 0]).astype(np.float32)
    held = in_sixteen_bits(samples)
    assert isinstance(held, SixteenBits)
    assert held.codes.dtype == np.int16
    error = np.abs(held[:] - samples)
    assert (
        error <= np.ptp(np.vstack([samples, np.zeros(4)]), 0) / 65534 / 2 + 2 * np.spacing(np.abs(samples).max(0))
    ).all()
    assert np.array_equal(held[:][:, 3], samples[:, 3])  # one value alone
    np.testing.assert_array_equal(held[10:20], held[:][10:20])
    np.testing.assert_array_equal(held[np.array([5, 2])], held[:][[5, 2]])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -3e38])
def test_what_is_not_finite_stays_as_it_is(bad: float) -> None:
    samples = np.ones((10, 2), np.float32)
    samples[3, 1] = bad
    assert in_sixteen_bits(samples) is samples


def test_no_samples_are_none() -> None:
    assert len(in_sixteen_bits(np.zeros((0, 3), np.float32))[:]) == 0


def test_it_takes_half_and_no_second_copy_on_the_way() -> None:
    samples = np.random.default_rng(0).normal(size=(200_000, 16)).astype(np.float32)
    _, most = taken(lambda: in_sixteen_bits(samples))
    assert most < 0.6 * samples.nbytes
