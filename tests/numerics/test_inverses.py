"""Inverses by Cholesky factors."""

import numpy as np
import pytest

from onnx_udfc.numerics.inverses import inverse


def covariance(rows: int, condition: float) -> np.ndarray:
    rng = np.random.default_rng(rows)
    turned, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    return np.asarray(turned * np.geomspace(1, condition, rows) @ turned.T)


@pytest.mark.parametrize("rows", [1, 2, 47, 48, 49, 97, 300])
def test_times_the_matrix_it_is_one(rows: int) -> None:
    matrix = covariance(rows, 1e4)
    found = inverse(matrix)
    np.testing.assert_allclose(found @ matrix, np.eye(rows), atol=1e-10)
    np.testing.assert_array_equal(found, found.T)


def test_it_is_nearer_than_that_of_numpy() -> None:
    matrix = covariance(576, 1e6)
    missed = [abs(found @ matrix - np.eye(576)).max() for found in (inverse(matrix), np.linalg.inv(matrix))]
    assert missed[0] < missed[1]


def test_what_is_not_positive_definite_is_refused() -> None:
    for matrix in (np.zeros((3, 3)), np.diag([1.0, -1.0]), np.ones((60, 60)) - np.eye(60)):
        with pytest.raises(np.linalg.LinAlgError):
            inverse(matrix)
