"""How much a network's answers say about which input it was given."""

import numpy as np
import pytest

from onnx_udfc.inputs.reaction import MOST_CLASSES, information, informations, mixed, probabilities, ratings, read_maps


def test_sure_and_different_answers_say_all_and_equal_ones_nothing() -> None:
    sure = np.eye(4, dtype=np.float32)
    assert information(sure) == pytest.approx(np.log(4), rel=1e-6)
    assert information(np.repeat(sure[:1], 4, axis=0)) == pytest.approx(0, abs=1e-12)
    assert information(np.full((6, 4), 0.25, np.float32)) == pytest.approx(0, abs=1e-6)
    assert information(100 * sure) == pytest.approx(np.log(4), rel=1e-6)  # logits


def test_mutual_information_is_that_of_its_definition() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 7)
    mean = p.mean(0)
    exact = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum(1).mean()
    assert information(p) == pytest.approx(exact, rel=1e-9)
    assert information(np.log(p)) == pytest.approx(exact, rel=1e-9)


def test_rows_over_positions_and_maps_are_read_as_probabilities() -> None:
    blank = np.zeros((3, 5, 4))
    blank[..., 0] = 1
    assert information(blank) == pytest.approx(0, abs=1e-12)
    read = blank.copy()
    read[:, 2] = np.eye(4)[1]
    assert information(read) == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), rel=1e-6)
    first, last = probabilities(np.moveaxis(read, 2, 1)), probabilities(read)
    assert first is not None
    assert last is not None
    np.testing.assert_allclose(first, last)
    nothing = np.full((2, 1, 6, 6), 1e-9)
    assert information(nothing) == pytest.approx(0, abs=1e-6)
    found = nothing.copy()
    found[:, :, :3] = 1 - 1e-9
    assert information(found) == pytest.approx(np.log(2), rel=1e-4)


def test_coordinates_whole_numbers_and_what_is_not_finite_are_not_rated() -> None:
    assert information(np.arange(12.0).reshape(2, 3, 2) * 40) is None
    assert information(np.ones((4, 3), np.int64)) is None
    assert information(np.array([[1.0, np.nan], [0.0, 1.0]])) is None
    assert information(np.ones((1, 3))) is None


def test_each_output_counts_alike_and_those_that_say_nothing_do_not() -> None:
    sure, half = np.eye(2), np.array([[0.75, 0.25], [0.25, 0.75]])
    same = np.full((2, 2), 0.5)
    rated = ratings({"a": [sure, half * 0 + 0.5, same], "b": [half, sure, same]})
    assert rated["a"] == pytest.approx(0.5)
    assert rated["b"] == pytest.approx((information(half) / np.log(2) + 1) / 2)
    assert ratings({"a": [same], "b": [same]}) == {}


def test_channels_of_maps_of_any_sign_are_answers_before_their_sigmoid() -> None:
    y = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    parts = read_maps(y, 1)
    assert [part.shape for part in parts] == [(4, 1, 8, 8)] * 3
    np.testing.assert_allclose(parts[1][:, 0], 1 / (1 + np.exp(-y[:, 1])), rtol=1e-6)
    for other, colours in ((y, 3), (y[:, :, :3], 1), (np.repeat(y, 22, 1), 1), (y[:, 0], 1), (y * np.inf, 1)):
        (same,) = read_maps(other, colours)  # a picture, points, features, steps, what is not finite
        assert same is other


def test_a_mixture_has_half_of_each() -> None:
    first, second = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[5.0], [6.0], [7.0], [8.0]])
    np.testing.assert_array_equal(mixed([first], [second])[0].ravel(), [1, 3, 6, 8])


def test_what_single_answers_say_has_the_mutual_information_as_its_mean() -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(5), 7)
    exact = (p * np.log(p / p.mean(0))).sum(1)
    np.testing.assert_allclose(informations(p), exact, rtol=1e-9)
    assert information(p) == pytest.approx(exact.mean(), rel=1e-9)


def test_a_map_laid_flat_is_no_row_of_classes() -> None:
    values = np.random.default_rng(0).normal(size=(2, MOST_CLASSES + 1)).astype(np.float32)
    assert information(values) is None
    assert information(values[:, 1:]) is not None
