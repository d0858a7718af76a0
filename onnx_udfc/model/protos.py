"""Walking over protobuf models and copying parts of them; their weights in files beside them.

Such weights are read into the model where they are small, and memory-mapped where they are big.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.model.graph import standard
from onnx_udfc.model.outline import STAMP, span_of, stamp

INLINE_TOTAL = 1 << 30
INLINE_TENSOR = 1 << 20
LARGEST_MESSAGE = (1 << 31) - (1 << 24)  # protobuf ends at 2 GiB


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model: initializers and attributes, of subgraphs and functions too."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (t for sparse in graph.sparse_initializer for t in (sparse.values, sparse.indices))
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                yield from _attribute_tensors(attribute)
                graphs.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[TensorProto]:
    """The tensors an attribute holds."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else attribute.sparse_tensors
    yield from (t for s in sparse for t in (s.values, s.indices))


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the values, by type and shape; two 4-bit or four 2-bit values are packed in a byte.

    Raises:
        ModelError: the type is unknown or a dimension is negative.
    """
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"tensor '{tensor.name}' has a negative dimension; the file is damaged, export it again")
    bits = _bits_of(tensor.data_type)
    if bits is None:
        raise ModelError(f"tensor '{tensor.name}' has no known type; the file is damaged, export the model again")
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


@cache
def _bits_of(kind: int) -> int | None:
    """Bits of a value of an ONNX type; None for one that nobody knows."""
    name = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else ""
    if name in ("", "UNDEFINED"):
        return None
    packed = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    return packed.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    """A sparse initializer with all its zeros, under its name."""
    held = numpy_helper.to_array(sparse.values)
    shape, indices = tuple(sparse.dims), numpy_helper.to_array(sparse.indices)
    flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim > 1 else indices
    array = np.zeros(int(np.prod(shape, dtype=np.int64)), held.dtype)
    array[flat] = held
    return numpy_helper.from_array(array.reshape(shape), sparse.values.name)


def copy_except(target: Any, source: Any, left_out: set[str]) -> None:
    """Copies the fields of a protobuf message that are set, but for some."""
    for entry, value in source.ListFields():
        if entry.name in left_out:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, entry.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, entry.name).CopyFrom(value)
        else:
            getattr(target, entry.name).extend(value)


def shell(model: onnx.ModelProto, left_out: set[str]) -> onnx.ModelProto:
    """A copy of a model without some fields of its graph."""
    copy = onnx.ModelProto()
    copy_except(copy, model, {"graph"})
    copy_except(copy.graph, model.graph, left_out)
    return copy


def small_model(
    nodes: Sequence[onnx.NodeProto],
    given: Mapping[str, tuple[DTypeLike, Sequence[int | None]]],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]],
    opset: int = 21,
) -> onnx.ModelProto:
    """A model of a few nodes. `given` is input name → type and shape; of other domains than onnx's it has version 1."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in given.items()
    ]
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "part", inputs, ends, weights)
    versions = {"": opset} | {node.domain: 1 for node in nodes if node.domain}
    domains = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph copies of these nodes, its own among them or not, in place of those that it has."""
    copies = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(copies.node)


def opset_of(model: onnx.ModelProto) -> int | None:
    """The opset of the standard operators, None if the model uses none of them."""
    return next((d.version for d in model.opset_import if standard(d.domain)), None)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute of a node, text as str; the default where it is not stated."""
    stated = (helper.get_attribute_value(a) for a in node.attribute if a.name == name and not a.ref_attr_name)
    found = next(stated, default)
    return found.decode(errors="replace") if isinstance(found, bytes) else found


def constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Name → tensor of what is constant in a graph: its initializers, and what its Constant nodes hold as tensors."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found |= {name: held.t for held in node.attribute if held.HasField("t") for name in node.output}
    return found


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among the attributes of a node, not those inside them."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside of its nodes, at any depth."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(inner for node in current.node for inner in subgraphs(node))


def reads(node: onnx.NodeProto) -> list[str]:
    """The names of the tensors a node reads from its graph, in its subgraphs too, at any depth."""
    names = list(node.input)
    pending: list[tuple[onnx.GraphProto, frozenset[str]]] = [(g, frozenset()) for g in subgraphs(node)]
    while pending:
        inner, outer = pending.pop()
        own = {i.name for i in inner.input} | {t.name for t in inner.initializer}
        own.update(name for child in inner.node for name in child.output)
        local = outer | own
        names.extend(o.name for o in inner.output if o.name not in local)
        for child in inner.node:
            names.extend(name for name in child.input if name not in local)
            pending.extend((g, local) for g in subgraphs(child))
    return names


def inner_reads(graph: onnx.GraphProto) -> set[str]:
    """The names of the tensors of this graph that its subgraphs read."""
    return {name for node in graph.node if subgraphs(node) for name in reads(node)[len(node.input) :]}


def skeleton(model: onnx.ModelProto, largest: int) -> onnx.ModelProto:
    """The model with its larger initializers as inputs: what matters for converting, checking and shapes, and light.

    Initializers of more bytes than `largest` become inputs of the same type and shape.
    """
    light = shell(model, {"initializer"})
    light.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    inputs = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= largest:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def sort_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in an order in which every tensor is written before it is read; unchanged where it is one already.

    Raises:
        ModelError: a node depends on its own output.
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    names = [node.name for node in graph.node]
    order = in_order(names, lambda i: [producer[name] for name in reads(graph.node[i]) if name in producer])
    return [graph.node[i] for i in order]


def in_order(names: Sequence[str], needs: Callable[[int], Sequence[int]]) -> list[int]:
    """Nodes, by number, each after those that it needs; in their own order where that is one already.

    Raises:
        ModelError: a node needs itself.
    """
    done: dict[int, None] = {}
    for root in range(len(names)):
        stack, active = [(root, False)], set()
        while stack:
            i, ready = stack.pop()
            if ready:
                done[i] = None
                active.discard(i)
            elif i not in done:
                if i in active:
                    raise ModelError(f"node '{names[i]}' depends on its own output; export the model again")
                active.add(i)
                stack.append((i, True))
                stack.extend((before, False) for before in reversed(needs(i)) if before not in done)
    return list(done)


def resolve(
    model: onnx.ModelProto, folder: Path | None, inline_total: int = INLINE_TOTAL, linked: Path | None = None
) -> int:
    """Reads external data into the model; in place.

    Above `inline_total` bytes in all, initializers of a mebibyte and more stay in their files, and their location
    becomes an absolute path.
    `folder` is that of the model file; None for a model that this function has been through. `linked` is as
    `linked_folder` gives it.

    Returns:
        Bytes of all external data.

    Raises:
        ModelError: a file is missing, too short, or outside the folder of the model.
    """
    external = [t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL]
    spans = [_span(tensor, folder, linked) for tensor in external]
    total = sum(length for _, _, length in spans)
    top = {id(t) for t in model.graph.initializer}
    for tensor, (path, offset, length) in zip(external, spans, strict=True):
        if total > inline_total and length >= INLINE_TENSOR and id(tensor) in top:
            _point(tensor, str(path.absolute()), offset, length)
        else:
            _inline(tensor, path, offset, length)
    return total


def _span(tensor: TensorProto, folder: Path | None, linked: Path | None = None) -> tuple[Path, int, int]:
    """File, offset and length in bytes of an external tensor, checked."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    path = _safe_path(tensor, location, folder, linked)
    try:
        offset, size = int(entries.get("offset", 0)), path.stat().st_size
        length = int(entries.get("length", size - offset))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"tensor '{tensor.name}' is in the file '{location}', which cannot be read; put it beside the model"
        ) from error
    if offset < 0 or length < tensor_bytes(tensor) or offset + length > size or tensor.data_type == TensorProto.STRING:
        raise ModelError(f"tensor '{tensor.name}' reaches past the end of '{location}'; copy that file again")
    return path, offset, tensor_bytes(tensor)


def _safe_path(tensor: TensorProto, location: str, folder: Path | None, linked: Path | None) -> Path:
    """The external file: a regular one in the model's folder, also after all links have been followed.

    Without a folder the model is one that `resolve` has been through, and its locations are absolute.
    """
    if folder is None:
        assert Path(location).is_absolute(), "resolve has not seen this model"
        return Path(location)
    normal = Path(os.path.normpath(location))
    if not location or "\0" in location or normal.is_absolute() or normal.parts[:1] in ((), ("..",)):
        raise ModelError(f"tensor '{tensor.name}' refers to '{location}', outside the folder of the model; refused")
    path = Path(os.path.realpath(folder / normal))
    if not any(path.is_relative_to(os.path.realpath(home)) for home in (folder, linked or folder)):
        raise ModelError(
            f"tensor '{tensor.name}' refers to '{location}', a link that leads outside the folder of the model; copy "
            "the file there"
        )
    if path.exists() and not path.is_file():
        raise ModelError(f"tensor '{tensor.name}' refers to '{location}', which is no regular file; refused")
    return path


def linked_folder(path: Path) -> Path | None:
    """The folder of what a model file leads to if it is a link: links beside it may lead there, too.

    Caches of downloads keep a model and its weights as links to files that lie side by side elsewhere.
    """
    return Path(os.path.realpath(path)).parent if path.is_symlink() else None


def check_external(model: onnx.ModelProto, folder: Path | None, linked: Path | None = None) -> None:
    """Refuses a model of the user's whose external data are not regular files in its folder; reads none of them.

    `folder` is that of the model file; None for a model that did not come from a file, which has no external data.

    Raises:
        ModelError: one line.
    """
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            if folder is None:
                raise ModelError(
                    f"tensor '{tensor.name}' is in an external file; give the path of the model, or the folder of "
                    "that file as base"
                )
            _span(tensor, folder, linked)


def external_files(model: onnx.ModelProto, folder: Path) -> set[Path]:
    """Where the model says that its external data are; nothing is checked."""
    tensors = (t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL)
    return {folder / e.value for t in tensors for e in t.external_data if e.key == "location"}


def whole(source: bytes | onnx.ModelProto, base: str | Path) -> onnx.ModelProto:
    """A model that did not come from a file, with its external data read from a folder.

    Raises:
        ModelError: the data are missing, outside the folder, or more than a model in memory can hold.
    """
    model = onnx.ModelProto()
    if isinstance(source, bytes):
        model.ParseFromString(source)
    else:
        model.CopyFrom(source)
    check_external(model, Path(base))
    total = sum(tensor_bytes(t) for t in all_tensors(model) if t.data_type != TensorProto.STRING)
    if total > LARGEST_MESSAGE:
        raise ModelError("the weights take more than 2 GiB; give the path of the model")
    resolve(model, Path(base), LARGEST_MESSAGE)
    return model


def _point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Lets the tensor refer to a span of a file."""
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def leave(model: onnx.ModelProto, path: Path, spans: Mapping[int, tuple[int, int]]) -> None:
    """Lets initializers whose bytes were stepped over refer to the model's own file; `values` reads them from it.

    `spans` is number of an initializer → from where, and how many bytes.
    """
    state = stamp(path) if spans else ""
    for number, (offset, length) in spans.items():
        tensor = model.graph.initializer[number]
        _point(tensor, str(path.absolute()), offset, length)
        tensor.external_data.add(key=STAMP, value=state)


def left(model: onnx.ModelProto) -> list[TensorProto]:
    """The initializers that `leave` has left in the model's own file."""
    return [t for t in model.graph.initializer if any(e.key == STAMP for e in t.external_data)]


def bring(model: onnx.ModelProto) -> onnx.ModelProto:
    """Reads these, in place; the model stands for itself then.

    Raises:
        ModelError: the file was written to since it was loaded.
    """
    for tensor in left(model):
        try:
            _inline(tensor, *span_of(tensor)[:3])
        except OSError as error:
            raise ModelError(f"{error}; start again") from error
    return model


def _inline(tensor: TensorProto, path: Path, offset: int, length: int) -> None:
    """Moves the span of the file into the tensor."""
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def write_external(model: onnx.ModelProto, data_path: Path) -> onnx.ModelProto:
    """Streams the large initializers of a model into a file.

    The model is not changed; the one that is returned refers to the file by its name.

    Returns:
        The model with its large initializers outside.
    """
    slim = shell(model, {"initializer"})
    with data_path.open("wb") as file:
        for tensor in model.graph.initializer:
            moved = slim.graph.initializer.add()
            if tensor.data_type == TensorProto.STRING or tensor_bytes(tensor) < INLINE_TENSOR:
                moved.CopyFrom(tensor)
                continue
            copy_except(moved, tensor, {"raw_data", "float_data", "int32_data", "int64_data", "double_data",
                                        "uint64_data", "external_data"})  # fmt: skip
            file.write(b"\0" * (-file.tell() % 4096))
            offset = file.tell()
            _stream(tensor, file)
            _point(moved, data_path.name, offset, file.tell() - offset)
    return slim


def _stream(tensor: TensorProto, file: Any) -> None:
    """Appends the bytes of a tensor to a file, in pieces where they come from another file."""
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {e.key: e.value for e in tensor.external_data}
        left = int(entries["length"])
        with Path(entries["location"]).open("rb") as source:
            source.seek(int(entries["offset"]))
            while left > 0:
                piece = source.read(min(left, 1 << 24))
                assert piece, f"{entries['location']} became shorter"
                file.write(piece)
                left -= len(piece)
    elif tensor.HasField("raw_data"):
        file.write(tensor.raw_data)
    else:
        file.write(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)


def declare_inputs(model: onnx.ModelProto, origin: onnx.ModelProto) -> None:
    """Declare a model's inputs as another declares those of the same names."""
    declared = {info.name: info for info in origin.graph.input}
    for info in model.graph.input:
        if info.name in declared:
            info.CopyFrom(declared[info.name])
