"""What rounding is said to cost, for widths that are measured and for those between."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.decide.asked import AUTO_WIDTHS
from onnx_udfc.numerics.grids import FORMATS, round_nearest, search_scale
from onnx_udfc.numerics.moments import covariance
from onnx_udfc.repair.rounding import LEFT, MEASURED, rounding_damage


def problem(tails: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weight = rng.standard_t(tails, size=(2, 16, 36))
    patches = (rng.normal(size=(2, 400, 36)) @ rng.normal(size=(36, 36))).astype(np.float32)
    return weight, patches


def naive(weight: np.ndarray, patches: np.ndarray, bits: float) -> float:
    scale = search_scale(weight, FORMATS[bits])
    damage = round_nearest(weight, scale, FORMATS[bits]) * scale[..., None] - weight
    gram = covariance(patches)
    return LEFT * sum(float(d @ gram[g] @ d) for g in range(2) for d in damage[g]) / (3.0 * 2 * 16)


@pytest.mark.parametrize("tails", [3, 100])
def test_measured_widths_are_exact_and_those_between_near(tails: float) -> None:
    weight, patches = problem(tails)
    found = rounding_damage(weight, patches, 3.0, AUTO_WIDTHS)
    known = rounding_damage(weight, patches, 3.0, AUTO_WIDTHS, covariance(patches))
    assert list(found) == list(known) == list(AUTO_WIDTHS)
    for bits, damage in found.items():
        exact = naive(weight, patches, bits)
        assert known[bits] == pytest.approx(exact, rel=1e-9 if bits in MEASURED else 0.15)
        assert damage == pytest.approx(exact, rel=1e-5 if bits in MEASURED else 0.15)
    assert all(a < b for a, b in zip(found.values(), list(found.values())[1:], strict=False))


def test_nothing_asked_for_is_nothing_done() -> None:
    assert rounding_damage(*problem(3), 1.0, ()) == {}


def test_of_a_wide_layer_some_outputs_on_some_samples_tell_the_error_without_its_gram() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_t(5, size=(1, 300, 1100)) * rng.uniform(0.5, 2, (1, 300, 1))
    patches = (np.cumsum(rng.normal(size=(1, 2500, 1100)), axis=2) / 20 + 3).astype(np.float32)
    gram = covariance(patches)
    exact = {}
    for bits in MEASURED:
        scale = search_scale(weight, FORMATS[bits])
        damage = (round_nearest(weight, scale, FORMATS[bits]) * scale[..., None] - weight)[0]
        exact[bits] = LEFT * float(np.einsum("od,de,oe->", damage, gram[0], damage, optimize=True)) / (3.0 * 300)

    found = rounding_damage(weight, patches, 3.0, MEASURED)
    for bits in MEASURED:
        assert found[bits] == pytest.approx(exact[bits], rel=0.15)
