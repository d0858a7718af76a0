"""Few samples: shrunk toward the diagonal, and no channel looks free."""

from __future__ import annotations

import numpy as np

from onnx_udfc.numerics.elimination import ConsumerInput, eliminate
from onnx_udfc.numerics.moments import covariance, shrinkage, shrunk_covariance


def test_enough_samples_change_nothing() -> None:
    patches = np.random.default_rng(0).standard_normal((1, 64, 32)).astype(np.float32)
    assert np.array_equal(shrunk_covariance(patches), covariance(patches))


def test_the_diagonal_stays_and_the_rest_shrinks() -> None:
    patches = np.random.default_rng(0).standard_normal((2, 16, 24)).astype(np.float32)
    full, shrunk = covariance(patches), shrunk_covariance(patches)
    rest = full - np.stack([np.diag(np.diag(g)) for g in full])
    share = shrinkage(16, 24)
    assert 0 < share < 1
    np.testing.assert_allclose(shrunk, full - share * rest, rtol=1e-12)


def test_the_share_falls_steadily_to_zero() -> None:
    shares = [shrinkage(n, 100) for n in (1, 50, 100, 150, 200, 400)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-2:] == [0.0, 0.0]


def test_independent_channels_are_not_free_with_few_samples() -> None:
    """Every channel carries the same power; removing half must cost about half, not nothing."""
    patches = np.random.default_rng(0).standard_normal((1, 24, 128)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((128, 10)) / np.sqrt(1280)
    rows = np.arange(128)[:, None]
    trusted = eliminate([ConsumerInput(shrunk_covariance(patches)[0], weight, rows)], 128, 0.01)
    naive = eliminate([ConsumerInput(covariance(patches)[0], weight, rows)], 128, 0.01)
    assert naive.cost[:64].sum() < 0.05
    assert trusted.cost[:64].sum() > 0.2
