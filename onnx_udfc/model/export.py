"""The graph back to ONNX, with everything unchanged taken verbatim from the model it was read from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import inferred
from onnx_udfc.model.lossless import Origin, Stored, sorted_nodes
from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.protos import copy_except, inner_reads, shell, skeleton

GRAPH_FIELDS = {"node", "input", "output", "initializer", "sparse_initializer", "value_info"}
SHAPES = 1 << 14  # initializers of more bytes hold no shapes


def export_model(graph: gs.Graph, origin: Origin, without: Collection[str] = ()) -> onnx.ModelProto:
    """The graph as a model of its own.

    `without` are names of constants that are left out, for the caller to put others in their places.

    Raises:
        ModelError: a node depends on its own output.
    """
    model = shell(origin.model, GRAPH_FIELDS)
    if len(graph.inputs) < len(origin.model.graph.input):
        model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    known = {d.domain for d in model.opset_import}
    for domain in sorted({node.domain for node in graph.nodes if node.domain} - known):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    aliases = _aliases(graph, origin, without)
    renamed = _renamed(graph, origin)
    model.graph.node.extend(_export_node(node, origin, aliases | renamed) for node in sorted_nodes(graph))
    infos = {i.name: i for i in [*origin.model.graph.output, *origin.model.graph.input]}
    model.graph.input.extend(infos[t.name] if t.name in infos else value_info(t) for t in graph.inputs)
    model.graph.output.extend(infos[t.name] if t.name in infos else value_info(t) for t in graph.outputs)
    constants = {k: t for k, t in graph.tensors().items() if isinstance(t, gs.Constant) and k not in aliases}
    left_out = [t for k, t in constants.items() if k in without]
    constants = {renamed.get(k, k): t for k, t in constants.items() if k not in without}
    _export_constants(model.graph, constants, graph, origin)
    _export_shapes(model, graph, origin, left_out)
    return model


def _export_node(node: gs.Node, origin: Origin, aliases: dict[str, str]) -> onnx.NodeProto:
    """The node; name, doc string, metadata and unchanged attributes of the original where it comes from one."""
    proto, old = onnx.NodeProto(), origin.nodes.get(node.name)
    same = old is not None and old.op_type == node.op and (standard(old.domain) or old.domain == node.domain)
    if old is None or not same:
        old = onnx.NodeProto(domain=node.domain or "")
    copy_except(proto, old, {"input", "output", "attribute", "name", "op_type"})
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


def _out_of_sight(origin: Origin) -> set[str]:
    """Initializers that the top-level nodes do not read: those that nobody reads, and those that subgraphs read."""
    old = origin.model.graph
    read = {name for node in old.node for name in node.input}
    return ({t.name for t in old.initializer} - read) | (inner_reads(old) & set(origin.stored))


def _renamed(graph: gs.Graph, origin: Origin) -> dict[str, str]:
    """New constants that happen to have the name of an initializer out of sight: name → the one to write instead."""
    hidden, tensors = _out_of_sight(origin), graph.tensors()
    taken = Taken([*tensors, *origin.stored])
    ends = {t.name for t in graph.outputs}
    new = [k for k, t in tensors.items() if k in hidden and isinstance(t, gs.Constant) and k not in ends]
    return {k: unique_name(k, taken) for k in new if _source(tensors[k], origin) is not origin.stored[k]}


def _source(constant: gs.Constant, origin: Origin) -> Stored | None:
    """The initializer that the constant's values are, if nothing was written to it."""
    values = constant._values
    if isinstance(values, Stored):
        return values
    name = origin.shared.get(constant.name, constant.name)
    stored = origin.stored.get(name)
    return stored if stored is not None and stored.array is values else None


def _export_constants(
    proto: onnx.GraphProto, constants: dict[str, gs.Constant], graph: gs.Graph, origin: Origin
) -> None:
    """Initializers, in the order of the original, new ones after them; those out of sight are kept."""
    old = origin.model.graph
    produced = {t.name for node in graph.nodes for t in node.outputs} | {t.name for t in graph.inputs}
    hidden = _out_of_sight(origin)
    for initializer in old.initializer:
        constant = constants.pop(initializer.name, None)
        if constant is not None:
            proto.initializer.append(_tensor(initializer.name, constant, origin, initializer))
        elif initializer.name in hidden and initializer.name not in produced:
            proto.initializer.append(initializer)
    for sparse in old.sparse_initializer:
        constant = constants.get(sparse.values.name)
        if constant is None or isinstance(constant._values, SparseValues):  # else it was written to, and is dense now
            constants.pop(sparse.values.name, None)
            proto.sparse_initializer.append(sparse)
    proto.initializer.extend(_tensor(name, c, origin, onnx.TensorProto()) for name, c in constants.items())


def _tensor(name: str, constant: gs.Constant, origin: Origin, old: onnx.TensorProto) -> onnx.TensorProto:
    """The constant as a tensor: the original bytes if nothing was written to it, else raw_data."""
    source = _source(constant, origin)
    if source is not None:
        tensor = source.tensor
        tensor.name = name
        return tensor
    array = np.asarray(constant.values)
    tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    tensor.doc_string = old.doc_string
    tensor.metadata_props.extend(old.metadata_props)
    return tensor


def _aliases(graph: gs.Graph, origin: Origin, without: Collection[str]) -> dict[str, str]:
    """Constants copied from one initializer that still hold the same: name → the one to write in its place.

    One that is written never takes the place of one that is left out, and the other way round. What subgraphs read is
    written in any case.
    """
    tensors = graph.tensors()
    written = (_out_of_sight(origin) & set(origin.stored)) - set(tensors)
    ends = {t.name for t in graph.outputs}
    kept = ends | set(without)
    first: dict[str, list[gs.Constant]] = {}
    aliases = {}
    for name, tensor in tensors.items():
        source = origin.shared.get(name)
        if source is None or not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):
            continue
        if source in written and name not in kept and _source(tensor, origin) is origin.stored[source]:
            aliases[name] = source
            continue
        twins = first.setdefault(source, [])
        twin = next((t for t in twins if (t.name in without) == (name in without) and _same(t, tensor)), None)
        if twin is None or name in ends:
            twins.append(tensor)
        else:
            aliases[name] = twin.name
    return aliases


def _same(one: gs.Constant, other: gs.Constant) -> bool:
    """Whether two constants hold the same values; copies that were not written to share one array."""
    if one._values is other._values or one.values is other.values:
        return True
    same_type = one.values.dtype == other.values.dtype and one.values.shape == other.values.shape
    return bool(same_type and one.values.tobytes() == other.values.tobytes())


def _export_shapes(model: onnx.ModelProto, graph: gs.Graph, origin: Origin, left_out: list[gs.Constant]) -> None:
    """value_info of the tensors that the original described and that still exist.

    Verbatim where no constant has changed its shape; else as onnx infers it anew, or not at all.
    """
    written = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    constants = {t.name: (t.data_type, t.dims) for t in model.graph.initializer}
    constants |= {t.name: (helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype)), t.shape) for t in left_out}
    infos = [info for info in origin.model.graph.value_info if info.name in written or info.name in constants]
    if infos and _reshaped(graph, origin):
        known = _inferred(model, left_out)
        known |= {k: helper.make_tensor_value_info(k, kind, list(dims)) for k, (kind, dims) in constants.items()}
        infos = [_merged(info, known[info.name]) for info in infos if info.name in known]
    model.graph.value_info.extend(infos)


def _reshaped(graph: gs.Graph, origin: Origin) -> bool:
    """Whether some constant has another shape than in the original."""
    return any(
        isinstance(tensor, gs.Constant)
        and name in origin.stored
        and tuple(tensor.shape) != tuple(origin.stored[name].shape)
        for name, tensor in graph.tensors().items()
    )


def _inferred(model: onnx.ModelProto, left_out: list[gs.Constant]) -> dict[str, onnx.ValueInfoProto]:
    """Types and shapes of the tensors in the model, by name."""
    light = skeleton(model, SHAPES)
    light.graph.input.extend(value_info(t) for t in left_out)
    return {info.name: info for info in inferred(light).graph.value_info}


def _merged(old: onnx.ValueInfoProto, new: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The inferred type with the original's doc string and names of dimensions."""
    merged = onnx.ValueInfoProto()
    merged.CopyFrom(old)
    merged.type.CopyFrom(new.type)
    dims, names = merged.type.tensor_type.shape.dim, old.type.tensor_type.shape.dim
    if len(dims) == len(names):
        for dim, name in zip(dims, names, strict=True):
            if not dim.HasField("dim_value"):
                dim.CopyFrom(onnx.TensorShapeProto.Dimension(dim_param=name.dim_param))
    return merged


def value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Type and shape of an input or output that the original did not have."""
    if tensor.dtype is None:
        return onnx.ValueInfoProto(name=tensor.name)
    dtype = tensor.dtype if isinstance(tensor.dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)
