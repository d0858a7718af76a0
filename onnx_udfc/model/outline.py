"""A model file without its large weights, which stay where they are in the file: read, they would be there twice.

protobuf's messages are fields, each a key (number and kind) and a value; a model's graph, its initializers and their
raw bytes are fields of known lengths. So the bytes of large initializers can be stepped over, and all else is a model
like any other.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

_GRAPH, _INITIALIZER, _RAW, _EXTERNAL, _LOCATION, _TYPE = 7, 5, 9, 13, 14, 2  # fields' numbers in onnx.proto
STAMP = "checksum"  # key of external data that tells which state of a file they are read from; onnx knows it
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Outline:
    """A model without some of its weights.

    `spans` is number of an initializer → where its bytes are in the file: from, and how many.
    """

    content: bytes
    spans: dict[int, tuple[int, int]]


def stamp(path: Path) -> str:
    """What tells whether a file is still the one that was read."""
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def span_of(tensor: TensorProto) -> tuple[Path, int, int, bool]:
    """File, offset and bytes of an external tensor with all of its entries, and whether it is in the model's own file.

    Raises:
        OSError: that file was written to since it was loaded.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    path = Path(entries["location"])
    if STAMP in entries and stamp(path) != entries[STAMP]:
        raise OSError(f"{path} was changed while it was read")
    return path, int(entries["offset"]), int(entries["length"]), STAMP in entries


def outline(path: Path, least: int) -> Outline | None:
    """A model file without the initializers of so many bytes; None where there are none, or it is no plain model.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _outlined(data, least)
        except (IndexError, ValueError):  # damaged: the parser says how
            return None


def _outlined(data: mmap.mmap, least: int) -> Outline | None:
    spans: dict[int, tuple[int, int]] = {}
    pieces: list[bytes] = []
    graphs = 0
    for number, kind, begin, start, end in _fields(data, 0, len(data)):
        if number == _GRAPH and kind == _BYTES:
            graphs += 1
            pieces.append(_message(_GRAPH, _graph(data, start, end, least, spans)))
        else:
            pieces.append(data[begin:end])
    return Outline(b"".join(pieces), spans) if spans and graphs == 1 else None


def _graph(data: mmap.mmap, start: int, end: int, least: int, spans: dict[int, tuple[int, int]]) -> bytes:
    """The graph's bytes; fills `spans`."""
    pieces, count = [], 0
    for number, kind, begin, inner, last in _fields(data, start, end):
        made = data[begin:last] if number != _INITIALIZER or last - inner < least else None
        if made is None:
            fields = list(_fields(data, inner, last))
            raw = [(a, b) for field, way, _, a, b in fields if field == _RAW and way == _BYTES]
            plain = len(raw) == 1 and not {_EXTERNAL, _LOCATION} & {field for field, *_ in fields}
            if plain and raw[0][1] - raw[0][0] >= least and not _holds_text(data, fields):
                spans[count] = (raw[0][0], raw[0][1] - raw[0][0])
                rest = b"".join(data[a:b] for field, _, a, _, b in fields if field != _RAW)
                made = _message(_INITIALIZER, rest)
        pieces.append(data[begin:last] if made is None else made)
        count += number == _INITIALIZER and kind == _BYTES
    return b"".join(pieces)


def _holds_text(data: mmap.mmap, fields: list[tuple[int, int, int, int, int]]) -> bool:
    return any(field == _TYPE and _varint(data, start)[0] == TensorProto.STRING for field, _, _, start, _ in fields)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, kind, where the field begins, where its value does, and its end, of every field of a message."""
    while at < end:
        begin = at
        key, at = _varint(data, at)
        start, kind = at, key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a kind of field that onnx has none of")
        if at > end:
            raise ValueError("a field that is longer than what it is in")
        yield key >> 3, kind, begin, start, at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and what is behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")


def _message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
