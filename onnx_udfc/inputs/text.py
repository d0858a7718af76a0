"""Rendered text as made-up inputs: letters, single lines, scenes with several lines on photographs, and pages.

What networks that find or read text answer to. Words are in the faces of `glyphs`, of different size, weight, contrast
and colour, slightly turned, out of focus and noisy; backgrounds are plain, shaded, or photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from onnx_udfc.inputs.glyphs import CHINESE, CHINESE_SHARE, HEIGHT, random_letter, random_line
from onnx_udfc.inputs.photographs import DEVIATION, MEAN, in_channels, photographs, resampling
from onnx_udfc.numerics.images import Array

Rng = np.random.Generator
Size = tuple[int, int]
Draw = Callable[[int, int, Size, Rng], Array]

LINE = 2.5  # times as wide as it is high: from there on a picture is a line of text
PADDING = 127.5  # the grey that readers of lines are padded with at the right
_SQUEEZED = 0.35  # of its natural width: long lines are pressed into the picture
_LEAST_CONTRAST = 70.0  # pixels of 0..255 between ink and ground
_LINE_CONTRAST = 120.0  # the same of single lines, which were found before they are read
_LINE_TURN, _SCENE_TURN = 1.5, 12.0  # degrees
_LEAST_HEIGHT = 10  # pixels of a line in a scene


def is_line(size: Size) -> bool:
    """Whether a picture of this height and width is a line of text."""
    return size[1] >= LINE * size[0]


def _pictures(draw: Callable[[Size, Rng], Array]) -> Draw:
    """What draws one picture (height, width, 3) of pixels 0..255, for many (n, channels, height, width) normalized."""

    @wraps(draw)
    def drawn(count: int, channels: int, size: Size, rng: Rng) -> Array:
        stacked = np.stack([np.clip(draw(size, rng), 0, 255) for _ in range(count)]).transpose(0, 3, 1, 2)
        return in_channels((stacked - np.float32(MEAN)) / np.float32(DEVIATION), channels, rng)

    return drawn


def text(count: int, channels: int, size: Size, rng: Rng) -> Array:
    """Lines where the picture is as flat as a line, else half scenes and half pages."""
    if is_line(size):
        return lines(count, channels, size, rng)
    return np.concatenate(
        [draw(n, channels, size, rng) for draw, n in ((scenes, -(-count // 2)), (pages, count // 2)) if n]
    )


def turned_text(count: int, channels: int, size: Size, rng: Rng) -> Array:
    """The same upside down."""
    if is_line(size):
        return turned_lines(count, channels, size, rng)
    return np.ascontiguousarray(text(count, channels, size, rng)[..., ::-1, ::-1])


@_pictures
def lines(size: Size, rng: Rng) -> Array:
    """One line of text; short ones are padded."""
    return _line(size, rng)


@_pictures
def turned_lines(size: Size, rng: Rng) -> Array:
    """The same upside down, padded at the right like the others."""
    return _line(size, rng, upside_down=True)


def lines_of(script: str) -> Draw:
    """What draws lines of characters of a script alone."""
    return _pictures(lambda size, rng: _line(size, rng, script=script, share=1.0))


def _line(
    size: Size, rng: Rng, *, upside_down: bool = False, script: str = CHINESE, share: float = CHINESE_SHARE
) -> Array:
    height, width = size
    tall = height * rng.uniform(0.75, 1.1)
    stretch = np.exp(rng.uniform(np.log(_SQUEEZED), np.log(1.25)))
    long = width * min(1.0, rng.uniform(0.25, 1.15))
    mask = _scaled(random_line(long * HEIGHT / tall / stretch, rng, script, share), tall, stretch)
    mask = _turned(_fitted(mask, (height, min(width, mask.shape[1] + 4))), rng.normal(0, _LINE_TURN / 2))
    image = _inked(_ground(mask.shape, rng), mask, rng, _LINE_CONTRAST)
    image = _worn(image[::-1, ::-1] if upside_down else image, rng)
    if rng.random() < 0.25:
        return np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), mode="edge")
    return np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=PADDING)


@_pictures
def letters(size: Size, rng: Rng) -> Array:
    """One letter or digit in the middle, light on dark or dark on light."""
    own = _scaled(random_letter(rng), min(size) * rng.uniform(0.85, 1.25), rng.uniform(0.8, 1.2))
    mask = np.zeros(size, np.float32)
    spans = []
    for there, here in zip(size, own.shape, strict=True):
        length, shift = min(there, here), int(rng.integers(-1, 2))
        spans.append((max(0, min(there - length, (there - length) // 2 + shift)), (here - length) // 2, length))
    (top, above, height), (left, before, width) = spans
    mask[top : top + height, left : left + width] = own[above : above + height, before : before + width]
    ground = np.full((*size, 3), rng.choice([0.0, 255.0]) if rng.random() < 0.6 else rng.uniform(0, 255), np.float32)
    return _worn(_inked(ground, _turned(mask, rng.normal(0, 6)), rng), rng)


@_pictures
def scenes(size: Size, rng: Rng) -> Array:
    """Some lines of different size and direction on a photograph or a plain ground."""
    image = _ground(size, rng)
    taken = np.zeros(size, bool)
    for _ in range(rng.integers(4, 16)):
        tall = _LEAST_HEIGHT * (0.16 * size[0] / _LEAST_HEIGHT) ** rng.random() if size[0] > 64 else size[0] / 4
        long = size[1] * rng.uniform(0.1, 0.7)
        mask = _scaled(random_line(long * HEIGHT / tall, rng), tall, rng.uniform(0.85, 1.15))
        turn = rng.normal(0, _SCENE_TURN / 3 if rng.random() < 0.7 else _SCENE_TURN)
        mask = _turned(_roomy(mask, turn), turn)
        place = _free(taken, mask.shape, rng)
        if place is not None:
            part = (slice(place[0], place[0] + mask.shape[0]), slice(place[1], place[1] + mask.shape[1]))
            if rng.random() < 0.3:
                image[part] = rng.uniform(0, 255, 3)
            image[part] = _inked(image[part], mask, rng)
            taken[part] = True
    return _worn(image, rng)


@_pictures
def pages(size: Size, rng: Rng) -> Array:
    """Columns of lines of one size, dark on light or light on dark."""
    height, width = size
    tall = rng.uniform(_LEAST_HEIGHT, max(_LEAST_HEIGHT + 1, min(height / 6, 30)))
    pitch, margin = int(tall * rng.uniform(1.0, 1.5)) + 1, rng.uniform(0.02, 0.1) * width
    columns = int(rng.integers(1, 3)) if width > 200 else 1
    mask = np.zeros(size, np.float32)
    for column in range(columns):
        left, right = (int(margin + (width - margin) / columns * (column + k)) for k in (0, 1))
        for top in range(int(margin), height - pitch, pitch):
            long = max(1.0, (right - left - margin) * (1 if rng.random() < 0.7 else rng.uniform(0.1, 0.9)))
            if rng.random() < 0.9:
                row = _scaled(random_line(long * HEIGHT / tall, rng), tall, 1.0)[
                    :, : max(1, int(right - left - margin / 2))
                ]
                part = mask[top : top + row.shape[0], left : left + row.shape[1]]
                part[:] = np.maximum(part, row[: part.shape[0], : part.shape[1]])
    ground = np.broadcast_to(rng.uniform(185, 255) + rng.normal(0, 6, 3), (*size, 3)) + _shade(size, 15, rng)
    inked = ground * (1 - mask[..., None]) + rng.uniform(0, 70, 3) * mask[..., None]
    image = _worn(np.asarray(inked, np.float32), rng)
    return 255 - image if rng.random() < 0.15 else image


def _ground(size: Size, rng: Rng) -> Array:
    """What text stands on: plain, shaded or a photograph of lowered contrast; pixels (height, width, 3)."""
    kind = rng.random()
    if kind < 0.5:
        crop = photographs(1, 3, size, rng)[0].transpose(1, 2, 0)
        return np.asarray(np.clip(crop * rng.uniform(0.4, 1.0), -2, 2) * DEVIATION + MEAN, np.float32)
    level = rng.uniform(0, 255) + rng.normal(0, 30, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(200, 255))
    shade = _shade(size, 40, rng) if kind > 0.75 else np.zeros((*size, 1))
    return np.asarray(np.clip(level + shade, 0, 255), np.float32)


def _shade(size: Size, most: float, rng: Rng) -> Array:
    """A slope of light in any direction, at most `most` pixels from one side to the other: (height, width, 1)."""
    down, right = rng.uniform(-most, most, 2)
    return np.asarray(
        np.linspace(0, down, size[0])[:, None, None] + np.linspace(0, right, size[1])[:, None], np.float32
    )


def _inked(ground: Array, mask: Array, rng: Rng, least: float = _LEAST_CONTRAST) -> Array:
    """Text of a mask (height, width) on a ground (height, width, 3), in a colour `least` lighter or darker than it."""
    mean = ground.mean((0, 1))
    light = float(mean.mean())
    lighter = rng.random() < 0.5 if 255 - light > least < light else 255 - light > light
    room = 255 - light if lighter else light
    gap = rng.uniform(min(least, room), room) * (1 if lighter else -1)
    colour = np.clip(light + gap + rng.normal(0, 25, 3), 0, 255).astype(np.float32)
    ink = (np.clip(mask, 0, 1) ** np.float32(rng.uniform(0.6, 1.5)))[..., None]  # thin or fat
    return ground + (colour - ground) * ink


def _worn(image: Array, rng: Rng) -> Array:
    """Out of focus and noisy."""
    blur = max(0.0, rng.uniform(-0.15, 0.25))
    for axis in (0, 1) if blur else ():
        near = np.roll(image, 1, axis) + np.roll(image, -1, axis)
        image = np.float32(1 - 2 * blur) * image + np.float32(blur) * near
    return image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 10))


def _scaled(mask: Array, tall: float, stretch: float) -> Array:
    """A strip (HEIGHT, w) so many pixels tall, and stretched along the line."""
    out = (max(4, round(tall)), max(4, round(mask.shape[1] * tall / HEIGHT * stretch)))
    rows = resampling(out[0], HEIGHT, HEIGHT, 0)
    columns = resampling(out[1], mask.shape[1], mask.shape[1], 0)
    return np.asarray(rows @ mask @ columns.T, np.float32)


def _fitted(mask: Array, size: Size) -> Array:
    """A mask cut or padded to a size, in the middle of its height and at the left."""
    fitted = np.zeros(size, np.float32)
    height, width = min(size[0], mask.shape[0]), min(size[1], mask.shape[1])
    above, top = (mask.shape[0] - height) // 2, (size[0] - height) // 2
    fitted[top : top + height, :width] = mask[above : above + height, :width]
    return fitted


def _roomy(mask: Array, turn: float) -> Array:
    """A mask with the margin that turning it takes."""
    height, width = mask.shape
    sine = abs(np.sin(np.radians(turn)))
    down, right = int(width * sine / 2) + 2, int(height * sine / 2) + 2
    return np.pad(mask, ((down, down), (right, right)))


def _turned(mask: Array, degrees: float) -> Array:
    """A mask turned round its middle, linear between pixels; what comes from outside is empty."""
    height, width = mask.shape
    y, x = np.arange(height)[:, None] - height / 2, np.arange(width) - width / 2
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows, columns = cos * y - sin * x + height / 2, sin * y + cos * x + width / 2
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    padded = np.pad(mask, 1)
    top, left = np.clip(top, -1, height - 1) + 1, np.clip(left, -1, width - 1) + 1
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _free(taken: np.ndarray, size: tuple[int, ...], rng: Rng) -> tuple[int, int] | None:
    """A place where nothing is yet; None if some tries found none."""
    room = (taken.shape[0] - size[0], taken.shape[1] - size[1])
    if min(room) < 0:
        return None
    for _ in range(8):
        top, left = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        if not taken[top : top + size[0], left : left + size[1]].any():
            return top, left
    return None
