"""Pictures in few bytes without a library: cosine transform of 8 × 8 blocks, rounded, as JPEG does it.

Colours go through luma and two chroma planes of half the side (ITU-R BT.601); coefficient (u, v) of a block is rounded
to multiples of `STEP`·(1 + RISE·(u + v)), the constant one to multiples of `STEP`. The codes are small whole numbers,
plane after plane, which a general compressor takes to about the size of a JPEG.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx_udfc.numerics.images import Array


Pixels = NDArray[np.uint8]
Codes = NDArray[np.int8]

BLOCK = 8
STEP = 8.0  # of the constant coefficient
RISE = 0.25
_CHROMA = 1.6  # steps of the chroma planes are as many times coarser
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601
_TO_LUMA = np.array([LUMA, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_COLOURS = np.linalg.inv(_TO_LUMA).astype(np.float32)
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


def decode(luma: Codes, chroma: Codes, *, halved: bool = False) -> Pixels:
    """Pictures of the codes that `encode` gives, but for the rounding; a few at a time.

    Args:
        luma: (64, n, side/8, side/8).
        chroma: (64, 2n, side/16, side/16).
        halved: at half of their side: finer coefficients, three in four, are left out.

    Returns:
        (n, side, side, 3), each colour contiguous, or (n, side/2, side/2, 3).
    """
    number, side = luma.shape[1], (BLOCK // 2 if halved else BLOCK) * luma.shape[2]
    pixels: Pixels = np.empty((number, 3, side, side), np.uint8)
    halves = chroma.reshape(len(chroma), 2, number, *chroma.shape[2:])
    step = max(1, _TOGETHER // side**2)
    for start in range(0, number, step):
        part = slice(start, start + step)
        colours = halves[:, :, part].reshape(len(chroma), -1, *chroma.shape[2:])
        pixels[part] = _decoded(luma[:, part], colours, halved).swapaxes(0, 1)
    return np.moveaxis(pixels, 1, -1)


def _decoded(luma: Codes, chroma: Codes, halved: bool) -> Pixels:
    """Colours (3, n, side, side)."""
    light, colour = _plane(luma, 1.0, BLOCK // 2 if halved else BLOCK), _plane(chroma, _CHROMA, BLOCK)
    light += 128
    planes = np.concatenate([light[None], (colour if halved else _doubled(colour)).reshape(2, *light.shape)])
    rgb = _TO_COLOURS @ planes.reshape(3, -1)
    pixels: Pixels = np.clip(np.rint(rgb, out=rgb), 0, 255, out=rgb).astype(np.uint8).reshape(planes.shape)
    return pixels


def _basis(size: int = BLOCK) -> NDArray[np.float64]:
    """Orthonormal cosine basis (frequency, place), or its values at fewer places of a block."""
    at, places = np.arange(BLOCK)[:, None], 2 * np.arange(size) + 1
    basis = np.cos(np.pi * at * places / (2 * size)) * np.sqrt(2 / BLOCK)
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


def _plane(codes: Codes, factor: float, size: int) -> Array:
    """The inverse of `_codes`, in float32; blocks of fewer pixels a side show as many frequencies."""
    _, n, rows, columns = codes.shape
    blocks, places = _blocks(factor, size)
    some = codes[places].reshape(len(places), -1)
    pixels = blocks @ some.astype(np.float32)
    parts: Array = pixels.reshape(size, size, n, rows, columns).transpose(2, 3, 0, 4, 1)
    return parts.reshape(n, rows * size, columns * size)


@cache
def _blocks(factor: float, size: int) -> tuple[Array, NDArray[np.int64]]:
    """What each coefficient adds to the pixels of a block (size², shown), and the places (shown,) of their codes."""
    basis, order = _basis(size), _order()
    places = np.flatnonzero((order // BLOCK < size) & (order % BLOCK < size))
    blocks = np.einsum("ui,vj,uv->ijuv", basis, basis, _steps(factor)).reshape(size * size, -1)[:, order[places]]
    return blocks.astype(np.float32), places


def _doubled(plane: Array) -> Array:
    """Planes (n, h, w) at twice the side, linear between the centres of pixels."""
    for axis in (1, 2):
        at, last = np.arange(plane.shape[axis]), plane.shape[axis] - 1
        near, far = np.float32(0.75) * plane, np.float32(0.25) * plane
        sides = [near + far.take(np.clip(at + step, 0, last), axis) for step in (-1, 1)]
        plane = np.stack(sides, axis + 1).reshape(*plane.shape[:axis], -1, *plane.shape[axis + 1 :])
    return plane
