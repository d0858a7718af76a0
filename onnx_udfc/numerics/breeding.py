"""New images out of two others: cut, paste, zoom and blend, each half of the time mirrored.

What makes an image is kept: edges, flat areas, and how contrast falls with scale.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import Array

Double = NDArray[np.float64]
Rng = np.random.Generator


def children(first: Array, second: Array, rng: Rng) -> Array:
    """One child (n, C, H, W) of each pair of images (n, C, H, W), in the units of the parents."""
    return np.stack([_child(a, b, rng) for a, b in zip(first, second, strict=True)])


def _child(a: Array, b: Array, rng: Rng) -> Array:
    a, b = (x[..., ::-1] if rng.random() < 0.5 else x for x in (a, b))
    return OPERATIONS[rng.integers(len(OPERATIONS))](a, b, rng).astype(a.dtype)


def _cut(a: Array, b: Array, rng: Rng) -> Array:
    """The one on this side of a line, the other beyond."""
    height, width = a.shape[1:]
    angle, (down, right) = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75, 2)
    y, x = np.arange(height)[:, None] - down * height, np.arange(width) - right * width
    return np.where(np.cos(angle) * x + np.sin(angle) * y > 0, a, b)


def _paste(a: Array, b: Array, rng: Rng) -> Array:
    """A rectangle of the one, a quarter to three quarters of the side, on the other."""
    height, width = a.shape[1:]
    h, w = (max(1, int(rng.uniform(0.25, 0.75) * side)) for side in (height, width))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    child = b.copy()
    child[:, top : top + h, left : left + w] = a[:, top : top + h, left : left + w]
    return child


def _zoom(a: Array, _: Array, rng: Rng) -> Array:
    """A part of the one, up to twice as large."""
    factor = rng.uniform(1, 2)
    spans = [_linear(side, side / factor, rng) for side in a.shape[1:]]
    return np.asarray(spans[0] @ a.astype(np.float64) @ spans[1].T)


def _linear(side: int, span: float, rng: Rng) -> Double:
    """Matrix (side, side) that stretches `span` of the pixels, from a random one on, to all; linear between pixels."""
    at = rng.uniform(0, side - span) + np.linspace(0, span - 1, side) if span > 1 else np.zeros(side)
    return np.clip(1 - abs(at[:, None] - np.arange(side)), 0, None)


def _blend(a: Array, b: Array, rng: Rng) -> Array:
    """Both, one over the other, at the contrast of the first."""
    part = np.float32(rng.uniform(0.3, 0.7))
    mixed = part * a + (1 - part) * b
    mean = mixed.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mean + (mixed - mean) * np.sqrt(a.std() / max(float(mixed.std()), 1e-12)), np.float32)


OPERATIONS: tuple[Callable[[Array, Array, Rng], Array], ...] = (_cut, _paste, _zoom, _blend)
