"""Synthetic images by formula, in normalized units (mean about 0, deviation about 1).

Up to five kinds in equal parts; the more there are, the less a repair leans on what only one of them shows:

- dead leaves (Lee, Mumford, Huang, IJCV 2001): opaque ellipses and rectangles with power-law radii cover each other,
  which gives edges, scales and co-occurrences close to those of photographs;
- the same out of focus, blurred by Gaussians of different widths;
- 1/f noise: Gaussian noise with amplitude f^-1.5;
- leaves and noise blended;
- in images that have room for it, leaves filled with gratings of two frequencies: stripes, checks and square waves.

`InputScaling` takes them to what a network expects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

LOWEST, HIGHEST = -2.1, 2.5  # the blackest and the whitest that a photograph has
_SLOPE = 1.5  # amplitude of the noise falls as f^-1.5
_SHARED = 0.9  # fraction of the variance that all channels share
_TILES = 60  # leaves on an image of 32 pixels; grows with the side
_CACHED = 1 << 19  # pixels that are drawn at a time
_EXTENT = 2.25  # half the diagonal of the longest rectangle, √5, in units of its radius


@dataclass(frozen=True)
class InputScaling:
    """How normalized units become network inputs: value = clip(z * std + mean, low, high), per channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    low: float = -np.inf
    high: float = np.inf

    def apply(self, z: Array) -> Array:
        """Scale images z (N, C, ...) in normalized units to the network's units."""
        shape = (1, -1) + (1,) * (z.ndim - 2)
        std = np.asarray(self.std, np.float32).reshape(shape)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        x: Array = np.multiply(z, std, dtype=np.float32)
        x += mean
        return np.clip(x, np.float32(self.low), np.float32(self.high), out=x)


def synthetic_images(count: int, channels: int, size: tuple[int, ...], seed: int) -> Array:
    """Images of all kinds, one kind after the other.

    Args:
        count: number of images, at least 1.
        channels: channels of the network's input.
        size: spatial size; one to three dimensions. Volumes and what is longer than LONGEST get noise only: leaves are
            for images, and take time with the square of the longest side.
        seed: the same seed gives the same images.

    Returns:
        (count, channels, *size) float32 in normalized units, within LOWEST and HIGHEST.
    """
    rng = np.random.default_rng(seed)
    if len(size) not in (1, 2) or max(size) > LONGEST:
        return np.clip(power_noise(count, channels, size, rng), LOWEST, HIGHEST)
    plane = (size[0], size[1]) if len(size) == 2 else (1, size[0])
    kinds = KINDS if min(plane) >= ROOM else KINDS[:-1]
    shares = [len(part) for part in np.array_split(np.arange(count), len(kinds))]
    parts = [kind(n, channels, plane, rng) for kind, n in zip(kinds, shares, strict=True) if n]
    return np.clip(np.concatenate(parts), LOWEST, HIGHEST).reshape(count, channels, *size)


def power_noise(count: int, channels: int, size: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Gaussian noise with amplitude f^-1.5, (count, channels, *size), most of its variance shared by the channels."""
    axes = tuple(range(2, 2 + len(size)))
    grids = np.meshgrid(*[np.fft.fftfreq(n) for n in size], indexing="ij")
    frequency = np.sqrt(sum(g**2 for g in grids))
    frequency.flat[0] = np.inf if frequency.size > 1 else 1.0  # no constant part
    amplitude = frequency**-_SLOPE

    def noise(planes: int) -> NDArray[np.float64]:
        spectrum = np.fft.fftn(rng.standard_normal((count, planes, *size)), axes=axes) * amplitude
        z: NDArray[np.float64] = np.fft.ifftn(spectrum, axes=axes).real
        return z / max(float(z.std()), 1e-12)

    mixed: Array = (noise(1) * np.sqrt(_SHARED) + noise(channels) * np.sqrt(1 - _SHARED)).astype(np.float32)
    return mixed


def dead_leaves(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Opaque shaded ellipses and rectangles, later over earlier: (count, channels, height, width)."""
    z = np.empty((count, channels, *size), np.float32)
    step = max(1, _CACHED // (size[0] * size[1]))
    for start in range(0, count, step):
        _draw_leaves(z[start : start + step], rng)
    z += rng.normal(0, 0.05, z.shape).astype(np.float32)
    return z


def _draw_leaves(z: Array, rng: np.random.Generator) -> None:
    """Fill images z (N, C, H, W): all get the same radii at other places, so that one step draws a leaf on each."""
    count, channels, height, width = z.shape
    side = max(height, width)
    z[:] = (rng.normal(0, 0.5, (count, channels)) + rng.normal(0, 0.8, (count, 1)))[:, :, None, None]
    leaves = max(8, int(_TILES * side / 32))
    for radius in np.minimum(0.6 * side, 1.75 / (rng.random(leaves) + 0.025)):
        _draw_leaf(z, float(radius), int(np.ceil(radius * _EXTENT)) + 1, rng)


def blurred_leaves(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Dead leaves out of focus: Gaussian blur of 0.5 to 3 pixels."""
    width = rng.uniform(0.5, 3, (count, 1, 1, 1))
    z = dead_leaves(count, channels, size, rng)
    frequency = np.square(np.fft.fftfreq(size[0]))[:, None] + np.square(np.fft.fftfreq(size[1]))
    spectrum = np.fft.fft2(z) * np.exp(-2 * np.pi**2 * frequency * width**2)
    return np.asarray(np.fft.ifft2(spectrum).real, np.float32)


def noisy_leaves(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Dead leaves and 1/f noise blended; the noise has 0.2 to 0.6 of the deviation."""
    part = rng.uniform(0.2, 0.6, (count, 1, 1, 1)).astype(np.float32)
    leaves = dead_leaves(count, channels, size, rng)
    return np.sqrt(1 - part**2) * leaves + part * power_noise(count, channels, size, rng)


def gratings(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Dead leaves whose bright and dark halves are filled with a grating each."""
    leaves = dead_leaves(count, channels, size, rng)
    light = leaves.mean(1, keepdims=True)
    bright = light > np.median(light, axis=(2, 3), keepdims=True)
    first, second = (_grating(count, channels, size, rng) for _ in range(2))
    return np.float32(0.7) * leaves + np.where(bright, first, second)


def _grating(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Sine or square waves, crossed by others in some images: 0.01 to 0.25 cycles in a pixel, any direction."""
    shape = (count, 1, 1, 1)
    y, x = np.arange(size[0])[:, None], np.arange(size[1])
    frequency = 2 * np.pi * np.exp(rng.uniform(np.log(0.01), np.log(0.25), shape))
    angle = rng.uniform(0, np.pi, shape)
    wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi, shape))
    wave = np.where(rng.random(shape) < 0.4, np.sign(wave), wave)
    crossing = np.sin(frequency * (y * np.cos(angle) - x * np.sin(angle)))
    wave = np.where(rng.random(shape) < 0.4, wave * crossing, wave)
    color = rng.normal(0, 0.6, (count, channels, 1, 1)) * rng.uniform(0.3, 1.2, shape)
    return np.asarray(wave * color, np.float32)


KINDS = (dead_leaves, blurred_leaves, power_noise, noisy_leaves, gratings)
LONGEST = 4096  # side of an image; a longer one is a signal
ROOM = 64  # pixels that an image needs before gratings are like anything in a photograph


def _draw_leaf(z: Array, radius: float, reach: int, rng: np.random.Generator) -> None:
    """Draw one leaf on every image of z (N, C, H, W) in place; `reach` bounds its half extent in pixels."""
    count, channels, height, width = z.shape
    center = rng.random((count, 2)) * (height, width)
    aspect, angle = rng.uniform(0.5, 2, (count, 1, 1)), rng.random((count, 1, 1)) * np.pi
    color = (rng.normal(0, 1, (count, 1)) + rng.normal(0, 0.4, (count, channels))).astype(np.float32)
    slope = rng.normal(0, 0.02 * 32 / max(height, width), (count, 2, 1, 1)).astype(np.float32)
    ellipse = rng.random((count, 1, 1)) < 0.6
    rows = _window(center[:, 0], reach, height)
    cols = _window(center[:, 1], reach, width)
    dy = (rows - center[:, :1]).astype(np.float32)[:, :, None]
    dx = (cols - center[:, 1:]).astype(np.float32)[:, None, :]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    across, along = np.float32(1 / radius), (1 / (radius * aspect)).astype(np.float32)
    u = np.square(dx * (cos * across) + dy * (sin * across))
    v = np.square(dy * (cos * along) - dx * (sin * along))
    inside = np.where(ellipse, u + v, np.maximum(u, v)) < 1
    image, y, x = np.nonzero(inside)
    shade = slope[image, 0, 0, 0] * dy[image, y, 0] + slope[image, 1, 0, 0] * dx[image, 0, x]
    z[image, :, rows[image, y], cols[image, x]] = color[image] + shade[:, None]


def _window(center: NDArray[np.float64], reach: int, length: int) -> NDArray[np.int64]:
    """Indices (N, m) of the pixels around each center, moved to lie inside the image."""
    span = min(2 * reach + 1, length)
    start = np.clip(center.astype(np.int64) - reach, 0, length - span)
    return start[:, None] + np.arange(span)
