"""Loading a model from wherever it is, and writing one without ever leaving half a file."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_udfc.errors import ModelError

TARGET_OPSET = 21
TARGET_IR = 10


@dataclass(frozen=True)
class LoadedModel:
    """A model at the opset the package works with.

    Attributes:
        model: the model; tensors of large external files stay in their files.
        notes: what a user should know about the conversion.
        path: where it was read from, None for bytes and protos.
        bytes: size of the model as given, external data included.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]
    path: Path | None
    bytes: int


def load(source: str | Path | bytes | onnx.ModelProto) -> LoadedModel:
    """Loads a model and converts it to opset 21, IR 10.

    Raises:
        ModelError: not there, not a model, or not one to compute with.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if isinstance(source, onnx.ModelProto):
        model, size = source, source.ByteSize()
    else:
        data = path.read_bytes() if path is not None else source
        assert isinstance(data, bytes)
        size = len(data)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError as error:
            raise ModelError(f"{path or 'the model'} is not an ONNX model") from error
    version = next((d.version for d in model.opset_import if d.domain in ("", "ai.onnx")), 1)
    if version < TARGET_OPSET:
        from onnx import version_converter

        try:
            model = version_converter.convert_version(model, TARGET_OPSET)
        except Exception:
            return LoadedModel(model, (f"kept at opset {version}",), path, size)
    if model.ir_version < TARGET_IR:
        model.ir_version = TARGET_IR
    return LoadedModel(model, (), path, size)


def save(model: onnx.ModelProto, path: str | Path) -> None:
    """Writes the model to a temporary file beside `path` and moves it into place."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def session(model: onnx.ModelProto | bytes | str | Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU, quiet.

    Args:
        model: the model, its bytes, or a path.
        threads: within an operator; 0 for as many as there are cores.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    data: bytes | str = (
        model.SerializeToString()
        if isinstance(model, onnx.ModelProto)
        else (model if isinstance(model, bytes) else str(model))
    )
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
