"""Gain and shift that bring a layer with batch norm to the statistics that it had in training (see `reference`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.moments import channel_statistics

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.runtime.walk import Value

Double = NDArray[np.float64]

MOST_GAIN = 100.0  # of a matched channel


def matching(layer: Layer, y: Value) -> tuple[Double, Double]:
    """Gain and shift (O,) that bring the layer's output y to the stored statistics."""
    norm = layer.batch_norm
    assert norm is not None
    mean, var = channel_statistics(y)
    factor = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    alive = abs(factor) > 1e-12
    seen = np.where(alive, var / np.square(np.where(alive, factor, 1.0)), norm.var)
    # Channels that never moved, in training or now, must not get an unbounded gain.
    floor = 1e-6 * max(float(norm.var.mean()), 1e-30)
    gain = np.clip(np.sqrt((norm.var + floor) / (seen + floor)), 1 / MOST_GAIN, MOST_GAIN)
    return gain, norm.beta - gain * mean


def affine(y: Value, gain: Double, shift: Double) -> None:
    """Apply y ← gain * y + shift per channel (axis 1), in place."""
    shape = (1, -1) + (1,) * (y.ndim - 2)
    y *= gain.astype(y.dtype).reshape(shape)
    y += shift.astype(y.dtype).reshape(shape)
