"""Loading a model from wherever it is, and writing one without ever leaving half a file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from onnx_udfc.errors import ModelError
from onnx_udfc.model.axes import write_axes
from onnx_udfc.model.checks import check
from onnx_udfc.model.external import check_external, external_files, linked_folder, resolve, write_external
from onnx_udfc.model.foreign import ending, refuse_folder, refuse_foreign, refuse_url
from onnx_udfc.model.functions import check_functions
from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.protos import copy_except, sort_nodes, tensor_bytes
from onnx_udfc.model.upgrade import opset, upgrade
from onnx_udfc.outputs import destination, move, remove_stale, temporary_file, temporary_folder

LARGEST_FILE = (1 << 31) - (1 << 24)  # protobuf ends at 2 GiB; the rest is for names and shapes
ROOMY = 1 << 30  # bytes of a model above which memory comes before speed


@dataclass(frozen=True)
class LoadedModel:
    """A model at the opset the package works with.

    Attributes:
        model: the model; weights of large external files stay in their files, with absolute locations.
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

    Args:
        source: a path, the content of a file, or a model, which is not changed.

    Raises:
        ModelError: it is not there, not a model, or not one to compute with.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if isinstance(source, onnx.ModelProto):
        model, size = onnx.ModelProto(), source.ByteSize()
        model.CopyFrom(source)
    else:
        data = _content(path) if path is not None else source
        assert isinstance(data, bytes)
        model, size = _parse(data, str(path or "the model")), len(data)
    size += _resolve(model, path)
    check_functions(model)
    check(model)
    nodes = sort_nodes(model.graph)
    if any(a is not b for a, b in zip(nodes, model.graph.node, strict=True)):
        model = _reordered(model, nodes)
    _separate_names(model.graph)
    given = (opset(model) or 0, int(model.ir_version))
    model, notes = upgrade(model)
    write_axes(model.graph, model)
    return LoadedModel(model, tuple(notes), path, size, *given)


def _resolve(model: onnx.ModelProto, path: Path | None) -> int:
    """Reads what lies in other files, in place; bytes of it."""
    if path is None:
        check_external(model, None)
        return 0
    return resolve(model, path.parent, linked=linked_folder(path))


def _content(path: Path) -> bytes:
    """The bytes of a file."""
    refuse_url(path)
    if path.is_dir():
        refuse_folder(path)
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is a pipe or a device; give the path of an .onnx file")
    try:
        with path.open("rb") as file:
            refuse_foreign(file, str(path))
            return file.read()
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); check its permissions") from error


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


def _reordered(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """The model with its nodes in another order."""
    result = onnx.ModelProto()
    copy_except(result, model, {"graph"})
    copy_except(result.graph, model.graph, {"node"})
    result.graph.node.extend(nodes)
    return result


def _separate_names(graph: onnx.GraphProto) -> None:
    """Gives repeated node names a number, in place: onnxruntime refuses the model otherwise."""
    taken, seen = Taken(node.name for node in graph.node), set()
    for node in graph.node:
        if node.name in seen:
            node.name = unique_name(node.name, taken)
        seen.update([node.name] if node.name else [])


def save(
    model: onnx.ModelProto,
    path: str | Path,
    texts: Mapping[str, str] | None = None,
    moving: AbstractContextManager[None] | None = None,
) -> list[str]:
    """Writes the model, all of it or nothing, and texts beside it that appear only with it.

    A model of more than 2 GiB gets its weights in a file beside it, `<name>.data`. Everything is written under
    temporary names first; whatever goes wrong there, an interrupt too, leaves nothing and changes nothing. Where
    `path` is a symlink, what it leads to is replaced; a file that is replaced gives its permissions to the new one.

    Args:
        model: not changed.
        path: of the file to write.
        texts: path → content (UTF-8) of other files.
        moving: entered while the finished files are moved into place.

    Returns:
        What could not be moved into place after the model was; one line for each.

    Raises:
        RequestError: a path is not that of a file.
        ModelError: the file system refuses.
    """
    target = destination(path)
    others = {text: destination(text) for text in texts or {}}
    with _writing(target), ExitStack() as stack:
        remove_stale(target.parent)
        folder = stack.enter_context(temporary_folder(target.parent))
        _write(model, folder / target.name)
        written = {name: stack.enter_context(temporary_file(to.parent)) for name, to in others.items()}
        for name, file in written.items():
            with _writing(others[name]):
                file.write_text((texts or {})[name], encoding="utf-8")
        with moving or nullcontext():
            for made in sorted(folder.iterdir(), key=lambda f: f.name == target.name):  # the weights first
                move(made, target.with_name(made.name))
            return [line for name, file in written.items() for line in _moved(file, others[name], name)]


def _moved(written: Path, target: Path, name: str) -> list[str]:
    """Moves a text into place; the line to say if that fails."""
    try:
        move(written, target)
    except OSError as error:
        return [f"{name} could not be written ({error.strerror})"]
    return []


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one line."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path} cannot be written ({error.strerror}); choose another folder or make room") from error


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model, with the large weights in a file beside it where one file cannot hold it."""
    if is_large(model):
        model = write_external(model, path.with_name(f"{path.name}.data"))
    path.write_bytes(serialized(model))


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
    return external_files(_parse(_content(Path(path)), str(path)), Path(path).parent)


def is_large(model: onnx.ModelProto) -> bool:
    """Whether one file cannot hold the model."""
    return weight_bytes(model) > LARGEST_FILE


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers, in the model or in other files."""
    return sum(tensor_bytes(t) for t in model.graph.initializer if t.data_type != TensorProto.STRING)


def model_bytes(model: onnx.ModelProto) -> int:
    """Size of the files that the model makes; nothing is serialized where that would take as much memory again."""
    if weight_bytes(model) < ROOMY:
        return int(model.ByteSize())
    slim = onnx.ModelProto()
    copy_except(slim, model, {"graph"})
    copy_except(slim.graph, model.graph, {"initializer"})
    return int(slim.ByteSize()) + weight_bytes(model)


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model that `is_large` says no of; weights that are still in the original's files are read in."""
    if any(t.external_data and Path(t.external_data[0].value).is_absolute() for t in model.graph.initializer):
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        resolve(whole, None, LARGEST_FILE)
        model = whole
    return bytes(model.SerializeToString(deterministic=True))
