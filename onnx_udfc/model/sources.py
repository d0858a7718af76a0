"""A model from whatever holds one: paths, bytes, open files, protos, and other packages' models."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx

from onnx_udfc.errors import ModelError, one_line


@runtime_checkable
class Readable(Protocol):
    """A file that is open in binary mode."""

    def read(self) -> bytes:
        """Return all that is left in it."""


@runtime_checkable
class HasProto(Protocol):
    """An object that gives a model, such as torch.onnx.ONNXProgram."""

    @property
    def model_proto(self) -> onnx.ModelProto:
        """The model."""


Model = str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto | Readable | HasProto
KINDS = "a path, bytes, a file opened with 'rb', an onnx.ModelProto, an onnx_ir.Model, torch's ONNXProgram or a Result"


def plain_source(model: Model) -> str | Path | bytes | onnx.ModelProto:
    """Return a model in one of the four forms that the package reads.

    Raises:
        ModelError: It is none of what is understood.
    """
    if isinstance(model, str) and not model:
        raise ModelError("the path of the model is an empty word; name a file")
    if isinstance(model, (str, bytes, onnx.ModelProto)):
        return model
    if isinstance(model, os.PathLike):
        return Path(model)
    if isinstance(model, (bytearray, memoryview)):
        return bytes(model)
    kind = type(model)
    if (kind.__module__.split(".")[0], kind.__name__) == ("onnx_ir", "Model"):  # which nobody has to have
        proto = importlib.import_module("onnx_ir").to_proto(model)
    else:
        proto = getattr(model, "model_proto", None)
    if isinstance(proto, onnx.ModelProto):
        return proto
    return _read(model)


def _read(model: object) -> bytes:
    if not isinstance(model, Readable):
        raise ModelError(f"a model must be {KINDS}, not {type(model).__name__}")
    try:
        data = model.read()
    except (OSError, ValueError) as error:  # closed, or open for writing
        raise ModelError(f"the model cannot be read ({one_line(error)}); open the file with 'rb'") from error
    if not isinstance(data, bytes):
        raise ModelError("the file is open as text; open it with 'rb'")
    return data
