"""Writing a model without ever leaving half a file, and how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import onnx
from onnx import TensorProto

from onnx_udfc.model.protos import copy_except, left, resolve, shell, tensor_bytes, write_external
from onnx_udfc.outputs import destination, move, remove_stale, temporary_file, temporary_folder, writing

LARGEST_FILE = (1 << 31) - (1 << 24)  # protobuf ends at 2 GiB; the rest is for names and shapes
ROOMY = 1 << 30  # bytes of a model above which memory comes before speed


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
    `texts` is path → content (UTF-8) of other files; `moving` is entered while the finished files are moved into place.

    Returns:
        What could not be moved into place after the model was; one line for each.

    Raises:
        RequestError: a path is not that of a file, or the file system refuses.
    """
    target = destination(path)
    others = {text: destination(text) for text in texts or {}}
    with writing(target), ExitStack() as stack:
        remove_stale(target.parent)
        folder = stack.enter_context(temporary_folder(target.parent))
        _write(model, folder / target.name)
        written = {name: stack.enter_context(temporary_file(to.parent)) for name, to in others.items()}
        for name, file in written.items():
            with writing(others[name]):
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


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model, with the large weights in a file beside it where one file cannot hold it."""
    if is_large(model):
        model = write_external(model, path.with_name(f"{path.name}.data"))
    path.write_bytes(serialized(model))


def is_large(model: onnx.ModelProto) -> bool:
    """Whether one file cannot hold the model."""
    return weight_bytes(model) > LARGEST_FILE


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers, in the model or in other files."""
    return sum(tensor_bytes(t) for t in model.graph.initializer if t.data_type != TensorProto.STRING)


def model_bytes(model: onnx.ModelProto) -> int:
    """Size of the files that the model makes; nothing is serialized where that would take as much memory again."""
    if weight_bytes(model) < ROOMY:
        return _whole_bytes(model)
    return int(shell(model, {"initializer"}).ByteSize()) + weight_bytes(model)


def _whole_bytes(model: onnx.ModelProto) -> int:
    """Size of a model with the weights that are still in its file read in."""
    inner = outer = int(model.graph.ByteSize())
    for tensor in left(model):
        light = onnx.TensorProto()
        copy_except(light, tensor, {"external_data", "data_location"})
        whole = int(light.ByteSize()) + _field_bytes(tensor_bytes(tensor))
        outer += _field_bytes(whole) - _field_bytes(int(tensor.ByteSize()))
    return int(model.ByteSize()) + _field_bytes(outer) - _field_bytes(inner)


def _field_bytes(length: int) -> int:
    """Bytes of a field that holds so many: its key, their number in seven bits a byte, and they."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model that `is_large` says no of; weights that are still in the original's files are read in."""
    if any(t.external_data and Path(t.external_data[0].value).is_absolute() for t in model.graph.initializer):
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        resolve(whole, None, LARGEST_FILE)
        model = whole
    return bytes(model.SerializeToString(deterministic=True))
