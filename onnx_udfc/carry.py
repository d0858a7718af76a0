"""ONNX to graphsurgeon and back, carrying across what graphsurgeon does not keep.

graphsurgeon drops metadata, doc strings, attributes of rare types, and initializers that nobody or only a subgraph
uses. So the original protos are kept beside the graph, and whatever is unchanged goes back verbatim.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter, get_onnx_tensor_shape
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnx_udfc.errors import ModelError

Array = NDArray[Any]


class Stored(LazyValues):  # type: ignore[misc]
    """The values of an initializer, read once and never written: copies of a network share them."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        """Keeps the tensor, unread."""
        super().__init__(tensor)
        self.array: Array | None = None

    def load(self) -> Array:
        """The values as a read-only array."""
        if self.array is None:
            self.array = numpy_helper.to_array(self.tensor)
            self.array.flags.writeable = False
        return self.array


@dataclass
class Origin:
    """What the graph was read from; shared by all copies of a network and never changed.

    Attributes:
        model: the model as loaded.
        nodes: node name in the graph → its NodeProto.
        carried: node name → names of the attributes that graphsurgeon cannot hold.
        stored: the values of every initializer.
        shared: name of an unshared constant → name of the initializer it was copied from.
    """

    model: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    carried: dict[str, set[str]] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)


def import_graph(model: onnx.ModelProto) -> tuple[gs.Graph, Origin]:
    """The top-level graph of the model as graphsurgeon holds it, and what it cannot hold.

    Node names are made unique. Initializers that are graph inputs too are no longer inputs.

    Raises:
        ModelError: two tensors have the same name.
    """
    proto, origin = model.graph, Origin(model)
    tensors = _import_tensors(proto, origin)
    opset = next((d.version for d in model.opset_import if d.domain in ("", "ai.onnx")), 1)
    domains = list(model.opset_import)
    nodes = [_import_node(node, name, tensors) for node, name in zip(proto.node, _node_names(proto), strict=True)]
    for node, node_proto in zip(nodes, proto.node, strict=True):
        origin.nodes[node.name] = node_proto
        origin.carried[node.name] = _import_attributes(node, node_proto, tensors, opset, domains)
    inputs = [tensors[i.name] for i in proto.input if not isinstance(tensors[i.name], gs.Constant)]
    outputs = [tensors.setdefault(o.name, gs.Variable(o.name)) for o in proto.output]
    graph = gs.Graph(nodes, inputs, outputs, proto.name, proto.doc_string, opset, domains, ir_version=model.ir_version)
    return graph, origin


def _import_tensors(proto: onnx.GraphProto, origin: Origin) -> OrderedDict[str, gs.Tensor]:
    """Name → tensor, for initializers, graph inputs and everything nodes write or read."""
    tensors: OrderedDict[str, gs.Tensor] = OrderedDict()
    for initializer in proto.initializer:
        stored = Stored(initializer)
        origin.stored.append(stored)
        tensors[initializer.name] = gs.Constant(initializer.name, stored)
    for sparse in proto.sparse_initializer:
        tensors[sparse.values.name] = gs.Constant(sparse.values.name, SparseValues(sparse))
    for info in [*proto.input, *proto.output, *proto.value_info]:
        if info.name not in tensors:
            tensors[info.name] = OnnxImporter.import_tensor(info)
    produced = {i.name for i in proto.input} | {i.name for i in proto.initializer}
    for node in proto.node:
        for name in filter(None, node.output):
            if name in produced:
                raise ModelError(f"tensor '{name}' is written twice; the file is damaged, export the model again")
            produced.add(name)
        for name in filter(None, [*node.input, *node.output]):
            if name not in tensors:
                tensors[name] = gs.Variable(name)
    return tensors


def _node_names(proto: onnx.GraphProto) -> list[str]:
    """A unique name for every node: its own where it has one."""
    taken = {node.name for node in proto.node if node.name}
    seen: set[str] = set()
    names = []
    for node in proto.node:
        name = node.name
        if not name or name in seen:
            base = name or f"{node.op_type}_{next(iter(node.output), '')}"
            name, number = base, 1
            while name in taken:
                number += 1
                name = f"{base}_{number}"
            taken.add(name)
        seen.add(name)
        names.append(name)
    return names


def _import_node(proto: onnx.NodeProto, name: str, tensors: OrderedDict[str, gs.Tensor]) -> gs.Node:
    """The node, without its attributes."""
    inputs = [tensors[i] if i else gs.Variable.empty() for i in proto.input]
    outputs = [tensors[o] if o else gs.Variable.empty() for o in proto.output]
    domain = proto.domain if proto.domain and proto.domain != "ai.onnx" else None
    return gs.Node(proto.op_type, name, OrderedDict(), inputs, outputs, domain)


def _import_attributes(
    node: gs.Node, proto: onnx.NodeProto, tensors: OrderedDict[str, gs.Tensor], opset: int, domains: list[Any]
) -> set[str]:
    """Fills `node.attrs`; returns the names of the attributes that graphsurgeon cannot hold."""
    carried = set()
    for attribute in proto.attribute:
        try:
            imported = OnnxImporter.import_attributes([attribute], tensors, OrderedDict(), opset, domains)
        except UnicodeDecodeError:
            imported = {}
        node.attrs.update(imported)
        if attribute.name not in imported:
            carried.add(attribute.name)
    return carried


def export_model(graph: gs.Graph, origin: Origin) -> onnx.ModelProto:
    """The graph as a model, with everything unchanged taken verbatim from the original."""
    model, old = onnx.ModelProto(), origin.model
    for entry, value in old.ListFields():
        if entry.name != "graph":
            _copy_field(model, entry, value)
    _add_domains(model, graph)
    proto = model.graph
    for entry, value in old.graph.ListFields():
        if entry.name in ("name", "doc_string", "metadata_props", "quantization_annotation"):
            _copy_field(proto, entry, value)
    aliases = _aliases(graph, origin)
    proto.node.extend(_export_node(node, origin, aliases) for node in sorted_nodes(graph))
    _export_values(proto, graph, origin, aliases)
    return model


def _copy_field(target: Any, entry: Any, value: Any) -> None:
    """Copies one field of a protobuf message, be it a scalar, a message or a list."""
    if isinstance(value, (str, bytes, int, float)):
        setattr(target, entry.name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, entry.name).CopyFrom(value)
    else:
        getattr(target, entry.name).extend(value)


def _add_domains(model: onnx.ModelProto, graph: gs.Graph) -> None:
    """Declares the domains of new nodes."""
    known = {d.domain for d in model.opset_import}
    for domain in sorted({node.domain for node in graph.nodes if node.domain} - known):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def sorted_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The nodes in an order in which every tensor is written before it is read; unchanged where it is one already.

    Raises:
        ModelError: the graph has a cycle.
    """
    ids = {id(node) for node in graph.nodes}
    needs = {id(n): [p for t in _reads(n) for p in t.inputs if id(p) in ids and p is not n] for n in graph.nodes}
    done: dict[int, gs.Node] = {}
    for root in graph.nodes:
        stack, open_ids = [(root, False)], set()
        while stack:
            node, ready = stack.pop()
            if ready:
                done[id(node)] = node
                open_ids.discard(id(node))
            elif id(node) not in done:
                if id(node) in open_ids:
                    raise ModelError(f"node '{node.name}' depends on its own output; export the model again")
                open_ids.add(id(node))
                stack.append((node, True))
                stack.extend((p, False) for p in reversed(needs[id(node)]) if id(p) not in done)
    return list(done.values())


def _reads(node: gs.Node) -> list[gs.Tensor]:
    """The tensors a node reads, those read inside its subgraphs included."""
    tensors = list(node.inputs)
    for subgraph in node.subgraphs(recursive=True):
        tensors.extend(t for inner in subgraph.nodes for t in inner.inputs)
    return tensors


def _export_node(node: gs.Node, origin: Origin, aliases: dict[str, str]) -> onnx.NodeProto:
    """The node; name, doc string, metadata and unchanged attributes of the original where it comes from one."""
    proto, old = onnx.NodeProto(), origin.nodes.get(node.name)
    if old is None or old.op_type != node.op or (node.domain or "") != old.domain.replace("ai.onnx", "", 1):
        old = onnx.NodeProto(domain=node.domain or "")
    for entry, value in old.ListFields():
        if entry.name not in ("input", "output", "attribute", "name", "op_type"):
            _copy_field(proto, entry, value)
    proto.op_type, proto.name = node.op, node.name
    proto.input.extend(aliases.get(t.name, t.name) for t in node.inputs)
    proto.output.extend(t.name for t in node.outputs)
    carried = origin.carried.get(node.name, set())
    for attribute in old.attribute:
        if attribute.name in carried or _unchanged(attribute, node.attrs.get(attribute.name)):
            proto.attribute.append(attribute)
    kept = {attribute.name for attribute in proto.attribute}
    proto.attribute.extend(_attribute(key, value) for key, value in node.attrs.items() if key not in kept)
    return proto


def _unchanged(old: onnx.AttributeProto, value: Any) -> bool:
    """Whether graphsurgeon's value is still the one of the proto; subgraphs and unread tensors always are."""
    if isinstance(value, gs.Graph) or (isinstance(value, gs.Constant) and isinstance(value._values, LazyValues)):
        return True
    if value is None or isinstance(value, gs.Constant):
        return False
    original = helper.get_attribute_value(old)
    if isinstance(original, bytes):
        return bool(value == original.decode())
    if old.type == onnx.AttributeProto.STRINGS:
        return bool(list(value) == [s.decode() for s in original])
    return bool((list(value) == list(original)) if isinstance(value, (list, tuple)) else value == original)


def _attribute(key: str, value: Any) -> onnx.AttributeProto:
    """A new attribute; a constant becomes a tensor."""
    if isinstance(value, gs.Constant):
        value = numpy_helper.from_array(value.values, value.name)
    return helper.make_attribute(key, value)


def _export_values(proto: onnx.GraphProto, graph: gs.Graph, origin: Origin, aliases: dict[str, str]) -> None:
    """Inputs, outputs, initializers and value_info, in the order of the original, new ones after them."""
    old = origin.model.graph
    infos = {info.name: info for info in [*old.value_info, *old.output, *old.input]}
    proto.input.extend(infos[t.name] if t.name in infos else _value_info(t) for t in graph.inputs)
    proto.output.extend(infos[t.name] if t.name in infos else _value_info(t) for t in graph.outputs)
    tensors = graph.tensors()
    ends = {t.name for t in [*graph.inputs, *graph.outputs]}
    variables = {k: t for k, t in tensors.items() if isinstance(t, gs.Variable) and k not in ends}
    for info in old.value_info:
        tensor = variables.get(info.name)
        if tensor is not None and tensor.shape == get_onnx_tensor_shape(info):
            proto.value_info.append(info)
            del variables[info.name]
    proto.value_info.extend(_value_info(t) for t in variables.values() if t.dtype is not None and t.shape is not None)
    constants = {k: t for k, t in tensors.items() if isinstance(t, gs.Constant) and k not in aliases}
    _export_constants(proto, constants, graph, origin)


def _value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Type and shape of a tensor that the original did not describe."""
    if tensor.dtype is None:
        return onnx.ValueInfoProto(name=tensor.name)
    dtype = tensor.dtype if isinstance(tensor.dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)


def _export_constants(
    proto: onnx.GraphProto, constants: dict[str, gs.Constant], graph: gs.Graph, origin: Origin
) -> None:
    """Initializers; those of the original that the graph lost sight of (unused, or used in a subgraph) are kept."""
    stored = {id(s.array): s.tensor for s in origin.stored if s.array is not None}
    produced = {t.name for node in graph.nodes for t in node.outputs} | {t.name for t in graph.inputs}
    old = origin.model.graph
    kept = used_initializers(old)
    for initializer in old.initializer:
        constant = constants.pop(initializer.name, None)
        if constant is not None:
            proto.initializer.append(_tensor(constant, stored, initializer))
        elif initializer.name in kept and initializer.name not in produced:
            proto.initializer.append(initializer)
    for sparse in old.sparse_initializer:
        constants.pop(sparse.values.name, None)
        proto.sparse_initializer.append(sparse)
    proto.initializer.extend(_tensor(c, stored, onnx.TensorProto()) for c in constants.values())


def used_initializers(graph: onnx.GraphProto) -> set[str]:
    """Initializers that the top-level nodes do not use: those of subgraphs, and those that nobody uses."""
    top = {name for node in graph.node for name in node.input}
    return ({i.name for i in graph.initializer} - top) | outer_names(graph)


def outer_names(graph: onnx.GraphProto) -> set[str]:
    """All tensor names that are read inside subgraphs, at any depth."""
    names: set[str] = set()
    pending = [g for node in graph.node for a in node.attribute for g in [a.g, *a.graphs]]
    while pending:
        inner = pending.pop()
        names.update(name for node in inner.node for name in node.input)
        names.update(o.name for o in inner.output)
        pending.extend(g for node in inner.node for a in node.attribute for g in [a.g, *a.graphs])
    return names


def _tensor(constant: gs.Constant, stored: dict[int, onnx.TensorProto], old: onnx.TensorProto) -> onnx.TensorProto:
    """The constant as a tensor: the original bytes if it was never written to, raw_data else."""
    values = constant._values
    source = values.tensor if isinstance(values, LazyValues) else stored.get(id(values))
    tensor = onnx.TensorProto()
    if source is not None:
        tensor.CopyFrom(source)
        tensor.name = constant.name
        return tensor
    tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), constant.name)
    tensor.doc_string = old.doc_string
    tensor.metadata_props.extend(old.metadata_props)
    return tensor


def _aliases(graph: gs.Graph, origin: Origin) -> dict[str, str]:
    """Unshared constants that still hold the same values: name → the one to write in its place."""
    stored = {id(s.array): id(s) for s in origin.stored if s.array is not None}
    first: dict[tuple[str, int], str] = {}
    aliases = {}
    ends = {t.name for t in graph.outputs}
    for name, tensor in graph.tensors().items():
        source = origin.shared.get(name)
        if source is None or not isinstance(tensor, gs.Constant) or name in ends:
            continue
        key = (source, stored.get(id(tensor._values), id(tensor._values)))
        kept = first.setdefault(key, name)
        if kept != name:
            aliases[name] = kept
    return aliases
