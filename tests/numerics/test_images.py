from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.numerics.images import InputScaling, dead_leaves, power_noise, synthetic_images

SHAPES = [(3, (32, 32)), (1, (8, 8)), (4, (17, 5)), (3, (1, 1)), (2, (1, 40)), (6, (50,)), (1, (1,)), (2, (6, 7, 8))]


@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_channel_count_and_size(count: int, channels: int, size: tuple[int, ...]) -> None:
    z = synthetic_images(count, channels, size, 0)
    assert z.shape == (count, channels, *size)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_the_seed_alone_decides(channels: int, size: tuple[int, ...]) -> None:
    first = synthetic_images(4, channels, size, 7)
    assert np.array_equal(first, synthetic_images(4, channels, size, 7))
    if np.prod(size) > 1:  # one pixel of noise has no frequency but 0
        assert not np.array_equal(first, synthetic_images(4, channels, size, 8))


def test_normalized_units() -> None:
    z = synthetic_images(256, 3, (32, 32), 0)
    for half in (z[:128], z[128:]):
        assert abs(float(half.mean())) < 0.25
        assert 0.7 < float(half.std()) < 1.4


def halves() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    z = synthetic_images(64, 3, (32, 32), 0)
    return z[:32], z[32:]


def test_half_are_leaves_and_half_noise() -> None:
    leaves, noise = halves()

    def flat(z: NDArray[np.float32]) -> float:
        """Fraction of neighbours that differ by less than a quarter of the deviation of all differences."""
        step = np.diff(z, axis=3)
        return float((abs(step) < step.std() / 4).mean())

    assert flat(leaves) > 2 * flat(noise)  # opaque leaves: flat inside, sharp at their edges


def test_neighbours_are_alike_and_colours_go_together() -> None:
    for z in halves():
        near = np.asarray(np.corrcoef(z[:, :, :, 1:].ravel(), z[:, :, :, :-1].ravel()))
        assert near[0, 1] > 0.7
        colours = np.asarray(np.corrcoef(z.transpose(1, 0, 2, 3).reshape(3, -1)))
        assert colours[np.triu_indices(3, 1)].min() > 0.5


@pytest.mark.parametrize("size", [(256,), (64, 64), (24, 24, 24)])
def test_the_noise_falls_as_the_frequency_to_minus_one_and_a_half(size: tuple[int, ...]) -> None:
    z = power_noise(64, 1, size, np.random.default_rng(0)).astype(np.float64)
    axes = tuple(range(2, 2 + len(size)))
    power = np.square(abs(np.fft.fftn(z, axes=axes))).mean((0, 1))
    grids = np.meshgrid(*[np.fft.fftfreq(n) for n in size], indexing="ij")
    frequency = np.sqrt(sum(np.square(g) for g in grids))
    inside = frequency > 0
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.1)  # of the power; half of it of the amplitude
    assert abs(z.mean(axes)).max() < 1e-6


def test_leaves_cover_each_other_everywhere() -> None:
    z = dead_leaves(16, 1, (32, 32), np.random.default_rng(0))
    values = [len(np.unique(np.round(image, 1))) for image in z[:, 0]]
    assert min(values) > 5
    rows, columns = z.std(axis=(0, 1, 3)), z.std(axis=(0, 1, 2))
    assert min(rows.min(), columns.min()) > 0.5 * max(rows.max(), columns.max())


def test_scaling_is_per_channel_and_clipped() -> None:
    z = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    scaling = InputScaling((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), -3.0, 7.0)
    x = scaling.apply(z)
    for c in range(3):
        expected = np.minimum(np.maximum(z[:, c] * np.float32(4 + c) + np.float32(1 + c), -3), 7)
        assert np.array_equal(x[:, c], expected)
    assert x.dtype == np.float32
    assert np.array_equal(InputScaling().apply(z), z)


def test_images_of_224_pixels_take_milliseconds() -> None:
    begun = time.process_time()
    synthetic_images(16, 3, (224, 224), 0)
    assert time.process_time() - begun < 4


def test_a_long_signal_takes_no_time() -> None:
    start = time.perf_counter()
    x = synthetic_images(8, 1, (220_000,), 0)
    assert time.perf_counter() - start < 20
    assert x.shape == (8, 1, 220_000)
    assert 0.5 < x.std() < 2
