"""How outputs move: centred sums against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.evaluate.movement import MAX_DB, Movement

RNG = np.random.default_rng(0)


def moved(y: np.ndarray, z: np.ndarray, batch: int = 5) -> Movement:
    movement = Movement()
    for start in range(0, len(y), batch):
        movement.add(y[start : start + batch], z[start : start + batch])
    return movement


def test_the_sums_are_the_formula_whatever_the_batches() -> None:
    y = RNG.standard_normal((13, 6, 3)) * [1, 10, 0.1] + 50
    z = y + RNG.standard_normal(y.shape) * [0.1, 2, 0.005] + [0, 0, 0.01]
    centred, other = y - y.mean(0), z - z.mean(0)
    ratios = (centred**2).sum((0, 1)) / ((y - z) ** 2).sum((0, 1))
    cosines = (centred * other).sum((0, 1)) / np.sqrt((centred**2).sum((0, 1)) * (other**2).sum((0, 1)))
    for batch in (1, 4, 13):
        found = moved(y, z, batch).result()
        assert found.moving == 1
        assert found.sqnr_db == pytest.approx(10 * np.log10(np.median(ratios)), rel=1e-6)
        assert found.worst_db == pytest.approx(10 * np.log10(ratios.min()), rel=1e-6)
        assert found.worst_column == int(ratios.argmin())
        assert found.cosine == pytest.approx(np.median(cosines), rel=1e-6)
        assert found.worst_cosine == pytest.approx(cosines.min(), rel=1e-6)


def test_anchors_do_not_count_as_signal() -> None:
    anchors = RNG.uniform(0, 1000, (1, 40, 4))
    y, z = (anchors + RNG.standard_normal((20, 40, 4)) for _ in range(2))  # what moves has nothing in common
    found = moved(y, z).result()
    assert found.sqnr_db is not None
    assert found.sqnr_db == pytest.approx(-3, abs=0.5)
    assert abs(found.cosine or 0) < 0.15


def test_what_does_not_move_was_not_measured() -> None:
    y = np.full((10, 4, 2), 3.0) + RNG.uniform(-1e-6, 1e-6, (10, 4, 2))
    found = moved(y, y + 1).result()
    assert (found.sqnr_db, found.cosine, found.worst_db, found.moving) == (None, None, None, 0)
    assert moved(RNG.standard_normal((1, 4, 2)), np.zeros((1, 4, 2))).result().sqnr_db is None  # one input only


def test_still_columns_are_left_out_and_a_still_result_is_told() -> None:
    y = RNG.standard_normal((10, 4, 2)) * [1, 0] + 5
    found = moved(y, y + RNG.standard_normal((10, 4, 2)) * 0.1).result()
    assert found.moving == 0.5
    assert found.worst_column == 0
    assert not found.still
    assert moved(y, np.full_like(y, 5)).result().still


def test_the_same_is_the_same() -> None:
    y = RNG.standard_normal((10, 4, 2))
    found = moved(y, y).result()
    assert (found.sqnr_db, found.cosine) == (MAX_DB, 1.0)


def test_samples_of_any_size_share_the_mean_of_a_column() -> None:
    first, second = RNG.standard_normal((2, 6, 3)) + 9, RNG.standard_normal((2, 8, 3)) + 9
    movement = Movement()
    for y in (first, second):
        movement.add(y, y + 0.1)
    rows = np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])
    ratios = ((rows - rows.mean(0)) ** 2).sum(0) / (0.01 * len(rows))
    assert movement.result().sqnr_db == pytest.approx(10 * np.log10(np.median(ratios)), rel=1e-6)
