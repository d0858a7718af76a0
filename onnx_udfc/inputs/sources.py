"""The kinds of pictures, sounds and codes that can be made up, by name, and which of them an input can be.

A new kind of picture: a row in PICTURES, a function (count, channels, (height, width), seed) → float32 (count,
channels, height, width) in normalized units, and a line in `fitting_pictures`.
A new kind of sound: a row in SIGNALS, a function (count, length, seed) → (count, length) of −1..1.
A new kind of codes: a row in CODES, a function (count, length, rows, seed) → (count, length) of whole numbers below
`rows`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs import glyphs, sounds, text
from onnx_udfc.inputs.bytes_of_files import byte_rows
from onnx_udfc.inputs.photographs import photographs
from onnx_udfc.numerics.images import Array, power_noise, synthetic_images

Picture = Callable[[int, int, tuple[int, ...], int], Array]
Signal = Callable[[int, int, int], Array]
Codes = Callable[[int, int, int, int], NDArray[np.int64]]

FORMULA = "formula"
SCRIPTS = {f"{script} text": script for script in glyphs.SCRIPTS}  # kind of a line → the script that it is in
_READABLE = 16  # pixels of the shorter side that a line of text needs
LETTER = 64  # pixels of the longer side up to which a picture may be a single letter
BYTES = (256, 264)  # rows of a table that are bytes and a few marks


def _seeded(draw: text.Draw) -> Picture:
    """A kind of picture by its seed."""

    def drawn(count: int, channels: int, size: tuple[int, ...], seed: int) -> Array:
        height, width = size
        return draw(count, channels, (height, width), np.random.default_rng(seed))

    return drawn


def _sounding(draw: sounds.Draw) -> Signal:
    """A kind of sound by its seed."""
    return lambda count, length, seed: draw(count, length, np.random.default_rng(seed))


def _noise(count: int, length: int, seed: int) -> Array:
    """1/f noise with a tenth of a sound's range as its deviation."""
    z = power_noise(count, 1, (length,), np.random.default_rng(seed))[:, 0]
    return np.asarray(np.clip(0.1 * z, -1, 1), np.float32)


def _any(count: int, length: int, rows: int, seed: int) -> NDArray[np.int64]:
    """Rows of a table, each as likely as the others."""
    return np.random.default_rng(seed).integers(0, rows, (count, length))


def _files(count: int, length: int, rows: int, seed: int) -> NDArray[np.int64]:
    return byte_rows(count, length, rows, np.random.default_rng(seed))


PICTURES: dict[str, Picture] = {
    "photographs": _seeded(photographs), "text": _seeded(text.text), "turned text": _seeded(text.turned_text),
    "letters": _seeded(text.letters), "sound": _seeded(sounds.spectrograms),
    FORMULA: synthetic_images, **{kind: _seeded(text.lines_of(script)) for kind, script in SCRIPTS.items()},
}  # fmt: skip
SIGNALS: dict[str, Signal] = {**{name: _sounding(draw) for name, draw in sounds.SIGNALS.items()}, FORMULA: _noise}
CODES: dict[str, Codes] = {"files": _files, FORMULA: _any}
# What the user names → the kinds of each form that are meant.
GROUPS: dict[str, tuple[str, ...]] = {
    "photographs": ("photographs",),
    "text": ("text", "turned text", *SCRIPTS, "letters", "files"),
    "sound": ("sound", *sounds.SIGNALS),
    FORMULA: (FORMULA,),
}


def fitting_pictures(channels: int, size: tuple[int, ...]) -> tuple[str, ...]:
    """Kinds of pictures that an input of so many channels and this size can be, the first is the one to prefer."""
    if len(size) != 2 or min(size) < 4:
        return (FORMULA,)
    found = ["photographs", FORMULA]
    if min(size) >= _READABLE:
        found += ["text", "turned text", *(SCRIPTS if text.is_line((size[0], size[1])) else ())]
    if max(size) <= LETTER:
        found.append("letters")
    if channels == 1:
        found.append("sound")
    return tuple(found)


def fitting_codes(rows: int) -> tuple[str, ...]:
    """Kinds of codes below `rows`."""
    return ("files", FORMULA) if BYTES[0] <= rows <= BYTES[1] else (FORMULA,)
