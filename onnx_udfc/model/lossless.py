"""ONNX to graphsurgeon, keeping beside the graph what graphsurgeon does not hold.

graphsurgeon drops metadata, doc strings, attributes of rare types, and initializers that nobody or only a subgraph
uses. So the original protos are kept, and `export` puts back verbatim whatever is unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import ref

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from onnx_udfc.errors import ModelError
from onnx_udfc.model.graph import standard
from onnx_udfc.model.names import Taken, names_in, unique_name
from onnx_udfc.model.protos import dense, in_order, opset_of, tensor_bytes
from onnx_udfc.model.values import values
from onnx_udfc.model.weights_fit import LISTS

Array = NDArray[Any]

KEPT = 1 << 20  # bytes of values that are kept once they are read: what protobuf hands out is always a copy


class Stored(LazyValues):  # type: ignore[misc]
    """The values of an initializer, read when they are first needed and never written: copies of a network share them.

    Attributes:
        source: the initializer, as it was in the model.
    """

    def __init__(self, source: onnx.TensorProto) -> None:
        """Keeps the initializer, unread."""
        self.source = source
        self._kept: Array | None = None
        self._used: Callable[[], Array | None] = lambda: None
        self.shape = tuple(int(d) for d in source.dims)
        self.dtype = helper.tensor_dtype_to_np_dtype(source.data_type)
        self.nbytes = 0 if source.data_type == onnx.TensorProto.STRING else tensor_bytes(source)

    @property
    def tensor(self) -> onnx.TensorProto:
        """A copy of the initializer: graphsurgeon's exporter writes a name into it."""
        copy = onnx.TensorProto()
        copy.CopyFrom(self.source)
        return copy

    @property
    def array(self) -> Array | None:
        """The values, if they were read; large ones only for as long as somebody uses them."""
        return self._used() if self._kept is None else self._kept

    def load(self) -> Array:
        """The values as a read-only array."""
        array = self.array
        if array is None:
            array = values(self.source)
            self._used = ref(array)
            if self.nbytes <= KEPT or isinstance(array, np.memmap):  # a view on a file takes nothing
                self._kept = array
        return array


class StoredSparse(SparseValues):  # type: ignore[misc]
    """The values of a sparse initializer; with all its zeros once they are needed."""

    def load(self) -> Array:
        """The values as a dense array of the initializer's type."""
        return values(dense(self.tensor))


@dataclass
class Origin:
    """What the graph was read from; shared by all copies of a network and not changed once it is read.

    Attributes:
        model: the model as loaded.
        nodes: node name in the graph → its NodeProto.
        carried: node name → names of the attributes that graphsurgeon cannot hold.
        stored: initializer name → its values.
        shared: name of a constant → name of the initializer it was copied from, where several nodes used that.
        halves: name of a float32 constant that a Cast made of 16-bit floats → their type, and its shape.
    """

    model: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    carried: dict[str, set[str]] = field(default_factory=dict)
    stored: dict[str, Stored] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    halves: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all nodes and tensors of the model."""
        return frozenset(names_in(self.model.graph))


def import_graph(model: onnx.ModelProto) -> tuple[gs.Graph, Origin]:
    """The top-level graph of the model as graphsurgeon holds it, and what it cannot hold.

    Node names are made unique. Initializers that are graph inputs too are no longer inputs.
    """
    proto, origin = model.graph, Origin(model)
    tensors = _import_tensors(proto, origin)
    opset = opset_of(model) or 1
    domains = list(model.opset_import)
    nodes = [_import_node(node, name, tensors) for node, name in zip(proto.node, _node_names(proto), strict=True)]
    for node, node_proto in zip(nodes, proto.node, strict=True):
        origin.nodes[node.name] = node_proto
        origin.carried[node.name] = _import_attributes(node, node_proto, tensors, opset, domains)
    inputs = [tensors[i.name] for i in proto.input if not isinstance(tensors[i.name], gs.Constant)]
    outputs = [tensors[o.name] for o in proto.output]
    graph = gs.Graph(nodes, inputs, outputs, proto.name, proto.doc_string, opset, domains, ir_version=model.ir_version)
    return graph, origin


def _import_tensors(proto: onnx.GraphProto, origin: Origin) -> OrderedDict[str, gs.Tensor]:
    """Name → tensor, for initializers, graph inputs and outputs and everything nodes write or read."""
    tensors: OrderedDict[str, gs.Tensor] = OrderedDict()
    for initializer in proto.initializer:
        stored = origin.stored[initializer.name] = Stored(initializer)
        tensors[initializer.name] = gs.Constant(initializer.name, stored)
    for sparse in proto.sparse_initializer:
        tensors[sparse.values.name] = gs.Constant(sparse.values.name, StoredSparse(sparse))
    for info in [*proto.input, *proto.output, *proto.value_info]:
        if info.name not in tensors:
            tensors[info.name] = _import_variable(info)
    for name in (name for node in proto.node for name in [*node.input, *node.output]):
        if name and name not in tensors:
            tensors[name] = gs.Variable(name)
    return tensors


def _import_variable(info: onnx.ValueInfoProto) -> gs.Variable:
    """A tensor with the type and shape that graphsurgeon can hold; without, if it knows no such type."""
    try:
        return OnnxImporter.import_tensor(info)
    except (KeyError, OnnxGraphSurgeonException):
        return gs.Variable(info.name)


def _node_names(proto: onnx.GraphProto) -> list[str]:
    """A unique name for every node: its own if no other node has it."""
    taken = Taken(node.name for node in proto.node if node.name)
    seen: set[str] = set()
    names = []
    for node in proto.node:
        base = node.name or f"{node.op_type}_{next(iter(node.output), '')}"
        repeated = not node.name or node.name in seen
        names.append(unique_name(base, taken) if repeated else base)
        seen.add(names[-1])
    return names


def _import_node(proto: onnx.NodeProto, name: str, tensors: OrderedDict[str, gs.Tensor]) -> gs.Node:
    """The node, without its attributes."""
    inputs = [tensors[i] if i else gs.Variable.empty() for i in proto.input]
    outputs = [tensors[o] if o else gs.Variable.empty() for o in proto.output]
    domain = None if standard(proto.domain) else proto.domain
    return gs.Node(proto.op_type, name, OrderedDict(), inputs, outputs, domain)


def _import_attributes(
    node: gs.Node, proto: onnx.NodeProto, tensors: OrderedDict[str, gs.Tensor], opset: int, domains: list[Any]
) -> set[str]:
    """Fills `node.attrs`; returns the names of the attributes that graphsurgeon cannot hold."""
    carried = set()
    for attribute in proto.attribute:
        if attribute.name in LISTS and attribute.type == onnx.AttributeProto.INTS and not attribute.ints:
            continue  # an empty list of strides is none: that is what onnxruntime makes of it
        try:
            imported = OnnxImporter.import_attributes([attribute], tensors, OrderedDict(), opset, domains)
        except (UnicodeDecodeError, KeyError, OnnxGraphSurgeonException) as error:  # a string may hold any bytes
            if attribute.HasField("g"):
                raise ModelError(f"the subgraph in '{node.name}' cannot be read; export the model again") from error
            imported = {}
        node.attrs.update(imported)
        if attribute.name not in imported:
            carried.add(attribute.name)
    return carried


def sorted_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The nodes in an order in which every tensor is written before it is read; unchanged where it is one already.

    Raises:
        ModelError: a node depends on its own output.
    """
    places = {id(node): i for i, node in enumerate(graph.nodes)}
    needs = [[places[id(p)] for t in tensors_read(n) for p in t.inputs if id(p) in places] for n in graph.nodes]
    return [graph.nodes[i] for i in in_order([node.name for node in graph.nodes], needs.__getitem__)]


def tensors_read(node: gs.Node) -> list[gs.Tensor]:
    """The tensors a node reads, those read inside its subgraphs included."""
    tensors = list(node.inputs)
    for subgraph in node.subgraphs(recursive=True):
        tensors.extend(t for inner in subgraph.nodes for t in inner.inputs)
    return tensors
