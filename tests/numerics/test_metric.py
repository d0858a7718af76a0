"""How errors of a layer's outputs count."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.numerics.metric import ROWS, WIDE, Metric, agreed, importances, metric, movement


def informed(outputs: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit (O,), outputs (n, O) and F (O, O)."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(500, outputs)) @ rng.normal(size=(outputs, outputs)) + 3).astype(np.float32)
    root = rng.normal(size=(2, outputs))
    return np.exp(rng.normal(size=outputs)), values, root.T @ root


def test_all_of_the_variance_counts_as_one() -> None:
    unit, outputs, information = informed()
    found = metric(unit, outputs, information)
    errors = found.scaled((outputs - outputs.mean(0)).T[None].astype(np.float64))[0]
    assert np.square(errors).sum(0).mean() == pytest.approx(1, rel=1e-4)


def test_what_the_answers_do_not_mind_counts_less() -> None:
    unit, outputs, information = informed()
    found = metric(unit, outputs, information)
    silent = np.linalg.svd(information)[2][-1]  # a direction that F does not see
    loud = np.linalg.svd(information)[2][0]
    counts = [float(np.square(found.scaled(v[None, :, None])).sum()) for v in (silent, loud)]
    assert 0 < counts[0] < counts[1] / 3


def test_scaled_and_back() -> None:
    unit, outputs, information = informed()
    rows = np.random.default_rng(1).normal(size=(1, 6, 9))
    for found in (metric(unit, outputs, information), Metric(unit)):
        np.testing.assert_allclose(found.unscaled(found.scaled(rows)), rows, rtol=1e-9)


def test_groups_do_not_mix() -> None:
    unit, outputs, information = informed()
    found = metric(unit, outputs, information, groups=3)
    rows = np.random.default_rng(1).normal(size=(3, 2, 9))
    scaled = found.scaled(rows)
    rows[1:] = 0
    np.testing.assert_array_equal(found.scaled(rows)[0], scaled[0])
    assert found.matrix is not None
    alone = Metric(unit[:2], found.matrix[:2, :2])
    np.testing.assert_allclose(alone.scaled(rows[:1])[0], scaled[0], rtol=1e-12)


def test_of_some_channels_the_others_are_gone() -> None:
    unit, outputs, information = informed()
    found, kept = metric(unit, outputs, information), np.array([0, 2, 5])
    error = np.zeros((1, 6, 1))
    error[0, kept, 0] = [1.0, -2.0, 0.5]
    whole, part = found.scaled(error), found.among(kept).scaled(error[:, kept])
    assert np.square(part).sum() == pytest.approx(np.square(whole).sum(), rel=1e-9)


@pytest.mark.parametrize("information", [None, np.zeros((6, 6)), np.full((6, 6), np.nan)])
def test_without_knowledge_channels_count_by_their_units(information: np.ndarray | None) -> None:
    unit, outputs, _ = informed()
    rows = np.ones((1, 6, 1))
    np.testing.assert_allclose(metric(unit, outputs, information).scaled(rows)[0, :, 0], 1 / unit, rtol=1e-12)


def test_halves_that_agree_are_believed() -> None:
    information = informed()[2]
    np.testing.assert_allclose(agreed(information, information), information, rtol=1e-12)


def test_of_halves_that_do_not_agree_the_diagonal_is_left() -> None:
    rng = np.random.default_rng(0)
    first, second = ((lambda v: v @ v.T)(rng.normal(size=(300, 4))) for _ in range(2))
    off = 1 - np.eye(300)
    found = agreed(first, second)
    assert np.abs(found * off).max() < 0.1 * np.abs((first + second) / 2 * off).max()
    np.testing.assert_allclose(np.diag(found), np.diag(first + second) / 2)


def test_of_many_channels_some_rows_tell_how_much_the_rest_weighs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows lie image after image, and later ones may be larger: the first of them would not do."""
    rng = np.random.default_rng(0)
    outputs = (rng.normal(size=(3 * ROWS, WIDE)) * np.linspace(0.5, 2, 3 * ROWS)[:, None]).astype(np.float32)
    root = rng.normal(size=(8, WIDE))
    some, again = (metric(np.ones(WIDE), outputs, root.T @ root).matrix for _ in range(2))
    monkeypatch.setattr("onnx_udfc.numerics.metric.ROWS", len(outputs))
    whole = metric(np.ones(WIDE), outputs, root.T @ root).matrix
    assert some is not None
    assert whole is not None
    off = ~np.eye(WIDE, dtype=bool)
    ratio = np.median(some[off] / whole[off])
    assert ratio == pytest.approx(1, abs=0.1)
    assert ratio != 1
    assert again == pytest.approx(some, abs=0)  # no chance in it


def test_outputs_are_scaled_like_rows() -> None:
    unit, outputs, information = informed()
    for found in (metric(unit, outputs, information), Metric(unit)):
        rows = found.scaled(outputs.T[None].astype(np.float64))[0].T
        np.testing.assert_allclose(found.of_outputs(outputs), rows, rtol=1e-4, atol=1e-4 * np.abs(rows).max())


def test_all_that_a_layer_writes_moves_the_answers_by_the_trace() -> None:
    _, outputs, information = informed()
    covariance = np.cov(outputs.astype(np.float64).T, bias=True)
    assert movement(outputs, information) == pytest.approx(np.trace(information @ covariance), rel=1e-4)
    own = np.diag(np.diag(information))
    assert movement(outputs, np.diag(information)) == pytest.approx(movement(outputs, own), rel=1e-4)


def test_late_layers_that_move_the_answers_most_count_most() -> None:
    early, late = importances([100.0, 1.0, 1.0, 1.0]), importances([1.0, 1.0, 100.0, 1.0])
    assert early == [1.0] * 4  # all others behind it repair what it loses
    assert late == pytest.approx([1.0, 1.0, (100 / 100**0.25) ** 0.5, 1.0])
    assert importances([3.0, 3.0]) == [1.0, 1.0]
    assert importances([]) == []
