"""The inverse by halves."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc import inverse
from onnx_udfc.inverse import inverse_of


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 97])
def test_times_the_system_it_is_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse, "_SMALL", 5)
    x = np.random.default_rng(rows).normal(size=(3 * rows, rows)) * np.logspace(0, 2, rows)
    system = x.T @ x / len(x)
    before = system.copy()
    found = inverse_of(system)
    np.testing.assert_array_equal(system, before)
    np.testing.assert_allclose(found, found.T, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found @ system, np.eye(rows), atol=1e-9)


def test_a_singular_system_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        inverse_of(np.zeros((3, 3)))
