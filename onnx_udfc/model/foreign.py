"""Files that are no ONNX models, recognized by their first bytes, each with what would help."""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from onnx_udfc.errors import ModelError

_HEAD = 4096  # bytes that are looked at
_TORCH = "export it from PyTorch: torch.onnx.export(model, inputs, 'model.onnx', dynamo=True)"
_KERAS = "export it from Keras: keras.models.load_model(FILE).export('model.onnx', format='onnx')"
_OTHER = "convert the model that it was made from to ONNX"
_OF_TORCH = ("data.pkl", "serialized_exported_program.json", "models/model.json")
_URL = re.compile(r"(https?|ftp|s3|gs|hf|file):/+(.*)")

# first bytes, where they stand, what they are, what to do; NAME stands for the file's name
_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"TFL3", 4, "a TensorFlow Lite model", "convert it: python -m tf2onnx.convert --tflite NAME --output model.onnx"),
    (b"ORTM", 4, "a model in onnxruntime's own format (.ort)", "give the .onnx that it was made from"),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file, probably of Keras", _KERAS),
    (b"\x1f\x8b", 0, "compressed with gzip", "unpack it: gunzip -k NAME (or tar xzf NAME)"),
    (b"BZh", 0, "compressed with bzip2", "unpack it: bunzip2 -k NAME"),
    (b"\xfd7zXZ\x00", 0, "compressed with xz", "unpack it: unxz -k NAME"),
    (b"\x28\xb5\x2f\xfd", 0, "compressed with zstd", "unpack it: zstd -d NAME"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7-Zip archive", "unpack it: 7z x NAME"),
    (b"Rar!", 0, "a RAR archive", "unpack it: unrar x NAME"),
    (b"ustar", 257, "a tar archive", "unpack it: tar xf NAME"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b"GGUF", 0, "a GGUF file: weights without a graph", _OTHER),
    (b"\x93NUMPY", 0, "an array of numpy", "give a model; arrays are for --calibrate"),
    (b"ftrt", 0, "an engine of TensorRT, built for one GPU", _OTHER),
    (b"ptrt", 0, "an engine of TensorRT, built for one GPU", _OTHER),
    (b"\x89PNG\r\n", 0, "an image", "give a model; images are for --calibrate"),
    (b"\xff\xd8\xff", 0, "an image", "give a model; images are for --calibrate"),
    (b"%PDF", 0, "a PDF document", "give an .onnx file"),
    (b"\x7fELF", 0, "a program or a library", "give an .onnx file"),
)
# endings of formats whose first bytes tell nothing; only where the file is no model of ONNX
_ENDINGS = {
    ".pb": "a graph of TensorFlow; convert it: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    ".mlmodel": f"a Core ML model; {_OTHER}",
    ".caffemodel": f"weights of Caffe; {_OTHER}",
    ".pdmodel": "a PaddlePaddle model; convert it: paddle2onnx --model_dir FOLDER --save_file model.onnx",
    ".pdiparams": "weights of PaddlePaddle; convert it: paddle2onnx --model_dir FOLDER --save_file model.onnx",
    ".pt": f"a PyTorch file; {_TORCH}",
    ".pth": f"a PyTorch file; {_TORCH}",
    ".bin": f"weights without a graph; {_OTHER}",
    ".data": "external weights; give the .onnx beside it",
    ".param": f"a graph of ncnn; {_OTHER}",
}


def refuse_foreign(file: BinaryIO, name: str) -> None:
    """Refuse what is recognized as another format, and return to the file's beginning.

    Raises:
        ModelError: says what it is and what would help.
    """
    head = file.read(_HEAD)
    for known in (_magic, _pickled, _text):
        found = known(head)
        if found:
            raise ModelError(_line(name, *found))
    if head[:4] == b"PK\x03\x04":
        file.seek(0)
        raise ModelError(_line(name, *_zipped(file)))
    file.seek(0)


def refuse_path(path: Path) -> None:
    """Refuse what is no file, before anything is read; nothing of weight is imported for it.

    Raises:
        ModelError: it is an address, a folder, a device, or not there.
    """
    refuse_url(path)
    try:
        there, file, folder = path.exists(), path.is_file(), path.is_dir()
    except (OSError, ValueError):
        return  # whoever opens it says why
    if folder:
        refuse_folder(path)
    if not there:
        raise ModelError(f"{path} does not exist; check the path")
    if not file:
        raise ModelError(f"{path} is a pipe or a device; give the path of an .onnx file")


def refuse_folder(path: Path) -> None:
    """Say what in a folder is meant.

    Raises:
        ModelError: always.
    """
    if (path / "saved_model.pb").exists():
        raise ModelError(
            f"{path} is a SavedModel of TensorFlow; convert it:"
            f" python -m tf2onnx.convert --saved-model {path} --output model.onnx"
        )
    models = sorted(path.glob("*.onnx"))
    example = f", e.g. {models[0]}" if models else ""
    raise ModelError(f"{path} is a folder; give the path of an .onnx file{example}")


def refuse_url(path: Path) -> None:
    """Refuse the address of a file: nothing is downloaded.

    Raises:
        ModelError: the path is an address.
    """
    address = _URL.match(str(path))  # a path has lost the second slash
    if address and address[1] == "file":
        raise ModelError(f"{path} is an address; give the path: /{address[2]}")
    if address:
        url = f"{address[1]}://{address[2]}"
        fetch = f"curl -LO {url}" if address[1] in ("http", "https", "ftp") else "with the tool of that store"
        raise ModelError(f"{url} is an address, and nothing is downloaded here; fetch the file first: {fetch}")


def ending(name: str) -> str:
    """What the file's ending tells of a file that is no ONNX model; empty if nothing."""
    return _ENDINGS.get(Path(name).suffix.lower(), "")


def _line(name: str, what: str, help_: str) -> str:
    return f"{name} is {what}; {help_.replace('NAME', shlex.quote(name)).replace('FILE', repr(name))}"


def _magic(head: bytes) -> tuple[str, str] | None:
    for magic, at, what, help_ in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return what, help_
    return None


def _pickled(head: bytes) -> tuple[str, str] | None:
    """Pickles: protocols 2 to 5 begin with 0x80 and the number, which no field of a model does."""
    if head[:1] != b"\x80" or head[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return None
    if b"torch" in head or head[2:14] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19":
        return "a PyTorch file", _TORCH
    return "a pickle of Python, which is never opened here", _TORCH


def _text(head: bytes) -> tuple[str, str] | None:
    """Pages, XML, JSON and ONNX written as text."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:512].lower()
    marked = lower.startswith((b"<?xml", b"<net "))
    if lower.startswith((b"<!doctype html", b"<html")) or (marked and b"<html" in lower):
        return "a web page, not the file that was to be downloaded", "use the link for the raw file"
    if lower.startswith(b"<?xml") or lower.startswith(b"<net "):
        what = "a model of OpenVINO" if b"<net " in lower else "an XML file"
        return what, _OTHER
    if lower.startswith(b"ir_version:"):
        return (
            "ONNX written as text",
            "write it as a file: onnx.save(onnx.load(FILE, format='textproto'), 'model.onnx')",
        )
    if re.match(rb"<\s*ir_version", lower):
        return "ONNX written as text", "write it as a file: onnx.save(onnx.load(FILE, format='onnxtxt'), 'model.onnx')"
    if re.match(rb'[{\[]\s*["{\[\]}\d]', lower):
        return "a JSON file", "give the .onnx file that it describes"
    if re.match(rb".{8}\{\"", head, re.DOTALL) and head[6:8] == b"\0\0":
        return "a safetensors file: weights without a graph", _OTHER
    return None


def _zipped(file: BinaryIO) -> tuple[str, str]:
    """What a zip archive holds."""
    try:
        names = zipfile.ZipFile(file).namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return "a damaged zip archive", "download it again"
    kinds: tuple[tuple[Callable[[str], bool], tuple[str, str]], ...] = (
        (lambda n: n.endswith(_OF_TORCH), ("a PyTorch file", _TORCH)),
        (lambda n: n.endswith("model.weights.h5"), ("a Keras model", _KERAS)),
        (lambda n: n.endswith(".npy"), ("arrays of numpy (.npz)", "give a model; arrays are for --calibrate")),
        (lambda n: n.endswith(".onnx"), ("a zip archive with a model in it", "unpack it: unzip NAME")),
    )
    for holds, found in kinds:
        if any(holds(name) for name in names[:10_000]):
            return found
    return "a zip archive", "unpack it: unzip NAME"
