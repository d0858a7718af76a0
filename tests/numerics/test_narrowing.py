"""Layers looked at in some directions: the same where these are all that matters, nearly the same where most is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.factors import Curve, Split, curve, factors, splits
from onnx_udfc.numerics.narrowing import curves, narrowing

Double = NDArray[np.float64]
SPLITS = [Split("separable", (3, 3), 1), Split("input", (3, 3), 0), Split("separable", (2, 3, 3), 1)]
CHANNELS, OUT = 24, 20


def seen(split: Split, n: int = 3000) -> NDArray[np.float32]:
    """Patches whose taps and channels hang together."""
    rng, k = np.random.default_rng(4), int(np.prod(split.kernel))
    whole, own = rng.standard_normal((n, CHANNELS, 1)), rng.standard_normal((n, CHANNELS, k))
    mixed = rng.standard_normal((CHANNELS, CHANNELS)) * 0.8 ** np.arange(CHANNELS)
    return np.asarray(np.einsum("nik,ij->njk", whole + 0.5 * own, mixed).reshape(n, -1), np.float32)


def weight(split: Split, decay: float) -> Double:
    """(o, I k) the sum of ever smaller pairs of layers."""
    rng, (t1, t2) = np.random.default_rng(7), split.taps
    ranks = min(CHANNELS * t1, OUT * t2)
    sizes = decay ** np.arange(ranks)
    first, second = rng.standard_normal((ranks, CHANNELS * t1)), rng.standard_normal((ranks, OUT, t2))
    return np.asarray(np.einsum("r,ri,rot->oit", sizes, first, second).reshape(OUT, -1))


def whole(first: Double, second: Double, split: Split) -> Double:
    """The weight (o, I k) of two layers in a row."""
    t2 = split.taps[1]
    return np.asarray(np.einsum("ri,ort->oit", first, second.reshape(OUT, -1, t2)).reshape(OUT, -1))


def found(split: Split, decay: float) -> Curve:
    p, w = seen(split), weight(split, decay)
    return curve(w, p, (p @ w.T).astype(np.float32), split)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_narrowed_layer_is_nearly_as_well_split_as_the_whole(split: Split) -> None:
    rank, p, w = 4, seen(split), weight(split, 0.8)
    narrow = narrowing(found(split, 0.8), rank, np.arange(CHANNELS))
    assert narrow is not None
    assert narrow.unknowns == 3 * rank * split.taps[1] < p.shape[1] / 1.5
    gram, small = (np.cov(x.T, bias=True).astype(np.float64) for x in (p, narrow.of(p)))
    cross = np.cov(narrow.of(p).T, w @ p.T, bias=True)[: len(small), len(small) :]
    refitted = np.asarray(np.linalg.solve(small, cross).T, np.float64)
    first, second = factors(refitted, small, narrow.inner, rank, len(p))

    def lost(first: Double, second: Double) -> float:
        left = w - whole(first, second, split)
        return float(np.einsum("od,de,oe->", left, gram, left))

    assert lost(first @ narrow.basis.T, second) < 1.05 * lost(*factors(w, gram, split, rank, len(p)))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_what_lies_in_the_directions_is_the_same_there(split: Split) -> None:
    p = seen(split)
    narrow = narrowing(found(split, 0.8), 4, np.arange(CHANNELS))
    assert narrow is not None
    np.testing.assert_allclose(narrow.basis.T @ narrow.basis, np.eye(3 * 4), atol=1e-9)
    t2 = split.taps[1]
    inside = np.einsum("ir,ort->oit", narrow.basis, np.random.default_rng(0).standard_normal((OUT, 12, t2)))
    w = inside.reshape(OUT, -1)
    np.testing.assert_allclose(narrow.of(p) @ narrow.of(w).T, p @ w.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_taps_with_the_channel_fastest_are_narrowed_alike(split: Split) -> None:
    p, t2 = seen(split, 50), split.taps[1]
    narrow = narrowing(found(split, 0.8), 4, np.arange(CHANNELS))
    assert narrow is not None
    turned = p.reshape(50, CHANNELS, -1).transpose(0, 2, 1).reshape(50, -1)
    there = narrow.of_taps(np.ascontiguousarray(turned))
    np.testing.assert_allclose(
        there.reshape(50, t2, 12).transpose(0, 2, 1).reshape(50, -1), narrow.of(p), rtol=1e-4, atol=1e-4
    )
    made = np.random.default_rng(1).standard_normal((t2 * 12, 5)).astype(np.float32)
    np.testing.assert_allclose(turned @ narrow.to_taps(made), there @ made, rtol=1e-3, atol=1e-3)


def test_channels_that_went_are_no_part_of_the_directions() -> None:
    split, kept = SPLITS[0], np.arange(0, CHANNELS, 2)
    there = found(split, 0.8)
    narrow = narrowing(there, 4, kept)
    assert narrow is not None
    assert there.directions is not None
    t1 = split.taps[0]
    rows = there.directions.astype(np.float64).reshape(CHANNELS, t1, -1)[kept, :, :12].reshape(len(kept) * t1, 12)
    np.testing.assert_allclose(narrow.basis @ (narrow.basis.T @ rows), rows, atol=1e-5 * np.abs(rows).max())


@pytest.mark.parametrize(
    ("rank", "kept", "narrowed"), [(4, 24, True), (16, 24, True), (17, 24, False), (16, 23, False), (4, 5, False)]
)
def test_all_directions_are_looked_at_where_they_are_not_many_more(rank: int, kept: int, narrowed: bool) -> None:
    given = Curve(SPLITS[0], np.zeros(73), np.eye(72, 48, dtype=np.float16))
    assert (narrowing(given, rank, np.arange(kept)) is not None) == narrowed


def test_a_layer_that_is_parted_by_channels_alone_is_looked_at_whole() -> None:
    split = Split("channel", (3, 3), 2)
    assert narrowing(found(split, 0.8), 2, np.arange(CHANNELS)) is None


@pytest.mark.parametrize("few", [False, True])
def test_a_separable_curve_is_measured_in_the_directions_of_inputs_that_matter(few: bool) -> None:
    """Six of 24 inputs say nearly all: the curve, and the span of its directions, are as if all were looked at."""
    rng, split = np.random.default_rng(5), splits((3, 3))[2]
    mix = rng.standard_normal((CHANNELS, 6)) @ rng.standard_normal((6, CHANNELS))
    mix += 2e-3 * rng.standard_normal(mix.shape)
    p, w = seen(split, 4000), rng.standard_normal((OUT, CHANNELS, 9))
    w = np.einsum("oit,ij->ojt", w, mix).reshape(OUT, -1)
    targets = (p @ w.T).astype(np.float32)
    small = list(curves(w, p, targets, (3, 3), few=few))[2]
    whole = curve(w, p, targets, split, few=few)
    assert len(small.lost) == len(whole.lost)
    np.testing.assert_allclose(small.lost[:18], whole.lost[:18], atol=1e-3 * whole.lost[0], rtol=2e-2)
    assert small.lost[-1] <= 1e-4 * whole.lost[0]
    assert small.directions is not None
    assert whole.directions is not None
    assert len(small.directions) == len(whole.directions)
    assert small.directions.shape[1] < whole.directions.shape[1]  # else all were looked at
    span = np.linalg.qr(small.directions.astype(np.float64))[0]
    leading = whole.directions[:, :6].astype(np.float64)
    assert np.linalg.norm(leading - span @ (span.T @ leading)) < 0.1 * np.linalg.norm(leading)
    narrow = narrowing(small, 8, np.arange(CHANNELS))  # three times as many do not matter
    assert narrow is not None
    assert narrow.basis.shape[1] == small.directions.shape[1]
