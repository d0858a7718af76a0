"""Pictures in few bytes without a library: cosine transform of 8 × 8 blocks, rounded, as JPEG does it.

Colours go through luma and two chroma planes of half the side (ITU-R BT.601); coefficient (u, v) of a block is rounded
to multiples of `STEP`·(1 + RISE·(u + v)), the constant one to multiples of `STEP`. The codes are small whole numbers,
plane after plane, which a general compressor takes to about the size of a JPEG.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.images import Array

Pixels = NDArray[np.uint8]
Codes = NDArray[np.int8]

BLOCK = 8
STEP = 8.0  # of the constant coefficient
RISE = 0.25
_CHROMA = 1.6  # steps of the chroma planes are as many times coarser
_TO_LUMA = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TOGETHER = 1 << 18  # pixels that are decoded at once: what is made of them stays in the cache


def encode(pixels: Pixels) -> tuple[Codes, Codes]:
    """Codes of pictures (n, side, side, 3), the side a multiple of 16.

    Returns:
        Luma (64, n, side/8, side/8) and chroma (64, 2n, side/16, side/16); coefficients of rising fineness first.
    """
    planes = np.moveaxis(pixels @ _TO_LUMA.T, -1, 0)  # (3, n, side, side)
    side = pixels.shape[1]
    halved = planes[1:].reshape(2, -1, side // 2, 2, side // 2, 2).mean((3, 5))
    return _codes(planes[0] - 128, 1.0), _codes(np.concatenate(halved), _CHROMA)


def decode(luma: Codes, chroma: Codes) -> Pixels:
    """Pictures (n, side, side, 3) of the codes that `encode` gives, but for the rounding; a few at a time."""
    number, side = luma.shape[1], BLOCK * luma.shape[2]
    pixels: Pixels = np.empty((number, side, side, 3), np.uint8)
    halves = chroma.reshape(len(chroma), 2, number, *chroma.shape[2:])
    step = max(1, _TOGETHER // side**2)
    for start in range(0, number, step):
        part = slice(start, start + step)
        pixels[part] = _decoded(luma[:, part], halves[:, :, part].reshape(len(chroma), -1, *chroma.shape[2:]))
    return pixels


def _decoded(luma: Codes, chroma: Codes) -> Pixels:
    light = _plane(luma, 1.0) + 128
    colour = _doubled(_plane(chroma, _CHROMA)).reshape(2, *light.shape)
    planes = np.stack([light, *colour], axis=-1)
    rgb = planes @ np.linalg.inv(_TO_LUMA).T.astype(np.float32)
    pixels: Pixels = np.clip(np.rint(rgb, out=rgb), 0, 255, out=rgb).astype(np.uint8)
    return pixels


def _basis() -> NDArray[np.float64]:
    """Orthonormal cosine basis (frequency, place)."""
    at = np.arange(BLOCK)
    basis = np.cos(np.pi * at[:, None] * (2 * at + 1) / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float64)


def _steps(factor: float) -> NDArray[np.float64]:
    at = np.arange(BLOCK)
    return np.asarray(STEP * factor * (1 + RISE * (at[:, None] + at)), np.float64)


def _order() -> NDArray[np.int64]:
    """Positions of the 64 coefficients, coarse ones first."""
    at = np.arange(BLOCK)
    return np.argsort((at[:, None] + at).ravel(), kind="stable")


def _codes(plane: NDArray[np.float64], factor: float) -> Codes:
    """Codes (64, n, rows, columns) of planes (n, 8·rows, 8·columns)."""
    n, height, width = plane.shape
    blocks = plane.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    basis = _basis()
    found = (
        np.einsum("ui,naibj,vj->uvnab", basis, blocks, basis, optimize=True) / _steps(factor)[:, :, None, None, None]
    )
    codes: Codes = np.clip(np.rint(found), -127, 127).astype(np.int8)
    ordered: Codes = codes.reshape(BLOCK * BLOCK, n, height // BLOCK, width // BLOCK)[_order()]
    return ordered


def _plane(codes: Codes, factor: float) -> Array:
    """The inverse of `_codes`, in float32."""
    _, n, rows, columns = codes.shape
    found = np.empty(codes.shape, np.float32)
    found[_order()] = codes
    found = found.reshape(BLOCK, BLOCK, n, rows, columns) * _steps(factor).astype(np.float32)[:, :, None, None, None]
    basis = _basis().astype(np.float32)
    plane = np.einsum("ui,uvnab,vj->naibj", basis, found, basis, optimize=True)
    return np.asarray(plane.reshape(n, rows * BLOCK, columns * BLOCK), np.float32)


def _doubled(plane: Array) -> Array:
    """Planes (n, h, w) at twice the side, linear between the centres of pixels."""
    for axis in (1, 2):
        first, last = np.take(plane, [0], axis), np.take(plane, [-1], axis)
        before = np.concatenate([first, plane], axis).take(range(plane.shape[axis]), axis)
        after = np.concatenate([plane, last], axis).take(range(1, plane.shape[axis] + 1), axis)
        both = np.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
        plane = both.reshape(*plane.shape[:axis], -1, *plane.shape[axis + 1 :]).astype(np.float32)
    return plane
