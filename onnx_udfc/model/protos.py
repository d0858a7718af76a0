"""Walking over protobuf models, and copying parts of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.errors import ModelError


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
    count = int(np.prod([int(d) for d in tensor.dims], dtype=object)) if tensor.dims else 1
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    name = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else ""
    if name in bits:
        return (count * bits[name] + 7) // 8
    if name in ("", "UNDEFINED"):
        raise ModelError(f"tensor '{tensor.name}' has no known type; the file is damaged, export the model again")
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


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

    Args:
        model: not changed.
        largest: initializers of more bytes become inputs of the same type and shape.
    """
    light = onnx.ModelProto()
    copy_except(light, model, {"graph"})
    light.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    copy_except(light.graph, model.graph, {"initializer"})
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
        ModelError: the graph has a cycle.
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    for root in range(len(graph.node)):
        stack, active = [(root, False)], set()
        while stack:
            i, ready = stack.pop()
            if ready:
                done[i] = None
                active.discard(i)
            elif i not in done:
                if i in active:
                    raise ModelError(f"node '{graph.node[i].name}' depends on its own output; export the model again")
                active.add(i)
                stack.append((i, True))
                needs = [producer[name] for name in reads(graph.node[i]) if name in producer]
                stack.extend((p, False) for p in reversed(needs) if p not in done)
    return [graph.node[i] for i in done]
