from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.factors import Split
from onnx_udfc.numerics.joint_refit import RIDGE, Reader, Shared, _sources, refit_together
from onnx_udfc.numerics.layer_fit import Bounds
from onnx_udfc.numerics.moments import covariance
from onnx_udfc.numerics.narrowing import Narrowing
from onnx_udfc.numerics.products import workers
from onnx_udfc.numerics.reconstruct import Factor

Floats = NDArray[np.float64]
RELU = Bounds(0.0, np.inf)


@dataclass
class Case:
    """A producer of 4 channels on `m` patches of 6 values, and readers of what 8 such channels gave."""

    patches: NDArray[np.float32]
    weight: Floats
    level: Floats
    readers: list[Reader]
    bounds: Bounds

    def refitted(self) -> tuple[Floats, Floats]:
        factor = Factor(covariance(self.patches[None]), 0.01)
        return refit_together(Shared(self.patches, self.bounds, self.readers), self.weight, self.level, factor)

    def error(self, weight: Floats, level: Floats) -> float:
        """Σ over readers of the part of the targets that the best ridge regression on the outputs leaves: naive."""
        p = self.patches.astype(np.float64)
        y = (p - p.mean(0)) @ weight.T + level
        outputs = np.clip(y, self.bounds.low, self.bounds.high)
        total = 0.0
        for reader in self.readers:
            places = padded(outputs if reader.windows is None else largest(outputs, reader.windows))
            seen = np.stack([np.concatenate([places[t, c] for c in range(len(weight))]) for t in reader.taps])
            start = reader.weight.T
            if reader.beside is not None and reader.beside_weight is not None:
                seen = np.concatenate([seen, reader.beside], axis=1)
                start = np.concatenate([start, reader.beside_weight.T])
            seen, t = seen - seen.mean(0), reader.targets - reader.targets.mean(0)
            gram = seen.T @ seen
            ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
            fit = np.linalg.solve(gram + ridge, seen.T @ t + ridge @ start)
            total += np.square(t - seen @ fit).sum() / np.square(t).sum()
        return total


def padded(values: Floats) -> Floats:
    """A row of zeros more."""
    return np.concatenate([values, np.zeros((1, values.shape[1]))])


def largest(values: Floats, windows: NDArray[np.int64]) -> Floats:
    """(q, K) of (m, K): the largest of each window, without the rows outside."""
    return np.stack([values[window[window < len(values)]].max(0) for window in windows])


def case(taps: int = 1, readers: int = 1, bounds: Bounds = RELU, seed: int = 0, *, pooled: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    m, d, full, kept = 600, 6, 8, 4
    p = (rng.normal(size=(m, d)) @ (np.eye(d) + 0.4 * rng.normal(size=(d, d)))).astype(np.float32)
    weight, level = rng.normal(size=(full, d)), rng.normal(size=full)
    y = np.clip((p - p.mean(0)) @ weight.T + level, bounds.low, bounds.high)
    made = []
    for _ in range(readers):
        windows = np.stack([rng.permutation(m) for _ in range(3)], axis=1) if pooled else None
        if windows is not None:
            windows[:9, 0], windows[9:20, 2] = m, m  # outside of the image
        rows = np.stack([rng.permutation(m) for _ in range(taps)], axis=1)
        rows[:5, -1] = m  # outside of the image
        places = padded(y if windows is None else largest(y, windows))
        read = rng.normal(size=(5, full, taps))
        targets = np.einsum("nkc,ock->no", places[rows], read).astype(np.float32)
        made.append(Reader(rows, targets, read[:, :kept].reshape(5, -1), windows))
    return Case(p, weight[:kept], level[:kept], made, bounds)


@pytest.mark.parametrize("bounds", [RELU, Bounds(0.0, 3.0)], ids=["relu", "clip"])
@pytest.mark.parametrize(("taps", "readers"), [(1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_readers_are_served_better(taps: int, readers: int, bounds: Bounds, pooled: bool) -> None:
    found = [case(taps, readers, bounds, seed, pooled=pooled) for seed in range(3)]
    before = sum(c.error(c.weight, c.level) for c in found)
    after = sum(c.error(*c.refitted()) for c in found)
    most = 0.85 if not pooled else 0.9 if bounds is RELU else 0.97  # the largest is often at the bound of the clip
    assert after < most * before


@pytest.mark.parametrize("outputs", [5, 40], ids=["few outputs", "many outputs"])
def test_channels_beside_are_part_of_the_regression(outputs: int) -> None:
    for seed in range(3):
        given, rng = case(2, seed=seed), np.random.default_rng(seed)
        (own,) = given.readers
        widened, read = rng.normal(size=(outputs, 5)), 3 * rng.normal(size=(outputs, 3))
        beside = rng.normal(1, 1, (len(own.targets), 3)).astype(np.float32)
        targets = (own.targets @ widened.T + beside @ read.T).astype(np.float32)
        seen = replace(given, readers=[Reader(own.taps, targets, widened @ own.weight, None, beside, read)])
        assert seen.error(*seen.refitted()) < 0.85 * seen.error(seen.weight, seen.level)


@pytest.mark.parametrize("outputs", [3, 40], ids=["few outputs", "many outputs"])
def test_what_is_exact_with_channels_beside_stays(outputs: int) -> None:
    """What stands beside is of the same patches, and most of the targets: without it the weights would have to move."""
    given, rng = case(), np.random.default_rng(1)
    p = given.patches
    y = np.maximum((p - p.mean(0)) @ given.weight.T + given.level, 0)
    beside = np.maximum(p @ rng.normal(size=(6, 3)) + 1, 0).astype(np.float32)
    read, other = rng.normal(size=(outputs, 4)), 3 * rng.normal(size=(outputs, 3))
    targets = (y @ read.T + beside @ other.T).astype(np.float32)
    exact = replace(given, readers=[Reader(np.arange(len(p))[:, None], targets, read, None, beside, other)])
    weight, level = exact.refitted()
    np.testing.assert_allclose(weight, given.weight, atol=1e-4)
    np.testing.assert_allclose(level, given.level, atol=1e-4)


def test_what_is_already_exact_stays() -> None:
    given = case()
    p = given.patches
    y = np.maximum((p - p.mean(0)) @ given.weight.T + given.level, 0)
    read = np.random.default_rng(1).normal(size=(5, 4))
    rows = np.arange(len(p))[:, None]
    exact = Case(p, given.weight, given.level, [Reader(rows, (y @ read.T).astype(np.float32), read)], RELU)
    weight, level = exact.refitted()
    np.testing.assert_allclose(weight, given.weight, atol=1e-4)
    np.testing.assert_allclose(level, given.level, atol=1e-4)


def test_windows_of_one_row_are_the_rows_themselves() -> None:
    given = case(2)
    m = len(given.patches)
    alone = np.stack([np.full(m, m), np.arange(m)], axis=1)
    pooled = [replace(reader, windows=alone) for reader in given.readers]
    for found, wanted in zip(replace(given, readers=pooled).refitted(), given.refitted(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low", [0.0, -4.0])
def test_the_largest_of_a_window_never_lies_outside(low: float) -> None:
    """A window that hangs over the edge sees only what is inside, even where all of that is below zero."""
    outputs = np.random.default_rng(0).uniform(low, low + 1, (6, 3))
    windows = np.array([[6, 0, 1], [2, 6, 3], [4, 5, 6], [1, 2, 6]])
    source = _sources(padded(outputs).astype(np.float32), windows)
    assert source is not None
    np.testing.assert_array_equal(np.take_along_axis(outputs, source, 0), largest(outputs, windows))


def test_a_step_is_the_least_error_along_its_direction() -> None:
    """Where everything passes the activation, a shorter way along the same direction serves the readers less."""
    given = case()
    level = given.level + 50  # everything passes
    wide = Case(given.patches, given.weight, level, given.readers, RELU)
    weight, moved = wide.refitted()
    turned = weight - given.weight
    assert abs(turned).max() > 1e-3
    assert wide.error(weight, moved) <= wide.error(given.weight + 0.9 * turned, level + 0.9 * (moved - level)) + 1e-6


def test_inputs_are_not_changed() -> None:
    given = case(2)
    patches, weight, targets = given.patches.copy(), given.weight.copy(), given.readers[0].targets.copy()
    given.refitted()
    assert np.array_equal(patches, given.patches)
    assert np.array_equal(weight, given.weight)
    assert np.array_equal(targets, given.readers[0].targets)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("split", [Split("separable", (3, 3), 1), Split("input", (3, 3), 0)], ids=str)
def test_a_reader_in_all_directions_is_the_reader_itself(split: Split, pooled: bool) -> None:
    given = case(taps=9, pooled=pooled)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(4 * split.taps[0], 4 * split.taps[0])))[0]
    turned = [replace(reader, narrow=Narrowing(turn, split)) for reader in given.readers]
    for found, wanted in zip(replace(given, readers=turned).refitted(), given.refitted(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooled", [False, True])
def test_threads_share_the_samples_and_change_no_byte(pooled: bool) -> None:
    some = case(taps=9, readers=2, pooled=pooled)
    alone = some.refitted()
    with workers(3):
        together = some.refitted()
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()
