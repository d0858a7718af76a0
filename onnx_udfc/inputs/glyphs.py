"""Letters as bitmaps of free fonts that ship with the package, and lines of words in them.

Latin letters, digits and marks in eight faces, common Chinese characters in two, and those of a few other scripts.
`data/glyphs.xz` holds one strip of all characters for every face; `data/LICENSES.md` names the fonts' licences.
"""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.images import Array

HEIGHT, BASELINE, SHADES = 36, 27, 16  # of a strip: pixels, the row that letters stand on, levels of ink
LATIN, CHINESE = "Latin", "Chinese"
SCRIPTS = (CHINESE, "Japanese", "Korean", "Traditional", "Cyrillic", "Greek")  # with lines of their own
CHINESE_SHARE = 0.3  # of lines of text
_SPACE = 8  # pixels between words


@cache
def words() -> tuple[str, ...]:
    """Common English words."""
    return tuple(files("onnx_udfc.inputs").joinpath("data", "words.txt").read_text(encoding="ascii").split())


@dataclass(frozen=True)
class Face:
    """A font's bitmaps.

    Attributes:
        strip: (HEIGHT, all widths) shades of 0..SHADES − 1, all characters side by side.
        characters: what they are, in their order.
        widths: pixels of each.
        script: LATIN, or one of SCRIPTS.
    """

    strip: NDArray[np.uint8]
    characters: str
    widths: NDArray[np.int64]
    script: str = LATIN


@cache
def faces() -> tuple[Face, ...]:
    """All faces; read once."""
    packed = files("onnx_udfc.inputs").joinpath("data", "glyphs.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as stored:
        names = [key.removesuffix(".strip") for key in stored.files if key.endswith(".strip")]
        return tuple(
            Face(
                stored[f"{n}.strip"],
                "".join(map(chr, stored[f"{n}.characters"].tolist())),
                stored[f"{n}.widths"].astype(np.int64),
                _script(n),
            )
            for n in names
        )


def _script(name: str) -> str:
    """That of a face, by its name."""
    return CHINESE if "CJK" in name else next((script for script in SCRIPTS if name.startswith(script)), LATIN)


def ink(text: str, face: Face, spacing: int = 0) -> Array:
    """A line of text as ink 0..1, (HEIGHT, width); what the face lacks is a gap between words."""
    places = np.array([face.characters.find(c) for c in text], np.int64)
    widths = np.where(places < 0, _SPACE, face.widths[places]) + spacing
    starts = np.concatenate([[0], np.cumsum(face.widths)])[places]
    ends = np.cumsum(widths)
    within = np.arange(ends[-1]) - np.repeat(ends - widths, widths)
    own = np.repeat(np.where(places < 0, 0, face.widths[places]), widths)
    columns = np.minimum(np.repeat(starts, widths) + within, face.strip.shape[1] - 1)
    return np.where(within < own, face.strip[:, columns].astype(np.float32) / (SHADES - 1), np.float32(0))


def random_line(width: float, rng: np.random.Generator, script: str = CHINESE, share: float = CHINESE_SHARE) -> Array:
    """A line of words, numbers or (a `share` of lines) characters of a script in a random face, some `width` pixels."""
    other = rng.random() < share
    among = [f for f in faces() if f.script == (script if other else LATIN)]
    face = among[rng.integers(len(among))]
    text = _characters(width, face, rng) if other else _latin(width, rng)
    return ink(text, face, int(rng.integers(0, 3)))


def random_letter(rng: np.random.Generator) -> Array:
    """A digit, half of the time, or a Latin letter in a random face."""
    among = [f for f in faces() if f.script == LATIN]
    letters = "0123456789" if rng.random() < 0.5 else "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return ink(letters[rng.integers(len(letters))], among[rng.integers(len(among))])


def _characters(width: float, face: Face, rng: np.random.Generator) -> str:
    count = max(1, round(width / float(face.widths.mean())))
    return "".join(face.characters[k] for k in rng.integers(len(face.characters), size=count))


def _latin(width: float, rng: np.random.Generator) -> str:
    """Words, each in small letters, capitals or with one capital, and numbers and marks between them."""
    wanted = max(1, round(width / 14))
    parts: list[str] = []
    style = rng.integers(4)
    while sum(map(len, parts)) + len(parts) <= wanted:
        word = words()[rng.integers(len(words()))]
        parts.append(
            (word, word.capitalize(), word.upper(), _number(rng))[style if rng.random() < 0.7 else rng.integers(4)]
        )
    return " ".join(parts)[: max(wanted, 1)].strip() or "a"


def _number(rng: np.random.Generator) -> str:
    digits = "".join(map(str, rng.integers(0, 10, rng.integers(1, 7))))
    marks = ("{}", "{}.00", "${}", "{}%", "({})", "#{}", "{}:", "{},", "+{}", "{}/7", "{}-A", "A{}", "No.{}", "{}kg")
    return marks[rng.integers(len(marks))].format(digits)
