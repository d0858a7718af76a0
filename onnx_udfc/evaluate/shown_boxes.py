"""Detections of both networks on a few pictures, to be looked at: what is drawn on a page of validate.

Boxes are in shares of the picture's width and height. A picture is a small PNG of the network's input, brought to
0..255 by its own extremes, for its units are not known here.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_udfc.evaluate.detection import Detections, count_matches, detections
from onnx_udfc.numerics.detectors import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT = 32  # inputs that may be shown
SHOWN = 8  # of them, those whose boxes differ most
SIDE = 240  # pixels of a picture's longer side, at most
LARGE = 1 << 20  # values of a run's outputs above which none is kept
PIXELS = 2.0  # boxes with a coordinate above are in pixels, others in shares

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class ShownBoxes:
    """What both networks found in one picture.

    Attributes:
        name: Of the picture, or its place.
        width: Of the network's input.
        height: Of the network's input.
        original: Boxes of the original, the surest first.
        compressed: Boxes of the compressed network.
        matched: Pairs of them at IoU 0.5 and of the same class.
        picture: A data URI; not in the report.
    """

    name: str
    width: int
    height: int
    original: tuple[Box, ...]
    compressed: tuple[Box, ...]
    matched: int
    picture: str = ""


@dataclass
class Album:
    """The first pictures and what was said of them, until it is known how boxes are read."""

    kept: list[tuple[str, NDArray[Any], dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    def add(
        self, feed: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]
    ) -> None:
        """Keep pictures of one run, while there is room; what is no single input of pictures is passed over."""
        value = next(iter(feed.values()), None) if len(feed) == 1 else None
        if value is None or value.ndim != 4:
            return
        for i, name in enumerate(names[: KEPT - len(self.kept)]):
            a, b = (_of_one(outputs, i, len(names)) for outputs in (first, second))
            if sum(y.size for y in a.values()) <= LARGE:
                self.kept.append((name, value[i].copy(), a, b))

    def shown(self, reader: Reader | None, colour: str = "rgb") -> tuple[ShownBoxes, ...]:
        """Return the pictures whose boxes differ most; nothing where there are no decoded boxes."""
        if reader is None or reader.form == "raw":
            return ()
        found = [_seen(name, x, detections(a, reader)[0], detections(b, reader)[0]) for name, x, a, b in self.kept]
        pairs = [(s, x) for s, (_, x, _, _) in zip(found, self.kept, strict=True) if s.original or s.compressed]
        pairs.sort(key=lambda p: p[0].matched / (len(p[0].original) + len(p[0].compressed)))
        return tuple(replace(s, picture=_data_uri(x, colour)) for s, x in pairs[:SHOWN])


def _of_one(outputs: Mapping[str, Any], i: int, batch: int) -> dict[str, NDArray[Any]]:
    """Outputs of one of so many inputs; those that are no arrays with such an axis are left out."""
    arrays = {k: y for k, y in outputs.items() if isinstance(y, np.ndarray) and y.ndim}
    return {k: y[i : i + 1].copy() if batch > 1 else y.copy() for k, y in arrays.items() if batch in (1, len(y))}


def _seen(name: str, x: NDArray[Any], first: Detections, second: Detections) -> ShownBoxes:
    height, width = x.shape[1:] if x.shape[0] <= x.shape[2] else x.shape[:2]
    both = np.concatenate([first.boxes, second.boxes]) if len(first.boxes) + len(second.boxes) else np.zeros((0, 4))
    scale = np.array([width, height, width, height]) if np.abs(both).max(initial=0) > PIXELS else np.ones(4)
    original, compressed = (tuple(tuple(map(float, b)) for b in d.boxes / scale) for d in (first, second))
    return ShownBoxes(name, int(width), int(height), original, compressed, count_matches(first, second))  # type: ignore[arg-type]


def _data_uri(x: NDArray[Any], colour: str) -> str:
    """A picture (C, H, W) or (H, W, C) as a PNG in a data URI."""
    pixels = x.astype(np.float64) if x.shape[0] > x.shape[2] else np.moveaxis(x, 0, -1).astype(np.float64)
    step = max(1, -(-max(pixels.shape[:2]) // SIDE))
    pixels = pixels[::step, ::step, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[::step, ::step, :1], 3, axis=2)
    pixels = np.nan_to_num(pixels[..., ::-1] if colour == "bgr" else pixels)
    low, high = pixels.min(), pixels.max()
    whole = np.round(255 * (pixels - low) / (high - low or 1)).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(whole)).decode("ascii")


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return (height, width, 3) as a PNG file (ISO/IEC 15948): one IDAT, no filter."""
    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
