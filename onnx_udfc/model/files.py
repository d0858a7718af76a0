"""Loading a model from wherever it is."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnx_udfc.errors import ModelError
from onnx_udfc.model.axes import write_axes
from onnx_udfc.model.checks import check
from onnx_udfc.model.foreign import ending, refuse_foreign, refuse_path
from onnx_udfc.model.functions import check_functions
from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.outline import outline
from onnx_udfc.model.protos import (
    INLINE_TENSOR,
    INLINE_TOTAL,
    check_external,
    external_files,
    leave,
    linked_folder,
    opset_of,
    resolve,
    set_nodes,
    sort_nodes,
)
from onnx_udfc.model.upgrade import upgrade
from onnx_udfc.model.written_out import write_out

MOST_WRITTEN_OUT = 100_000  # nodes that a model may come to with its functions written out
VIEWED = 1 << 26  # bytes of a file from which on its large weights are not read with it


@dataclass(frozen=True)
class LoadedModel:
    """A model at the opset the package works with.

    Attributes:
        model: the model; weights of large files stay in their files, with absolute locations.
        notes: what a user should know about the conversion.
        path: where it was read from, None for bytes and protos.
        bytes: size of the model as given, external data included.
        opset: of the standard operators in the model as given, 0 if it uses none.
        ir_version: of the model as given.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]
    path: Path | None
    bytes: int
    opset: int = 0
    ir_version: int = 0


def load(source: str | Path | bytes | onnx.ModelProto) -> LoadedModel:
    """Loads a model and converts it to opset 21, IR 10; newer ones are kept.

    `source` is a path, the content of a file, or a model, which is not changed.

    Raises:
        ModelError: it is not there, not a model, or not one to compute with.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    model, size = _read(source, path)
    total = check_functions(model)
    check(model)
    given = (opset_of(model) or 0, int(model.ir_version))
    nodes = sort_nodes(model.graph)
    if any(a is not b for a, b in zip(nodes, model.graph.node, strict=True)):
        set_nodes(model.graph, nodes)
    model, changes = write_out(model, functions=total <= MOST_WRITTEN_OUT)
    _separate_names(model.graph)
    model, notes = upgrade(model)
    write_axes(model.graph, model)
    return LoadedModel(model, (*changes, *notes), path, size, *given)


def read_model(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """A model as it is given, not converted; weights of large files stay in their files.

    Raises:
        ModelError: it is not there, or not a model.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    return _read(source, None if isinstance(source, bytes) else Path(source))[0]


def _read(source: str | Path | bytes | onnx.ModelProto, path: Path | None) -> tuple[onnx.ModelProto, int]:
    """A model of which nothing is shared with the source, and its bytes."""
    spans: dict[int, tuple[int, int]] = {}
    if isinstance(source, onnx.ModelProto):
        model, size = onnx.ModelProto(), source.ByteSize()
        model.CopyFrom(source)
    else:
        data, spans = _light(path) if path is not None else (source, spans)
        assert isinstance(data, bytes)
        model = _parse(data, str(path or "the model"))
        size = path.stat().st_size if path is not None and spans else len(data)
        del data
    size += _resolve(model, path)
    if path is not None:
        leave(model, path, spans)
    return model, size


def _resolve(model: onnx.ModelProto, path: Path | None) -> int:
    """Reads what lies in other files, in place; bytes of it."""
    if path is None:
        check_external(model, None)
        return 0
    return resolve(model, path.parent, linked=linked_folder(path))


def _content(path: Path) -> bytes:
    """The bytes of a file."""
    refuse_path(path)
    try:
        with path.open("rb") as file:
            refuse_foreign(file, str(path))
            return file.read()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); check its permissions") from error


def _light(path: Path) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The bytes of a file, of a large one without its large weights, and which these are: see `outline`."""
    found = None
    with contextlib.suppress(OSError):  # said below
        if path.is_file() and VIEWED <= path.stat().st_size <= INLINE_TOTAL:
            found = outline(path, INLINE_TENSOR)
    return (_content(path), {}) if found is None else (found.content, found.spans)


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    """The model that the bytes are."""
    if not data:
        raise ModelError(f"{name} is empty; export or download the model again")
    refuse_foreign(io.BytesIO(data), name)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelError(_no_model(name)) from error
    if not model.graph.node and ending(name):  # what protobuf makes of other packages' messages
        raise ModelError(_no_model(name))
    return model


def _no_model(name: str) -> str:
    if ending(name):
        return f"{name} is not an ONNX model but {ending(name)}"
    return f"{name} is not a whole ONNX model (damaged or another format); export it again"


def _separate_names(graph: onnx.GraphProto) -> None:
    """Gives repeated node names a number, in place: onnxruntime refuses the model otherwise."""
    taken, seen = Taken(node.name for node in graph.node), set()
    for node in graph.node:
        if node.name in seen:
            node.name = unique_name(node.name, taken)
        seen.update([node.name] if node.name else [])


def check_source(source: str | Path | bytes | onnx.ModelProto) -> None:
    """Refuses a model of the user's that refers to files which it must not read; onnxruntime reads them unasked.

    Raises:
        ModelError: it does, is not there or not a model.
    """
    if isinstance(source, onnx.ModelProto):
        check_external(source, None)
        return
    path = None if isinstance(source, bytes) else Path(source)
    data = source if isinstance(source, bytes) else _content(Path(source))
    model = _parse(data, str(path or "the model"))
    check_external(model, None if path is None else path.parent, None if path is None else linked_folder(path))


def weight_files(path: str | Path) -> set[Path]:
    """The files beside a model file that hold its weights.

    Raises:
        ModelError: it is not there or not a model.
    """
    return external_files(_parse(_light(Path(path))[0], str(path)), Path(path).parent)
