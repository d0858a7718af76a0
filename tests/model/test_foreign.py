"""Files that are no ONNX models: what they are, and what would help, in one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.printer
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]

from onnx_udfc.errors import ModelError
from onnx_udfc.model.files import check_source, load
from tests.command_line import small_classifier


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3))
    return file.getvalue()


MODEL = small_classifier()
TENSORS = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
FILES: dict[str, tuple[bytes, str, str]] = {
    "checkpoint.pt": (zipped("archive/data.pkl", "archive/version"), "PyTorch", "torch.onnx.export("),
    "script.pth": (zipped("script/code/__torch__.py", "script/data.pkl"), "PyTorch", "torch.onnx.export("),
    "exported.pt2": (zipped("serialized_exported_program.json"), "PyTorch", "torch.onnx.export("),
    "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "PyTorch", "torch.onnx.export("),
    "renamed.onnx": (zipped("archive/data.pkl"), "PyTorch", "torch.onnx.export("),
    "model.pkl": (pickle.dumps({"a": 1}), "pickle", "never opened"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite", "tf2onnx.convert --tflite "),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5", "format='onnx')"),
    "model.keras": (zipped("config.json", "model.weights.h5"), "Keras", "format='onnx')"),
    "model.xml": (b'<?xml version="1.0"?>\n<net name="a" version="11">', "OpenVINO", "convert the model"),
    "plain.xml": (b"<?xml version='1.0'?><a/>", "XML", "convert the model"),
    "model.onnx.gz": (gzip.compress(MODEL.SerializeToString()), "gzip", "gunzip -k "),
    "model.zip": (zipped("model.onnx"), "zip archive with a model", "unzip "),
    "other.zip": (zipped("readme.txt"), "zip archive", "unzip "),
    "broken.zip": (zipped("model.onnx")[:40], "damaged zip", "download it again"),
    "model.tar": (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive", "tar xf "),
    "lfs.onnx": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
    "page.onnx": (b"\n<!DOCTYPE html><html><title>404", "web page", "raw file"),
    "xhtml.onnx": (b'<?xml version="1.0"?><html xmlns="x">', "web page", "raw file"),
    "config.json": (json.dumps({"model": "x"}).encode(), "JSON", ".onnx"),
    "list.json": (b"\xef\xbb\xbf[1, 2]", "JSON", ".onnx"),
    "model.ort": (b"\x20\0\0\0ORTM" + bytes(40), ".ort", ".onnx"),
    "model.engine": (b"ftrt" + bytes(40), "TensorRT", "convert the model"),
    "model.gguf": (b"GGUF\3\0\0\0", "GGUF", "convert the model"),
    "model.safetensors": (len(TENSORS).to_bytes(8, "little") + TENSORS, "safetensors", "convert the model"),
    "data.npz": (arrays(), "numpy", "--calibrate"),
    "cat.png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "image", "--calibrate"),
    "text.onnx": (text_format.MessageToString(MODEL).encode(), "as text", "format='textproto'"),
    "printed.onnx": (onnx.printer.to_text(MODEL).encode(), "as text", "format='onnxtxt'"),
    "frozen.pb": (b"\x0a\x10" + b"\x0a\x01x\x12\x0bPlaceholder", "TensorFlow", "tf2onnx.convert --saved-model"),
    "empty.onnx": (b"", "empty", "again"),
    "noise.onnx": (b"\xff\xfe\xfd" * 50, "not a whole ONNX model", "export it again"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_is_and_what_would_help(name: str, tmp_path: Path) -> None:
    data, what, help_ = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (load, check_source):
        with pytest.raises(ModelError) as refused:
            read(path)
        line = str(refused.value)
        assert line.startswith(str(path))
        assert what in line
        assert help_ in line
        assert "\n" not in line
        if name != "frozen.pb":  # a name tells what bytes cannot
            with pytest.raises(ModelError, match=r"^the model is"):
                read(data)


@pytest.mark.parametrize(
    ("address", "help_"),
    [
        ("https://example.org/a/model.onnx", "curl -LO https://example.org/a/model.onnx"),
        ("s3://bucket/model.onnx", "fetch the file first"),
        ("file:///a/model.onnx", "give the path: /a/model.onnx"),
    ],
)
def test_an_address_is_not_fetched(address: str, help_: str) -> None:
    with pytest.raises(ModelError) as refused:
        load(address)
    assert help_ in str(refused.value)


def test_a_folder_names_the_model_in_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder; give the path of an \.onnx file$"):
        load(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"e\.g\. .*a\.onnx$"):
        load(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"tf2onnx\.convert --saved-model"):
        load(tmp_path)


def test_models_are_not_taken_for_something_else(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.producer_name = "<html>{"
    model.doc_string = "<!doctype html> PK\x03\x04 TFL3"
    for name in ("a.pb", "a.pt", "a.bin", "a.onnx"):
        (tmp_path / name).write_bytes(model.SerializeToString())
        assert load(tmp_path / name).model.graph.node
