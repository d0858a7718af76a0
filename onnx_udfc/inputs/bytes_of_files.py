"""Contents of files by formula, for networks that read bytes: prose, tables, markup, programs, and binary forms.

`byte_rows` gives them as whole numbers, with what a network takes for "no byte" where the contents are shorter.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.glyphs import words

Rng = np.random.Generator
Writer = Callable[[int, Rng], bytes]

_SHORTEST, _LONGEST = 100, 20_000  # bytes of a file's contents
_SIGNATURES = tuple(
    bytes.fromhex(s)
    for s in (
        "89504e470d0a1a0a0000000d49484452", "504b0304140000000800", "255044462d312e350a", "7f454c4602010100",
        "4749463839", "ffd8ffe000104a464946", "52494646", "1f8b0800", "4d5a9000", "424d", "cafebabe00000034",
        "494433030000", "4f676753", "664c6143", "d0cf11e0a1b11ae1", "377abcaf271c", "53514c69746520666f726d6174203300",
        "0061736d01000000", "0000001866747970", "7573746172",
    )
)  # fmt: skip


def byte_rows(count: int, length: int, rows: int, rng: Rng) -> NDArray[np.int64]:
    """Contents (count, length) of files as numbers below `rows`, at least 256.

    A file that is too long is cut, or only its beginning and its end are kept, each half as long; what a file is too
    short for is the last of `rows`, or 0 where these are the 256 bytes only.
    """
    absent = rows - 1 if rows > 256 else 0
    kinds = rng.permuted(np.arange(count) % len(WRITERS))
    found = np.full((count, length), absent, np.int64)
    for row, kind in zip(found, kinds, strict=True):
        size = int(np.exp(rng.uniform(np.log(_SHORTEST), np.log(_LONGEST))))
        content = np.frombuffer(WRITERS[kind](size, rng)[:size], np.uint8)
        half = length // 2 if rng.random() < 0.6 else length
        first, last = content[:half], content[len(content) - min(len(content), length - half) :]
        row[: len(first)] = first
        if half < length:
            row[length - len(last) :] = last
    return found


def _words(count: int, rng: Rng) -> list[str]:
    return [words()[k] for k in rng.integers(len(words()), size=count)]


def _name(rng: Rng) -> str:
    return "_".join(_words(int(rng.integers(1, 3)), rng))


def _filled(size: int, line: Callable[[], str], head: str = "", foot: str = "") -> bytes:
    """Lines until there are `size` characters."""
    lines, left = [head] if head else [], size - len(head) - len(foot)
    while left > 0:
        lines.append(line())
        left -= len(lines[-1]) + 1
    return "\n".join([*lines, foot]).encode()


def _prose(size: int, rng: Rng) -> bytes:
    def line() -> str:
        return " ".join(_words(int(rng.integers(6, 16)), rng)).capitalize() + str(rng.choice([".", ",", "?", ".\n"]))

    return _filled(size, line)


def _markdown(size: int, rng: Rng) -> bytes:
    def line() -> str:
        text = " ".join(_words(int(rng.integers(3, 12)), rng))
        forms = (
            "# {}\n", "- {}", "{}.", "* **{}**", "```\n{}\n```", "[{}](https://example.org)", "1. {}", "> {}", "{}\n",
        )  # fmt: skip
        return forms[rng.integers(len(forms))].format(text)

    return _filled(size, line)


def _table(size: int, rng: Rng) -> bytes:
    mark, width = rng.choice([",", ";", "\t"]), int(rng.integers(2, 9))

    def line() -> str:
        cells = [w if rng.random() < 0.3 else f"{rng.normal(0, 100):.2f}" for w in _words(width, rng)]
        return str(mark).join(cells)

    return _filled(size, line, str(mark).join(_words(width, rng)))


def _json(size: int, rng: Rng) -> bytes:
    def line() -> str:
        value = (f'"{_name(rng)}"', str(rng.integers(1000)), "true", f"[{rng.integers(9)}, {rng.random():.3f}]", "null")
        return f'    "{_name(rng)}": {value[rng.integers(len(value))]},'

    return _filled(size, line, "{", '    "end": 0\n}')


def _markup(size: int, rng: Rng) -> bytes:
    tags = ("p", "div", "a", "li", "td", "span", "h1") if rng.random() < 0.6 else tuple(_words(6, rng))
    heads = (
        "<!DOCTYPE html>\n<html>\n<head><title>page</title></head>\n<body>",
        '<?xml version="1.0" encoding="UTF-8"?>\n<root>',
    )

    def line() -> str:
        tag = tags[rng.integers(len(tags))]
        return f'  <{tag} class="{_name(rng)}">{" ".join(_words(int(rng.integers(1, 8)), rng))}</{tag}>'

    kind = int(tags[0] != "p")
    return _filled(size, line, heads[kind], ("</body>\n</html>", "</root>")[kind])


@cache
def _programs() -> tuple[tuple[str, ...], ...]:
    """Beginnings of files in some languages, each with lines that may follow (`-`: no beginning); gaps {0}, {n}."""
    text = files("onnx_udfc.inputs").joinpath("data", "programs.txt").read_text(encoding="ascii")
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return tuple(tuple(line.replace("\\n", "\n").replace("\\t", "\t") for line in block) for block in blocks)


def _code(size: int, rng: Rng) -> bytes:
    head, *forms = _programs()[rng.integers(len(_programs()))]

    def line() -> str:
        return forms[rng.integers(len(forms))].format(_name(rng), _name(rng), _name(rng), n=int(rng.integers(1, 99)))

    return _filled(size, line, "" if head == "-" else head.format(_name(rng)))


def _packed(size: int, rng: Rng) -> bytes:
    """A signature of a common form, some small fields, then bytes as even as those of compressed data."""
    head = _SIGNATURES[rng.integers(len(_SIGNATURES))] + _records(int(rng.integers(8, 64)), rng)
    return head + rng.integers(0, 256, max(0, size - len(head)), np.uint8).tobytes()


def _records(size: int, rng: Rng) -> bytes:
    """Records of one length: some bytes stay, some count, many are zero."""
    width = int(rng.choice([4, 8, 12, 16, 24, 32, 64]))
    rows = -(-size // width)
    fixed = rng.integers(0, 256, width) * (rng.random(width) < 0.4)
    table = np.broadcast_to(fixed, (rows, width)).copy()
    varying = rng.random(width) < 0.35
    table[:, varying] = rng.integers(0, rng.integers(2, 257), (rows, int(varying.sum())))
    table[:, rng.integers(width)] = np.arange(rows) % 256
    return table.astype(np.uint8).tobytes()[:size]


def _executable(size: int, rng: Rng) -> bytes:
    """A signature, records, names that end in zero, zeros."""
    head = _SIGNATURES[rng.integers(len(_SIGNATURES))]
    parts = [head, _records(size // 2, rng)]
    parts += [b"\0".join(w.encode() for w in _words(size // 24 + 1, rng)), bytes(int(rng.integers(1, size // 3 + 2)))]
    return b"".join(parts).ljust(size, b"\0")[:size]


def _encoded(size: int, rng: Rng) -> bytes:
    """Text in another form: two bytes a character, base 64, hexadecimal, or compressed."""
    text = (_prose, _code, _json)[rng.integers(3)](size, rng)
    forms: tuple[Callable[[bytes], bytes], ...] = (
        lambda b: b.decode().encode("utf-16"),
        lambda b: base64.encodebytes(b),
        lambda b: b.hex("\n", 32).encode(),
        lambda b: b"\x1f\x8b\x08\0" + zlib.compress(b),
    )
    return forms[rng.integers(len(forms))](text)


def _uniform(size: int, rng: Rng) -> bytes:
    return rng.integers(0, 256, size, np.uint8).tobytes()


WRITERS: tuple[Writer, ...] = (
    _prose, _markdown, _table, _json, _markup, _code, _code, _code, _code, _packed, _packed, _records, _executable,
    _encoded, _uniform,
)  # fmt: skip
