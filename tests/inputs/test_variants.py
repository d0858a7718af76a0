"""Variants of a few real pictures stand beside them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.inputs.kinds import Wanted
from onnx_udfc.inputs.network_inputs import with_variants
from onnx_udfc.runtime.runs import InputSpec


def wanted(*shape: int | None, dtype: type = np.float32) -> tuple[Wanted, ...]:
    spec = InputSpec("x", shape, np.dtype(dtype))
    return (Wanted(spec, tuple(d or 1 for d in shape)),)


def pictures(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).uniform(-1, 2, shape).astype(np.float32)}


@pytest.mark.parametrize("shape", [(None, 3, 8, 12), (None, 8, 12, 3)])
def test_they_come_after_the_real_ones_and_stay_between_them(shape: tuple[int | None, ...]) -> None:
    real = pictures(6, *(d or 0 for d in shape[1:]))
    found = with_variants(wanted(*shape), real, 40, seed=0)["x"]
    assert found.shape == (40, *shape[1:])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:6], real["x"])
    assert found.min() >= real["x"].min()
    assert found.max() <= real["x"].max()
    assert len(np.unique(found.reshape(40, -1), axis=0)) > 30
    np.testing.assert_array_equal(found, with_variants(wanted(*shape), real, 40, seed=0)["x"])
    assert (found != with_variants(wanted(*shape), real, 40, seed=1)["x"]).any()


def test_a_fixed_batch_stays_whole() -> None:
    assert len(with_variants(wanted(4, 3, 8, 8), pictures(8, 3, 8, 8), 22, seed=0)["x"]) == 20


def test_whole_pixels_stay_whole() -> None:
    real = {"x": np.random.default_rng(0).integers(20, 200, (5, 3, 8, 8)).astype(np.uint8)}
    found = with_variants(wanted(None, 3, 8, 8, dtype=np.uint8), real, 30, seed=0)["x"]
    assert found.dtype == np.uint8
    assert found[5:].min() >= real["x"].min()
    assert found[5:].max() <= real["x"].max()


def test_where_there_are_enough_or_no_pictures_nothing_is_added() -> None:
    many = pictures(30, 3, 8, 8)
    assert with_variants(wanted(None, 3, 8, 8), many, 20, seed=0) is many
    codes = {"x": np.arange(40).reshape(4, 10)}
    assert with_variants(wanted(None, 10, dtype=np.int64), codes, 20, seed=0) is codes
    one = pictures(1, 3, 8, 8)
    assert with_variants(wanted(None, 3, 8, 8), one, 20, seed=0) is one
