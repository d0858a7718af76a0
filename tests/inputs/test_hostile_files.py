"""Damaged, huge and odd files of real inputs: one clear line each, and no time or memory lost on them."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_files import Preprocessing, open_images
from onnx_udfc.inputs.image_labels import read_labels
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.options import Options
from tests.small_graphs import small_network

TEXT = "g (float[N,3,8,8] x, float[2,3,1,1] K) => (float[N,2,8,8] y) { y = Conv(x, K) }"
PIXELS = np.zeros((9, 8, 8, 3), np.uint8)


def png(width: int, height: int) -> bytes:
    """A small file that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def array_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def saved(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "bomb.png": (png(60_000, 60_000), "too many pixels"),
    "big.png": (png(11_000, 11_000), "11000 x 11000 pixels are too many"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no image that can be read"),
    "empty.png": (b"", "no image that can be read"),
    "empty.npz": (b"", "not a readable numpy file"),
    "empty.npy": (b"", "not a readable numpy file"),
    "cut.npz": (saved(x=PIXELS)[:300], "not a readable numpy file"),
    "huge.npy": (array_header((10**6, 3, 1000, 1000)), "larger than the memory"),
    "nothing.npz": (saved(), "holds nothing"),
    "none.npz": (saved(x=PIXELS[:0]), "no images"),
    "scalar.npz": (saved(x=np.array(3)), "does not fit"),
    "rows.npz": (saved(x=np.zeros((9, 7), np.uint8)), "no image"),
    "five.npz": (saved(x=np.zeros((9, 1, 8, 8, 3), np.uint8)), "no image"),
    "complex.npz": (saved(x=np.zeros((9, 3, 8, 8), np.complex64)), "complex64 cannot be fed"),
    "text.npz": (saved(x=np.array(["a", "b"])), "cannot be fed"),
    "objects.npz": (saved(x=np.array([object()])), "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, name: str) -> None:
    content, reason = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as refused:
        make_inputs(small_network(TEXT), Options(calibrate=tmp_path / name))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert " at 0x" not in str(refused.value)


@pytest.mark.parametrize("inside", [False, True])
def test_a_pipe_is_not_waited_for(tmp_path: Path, inside: bool) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.npz")
    for path in [tmp_path] if inside else [tmp_path / "a.png", tmp_path / "a.npz"]:
        with pytest.raises(RequestError):
            make_inputs(small_network(TEXT), Options(calibrate=path))


def test_arrays_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, content in (("x", PIXELS), ("bad", None)):
            stream = io.BytesIO()
            if content is None:
                stream.write(array_header((10**6, 10**6)))
            else:
                np.save(stream, content)
            archive.writestr(f"{name}.npy", stream.getvalue())
    assert len(open_images(tmp_path / "x.npz")) == 9
    assert make_inputs(small_network(TEXT), Options(calibrate=tmp_path / "x.npz")).held_out == 4


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    for labels in (np.array(["cat"] * 9), np.linspace(0, 1, 9), np.zeros(9, np.complex64)):
        (tmp_path / "x.npz").write_bytes(saved(x=PIXELS, y=labels))
        with pytest.raises(RequestError, match="expected whole numbers"):
            open_images(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(saved(x=PIXELS, y=np.arange(9.0)))
    assert open_images(tmp_path / "x.npz").labels is not None


@pytest.mark.parametrize(
    "text", ["a.png," + "9" * 40, "a.png," + "x" * 200_000, "a.png,-1", "x" * 200_000, "a.png,1.5"]
)
def test_labels_of_a_table_are_whole_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(f"name,label\n{text}\n", encoding="utf-8")
    with pytest.raises(RequestError) as refused:
        read_labels(tmp_path / "labels.csv", ["a.png"])
    assert len(str(refused.value)) < 600
    with pytest.raises(RequestError):
        read_labels(tmp_path, ["a.png"])


def test_numbers_in_names_that_are_no_labels(tmp_path: Path) -> None:
    for name in ("1_" + "9" * 30, "2_" + "8" * 30):
        (tmp_path / f"{name}.png").write_bytes(png(8, 8))
    assert open_images(tmp_path).labels is None


def test_a_damaged_tiff_is_one_line_on_standard_error(tmp_path: Path) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "TIFF", compression="tiff_lzw")
    content = bytearray(stream.getvalue())
    content[200:400] = b"\xff" * 200
    (tmp_path / "a.tif").write_bytes(content)
    code = """
import sys
from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_files import open_images
try:
    open_images(sys.argv[1]).source[0]
except RequestError as error:
    sys.stderr.write(f"{error}\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stderr.count("\n") == 1
    assert "a.tif: cannot be read" in done.stderr


def test_an_image_is_read_after_a_damaged_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0damaged")
    with pytest.raises(RequestError):
        open_images(tmp_path).source[0]
    os.write(2, b"still there\n")
    assert "still there" in capfd.readouterr().err


def test_images_of_a_damaged_zip(tmp_path: Path) -> None:
    makers: dict[str, Callable[[zipfile.ZipFile], None]] = {
        "garbage": lambda z: z.writestr("a.png", b"garbage"),
        "other": lambda z: z.writestr("a.txt", b"garbage"),
    }
    for name, make in makers.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            make(archive)
        with pytest.raises(RequestError):
            list(open_images(tmp_path / f"{name}.zip").batches((None, 3, 8, 8), Preprocessing(), 1))
