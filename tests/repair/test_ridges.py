"""How near a fit stays to the original weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_udfc.numerics.layer_fit import Sight
from onnx_udfc.repair.refit import RIDGE_DRIFTED, RIDGE_FACTORED, RIDGE_PRUNED, _Repair
from onnx_udfc.repair.repaired import RepairSettings

LAYER: Any = SimpleNamespace(name="layer")


def ridge(positions: int, *, cut: bool, second: bool = False, **settings: Any) -> float:
    """That of a layer of 96 unknowns whose targets differ from what its weights give by noise alone."""
    rng = np.random.default_rng(0)
    patches, weight = rng.standard_normal((1, positions, 96)).astype(np.float32), rng.standard_normal((1, 8, 96))
    noise = 2 * rng.standard_normal((1, positions, 8)).astype(np.float32)
    sight = Sight(patches, patches @ weight.transpose(0, 2, 1).astype(np.float32) + noise)
    repair: Any = SimpleNamespace(seconds={"layer"} if second else set(), settings=RepairSettings(**settings))
    return _Repair._ridge(repair, LAYER, sight, weight, cut=cut)


@pytest.mark.parametrize("positions", [60, 300])
def test_a_layer_of_few_samples_that_lost_inputs_stays_as_near_as_one_that_lost_none(positions: int) -> None:
    assert ridge(positions, cut=True) > 10 * RIDGE_PRUNED
    assert ridge(positions, cut=False) >= ridge(positions, cut=True)


def test_one_of_many_samples_is_fitted_freely() -> None:
    assert ridge(4096, cut=True) == RIDGE_PRUNED
    assert ridge(4096, cut=False) > RIDGE_DRIFTED


def test_methods_of_their_own_and_layers_in_two_keep_their_ridge() -> None:
    assert ridge(300, cut=True, solve=lambda *_: np.zeros(0)) == RIDGE_PRUNED
    assert ridge(300, cut=True, second=True) == RIDGE_FACTORED
