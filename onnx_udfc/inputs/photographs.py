"""Photographs as made-up inputs: crops of some 150 small pictures in the public domain or under free licences.

The pictures ship with the package (`data/`, with their authors and licences); none is of a data set, and they have
nothing to do with what a network was trained on. A crop has a random place, size, aspect, light and colour, and is
mirrored half of the time.
"""

from __future__ import annotations

import io
import lzma
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.images import Array
from onnx_udfc.numerics.picture_codec import LUMA, Codes, Pixels, decode

SIDES = (320, 160)  # of the pictures that are stored
MEAN, DEVIATION = 118.0, 64.0  # of photographs, pixels 0 to 255: what normalized units mean
SMALL = 96  # pixels; for inputs of such a side all pictures are sharp enough
_TINY = 48  # pixels; half of the larger pictures is sharp enough: the smallest crop of them has 56
_LEAST, _LEAST_SHARP = 0.35, 0.5  # of the side of a picture that a crop takes, and where the input is larger
_LARGE_SHARE = 0.75  # of crops for larger inputs that are from the larger pictures

Double = NDArray[np.float64]


@cache
def _codes() -> dict[str, Codes]:
    """Codes of all pictures; read once."""
    packed = files("onnx_udfc.inputs").joinpath("data", "photographs.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as codes:
        return {name: codes[name] for name in codes.files}


def stored() -> list[tuple[int, int]]:
    """All pictures: the side of each, one of `SIDES`, and its place among those of this side."""
    return [(side, place) for side in SIDES for place in range(_codes()[f"luma{side}"].shape[1])]


@cache
def picture(side: int, place: int, halved: bool = False) -> Pixels:
    """One of the pictures (side, side, 3), or at half of its side; decoded when it is first asked for."""
    luma, chroma = _codes()[f"luma{side}"], _codes()[f"chroma{side}"]
    both = [place, luma.shape[1] + place]
    pixels: Pixels = decode(luma[:, place : place + 1], chroma[:, both], halved=halved)[0]
    return pixels


def photographs(count: int, channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Crops (count, channels, height, width) in normalized units: (pixel − MEAN) / DEVIATION.

    No picture comes twice before all have come once. One channel is grey; channels beyond three mix the colours.
    """
    colours = np.stack([_crop(picture, size, rng) for picture in _drawn(count, max(size), rng)])
    return in_channels((colours.transpose(0, 3, 1, 2) - np.float32(MEAN)) / np.float32(DEVIATION), channels, rng)


def in_channels(colours: Array, channels: int, rng: np.random.Generator) -> Array:
    """Colours (n, 3, h, w) as grey, as they are, or with more channels, each a random mixture of deviation about 1."""
    if channels == 3:
        return colours
    if channels == 1:
        return np.asarray(np.tensordot(colours, LUMA.astype(np.float32), axes=(1, 0))[:, None], np.float32)
    mixing = rng.dirichlet(np.ones(3), channels).astype(np.float32)
    mixing[:3] = np.eye(3, dtype=np.float32)[:channels]
    return np.asarray(np.einsum("kc,nchw->nkhw", mixing, colours, optimize=True), np.float32)


def _drawn(count: int, side: int, rng: np.random.Generator) -> list[Pixels]:
    """Pictures in random order, the larger ones more often where the input is large."""
    every = stored()
    if side <= SMALL:
        drawn = [every[k] for k in _shuffled(len(every), count, rng)]
        return [picture(*one, one[0] == SIDES[0] and side <= _TINY) for one in drawn]
    large, small = ([one for one in every if one[0] == side] for side in SIDES)
    many = round(count * _LARGE_SHARE)
    chosen = [large[k] for k in _shuffled(len(large), many, rng)]
    chosen += [small[k] for k in _shuffled(len(small), count - many, rng)]
    return [picture(*chosen[k]) for k in rng.permutation(count)]


def _shuffled(number: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `number` positions, none again before all have come."""
    rounds = [rng.permutation(number) for _ in range(max(1, -(-count // number)))]
    return np.concatenate(rounds)[:count]


def _crop(picture: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A part of a picture (side, side, 3) as float32 pixels (height, width, 3) within 0 and 255."""
    side = len(picture)
    part = side * np.exp(rng.uniform(np.log(_LEAST if max(size) <= SMALL else _LEAST_SHARP), 0))
    aspect = rng.uniform(0.75, 1.33) * size[1] / size[0]
    height, width = part * min(1, 1 / aspect), part * min(1, aspect)
    top, left = rng.uniform(0, side - height), rng.uniform(0, side - width)
    down, across = _touched(size[0], side, height, top), _touched(size[1], side, width, left)
    rows = resampling(size[0], down.stop - down.start, height, top - down.start)
    columns = resampling(size[1], across.stop - across.start, width, left - across.start)
    if rng.random() < 0.5:
        columns = columns[::-1]
    light = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
    colours = picture[down, across].transpose(2, 0, 1).astype(np.float32)
    pixels = (rows @ colours @ columns.T).transpose(1, 2, 0) * light.astype(np.float32)
    clipped: Array = np.clip(pixels, 0, 255)
    return clipped


def _touched(out: int, side: int, length: float, start: float) -> slice:
    """The pixels that `resampling` to `out` ones reads of a side."""
    reach = max(1.0, length / out)
    return slice(max(0, int(start - reach)), min(side, int(start + length + reach) + 1))


def resampling(out: int, side: int, length: float, start: float) -> Array:
    """Matrix (out, side) that brings `length` pixels from `start` on to `out` ones: a triangle as wide as they are."""
    step = length / out
    centers = start + (np.arange(out) + 0.5) * step - 0.5
    weights: Double = np.maximum(0, 1 - abs(np.arange(side) - centers[:, None]) / max(1.0, step))
    matrix: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix
