"""The inverse of a positive definite matrix by halves, nearly all of it matrix products.

With S = D − Bᵀ A⁻¹ B the Schur complement of the first half and T = A⁻¹ B,

    ⎡A  B⎤⁻¹   ⎡A⁻¹ + T S⁻¹ Tᵀ   −T S⁻¹⎤
    ⎣Bᵀ D⎦   = ⎣    −S⁻¹ Tᵀ        S⁻¹ ⎦

A few times as fast as the general inverse of LAPACK, and as exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]

_SMALL = 192  # rows that LAPACK inverts


def inverse_of(system: Double) -> Double:
    """Inverse (d, d) of a symmetric positive definite matrix, which is not changed.

    Raises:
        numpy.linalg.LinAlgError: it is singular.
    """
    half = len(system) // 2
    if len(system) <= _SMALL:
        return np.asarray(np.linalg.inv(system), np.float64)
    found = np.empty_like(system)
    across = system[:half, half:]
    first = inverse_of(system[:half, :half])
    turned = first @ across
    second = inverse_of(system[half:, half:] - across.T @ turned)
    corner = turned @ second
    np.add(first, corner @ turned.T, out=found[:half, :half])
    np.negative(corner, out=found[:half, half:])
    found[half:, :half], found[half:, half:] = found[:half, half:].T, second
    return found
