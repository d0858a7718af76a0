"""What must hold of a model before anything is computed with it."""

from __future__ import annotations

import math
from typing import Any, cast

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs

from onnx_udfc.errors import ModelError
from onnx_udfc.model.graph import standard
from onnx_udfc.model.protos import opset_of, reads, subgraphs, tensor_bytes
from onnx_udfc.model.values import all_finite, has_nan, values
from onnx_udfc.model.weights_fit import misfit

Array = NDArray[Any]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
LARGEST = 1 << 34  # elements
LARGEST_OPSET = 1000
BLOCKED = "com.microsoft.nchwc"  # domain
REMARKS = ("doc_string", "producer_name", "producer_version", "key", "value")


def check(model: onnx.ModelProto) -> None:
    """Refuses models that nothing sensible can come from.

    Raises:
        ModelError: no graph, a tensor written twice, damaged weights, or weights that are not finite.
    """
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the model has no graph; the file is damaged or not an ONNX model")
    if not model.graph.output:
        raise ModelError("the model has no outputs, so nothing that it computes is used; export it again")
    if not model.opset_import:
        raise ModelError("the model declares no opset, so its operators have no meaning; export it again")
    version = opset_of(model)
    if version is not None and not 0 < version < LARGEST_OPSET:
        raise ModelError(f"the model declares opset {version}; the file is damaged, export it again")
    _check_sizes(model.graph)
    _check_text(model)
    _check_names(model.graph)
    _check_nodes(model)
    _check_values(model.graph)


def refuse_blocked(model: onnx.ModelProto) -> None:
    """Refuses files whose convolutions hold their weights in the blocks of one kind of processor.

    onnxruntime writes them where it optimizes as far as it can: such a file is slow or does not run on other machines.

    Raises:
        ModelError: there are such convolutions.
    """
    if any(node.domain == BLOCKED and node.op_type == "Conv" for node in model.graph.node):
        raise ModelError(
            "onnxruntime has optimized the file for one kind of processor (weights in NCHWc blocks);"
            " give the file that it was made from, or one that is optimized no further than ORT_ENABLE_EXTENDED"
        )


def _check_text(model: onnx.ModelProto) -> None:
    """All names are text: protobuf hands out those that are not UTF-8 as bytes, and nothing can write them again.

    Remarks (doc strings, metadata, the producer) in another encoding are replaced in place, with marks for the bytes
    that cannot be read.
    """
    pending: list[Any] = [model]
    while pending:
        message = pending.pop()
        for entry, value in message.ListFields():
            if entry.type == entry.TYPE_MESSAGE:
                pending.extend([value] if hasattr(value, "ListFields") else value)
            elif entry.type == entry.TYPE_STRING and isinstance(value, bytes):
                if entry.name not in REMARKS:
                    raise ModelError(f"the name {value[:40]!r} in the model is not text; the file is damaged")
                setattr(message, entry.name, value.decode(errors="replace"))
            elif entry.type == entry.TYPE_STRING and any(isinstance(name, bytes) for name in value):
                raise ModelError("a tensor's name in the model is not text; the file is damaged, export it again")


def _check_names(graph: onnx.GraphProto) -> None:
    """Every tensor has one source, and every one that is used has one."""
    written = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    if len({t.name for t in graph.initializer}) != len(graph.initializer):
        raise ModelError("two weights of the model have the same name; export the model again")
    if len({i.name for i in graph.input}) != len(graph.input):
        raise ModelError("two inputs of the model have the same name; export the model again")
    for name in (name for node in graph.node for name in node.output if name):
        if name in written:
            raise ModelError(f"tensor '{name}' is written twice; the model is damaged, export it again")
        written.add(name)
    written.update(sparse.values.name for sparse in graph.sparse_initializer)
    used = [name for node in graph.node for name in reads(node)] + [o.name for o in graph.output]
    missing = next((name for name in used if name and name not in written), None)
    if missing is not None:
        raise ModelError(f"nothing in the model writes tensor '{missing}', which it uses; the file is damaged")


def _check_sizes(graph: onnx.GraphProto) -> None:
    """No input, and no sparse weight with all its zeros, is larger than any memory."""
    for info in graph.input:
        dims = [int(d.dim_value) for d in info.type.tensor_type.shape.dim if d.dim_value > 0]
        if math.prod(dims) > LARGEST:
            raise ModelError(
                f"input '{info.name}' has more than 2^{LARGEST.bit_length() - 1} elements; make it smaller"
            )
    for sparse in graph.sparse_initializer:
        if any(d < 0 for d in sparse.dims) or math.prod(sparse.dims) > LARGEST:
            raise ModelError(f"sparse weight '{sparse.values.name}' has shape {list(sparse.dims)}; the file is damaged")


def _check_nodes(model: onnx.ModelProto) -> None:
    """Standard operators have as many inputs and outputs and such attributes as they are defined with.

    onnx's version converter trusts that, and takes the whole process down where it does not hold.
    """
    version = opset_of(model)
    pending = list(model.graph.node) if version is not None else []
    shapes = constant_shapes(model.graph)
    while pending:
        node = pending.pop()
        pending.extend(inner for graph in subgraphs(node) for inner in graph.node)
        if standard(node.domain) and defs.has(node.op_type):
            fault = _fault(node, version or 1) or misfit(node, shapes, version or 1)
            if fault:
                name = node.name or next(iter(node.output), "")
                raise ModelError(f"node '{name}' ({node.op_type}) has {fault}; the file is damaged, export it again")


def _fault(node: onnx.NodeProto, version: int) -> str:
    """What is wrong with a node, by the definition of its operator at this opset; empty if nothing is."""
    try:
        schema = defs.get_schema(node.op_type, version)
    except defs.SchemaError:
        return ""
    if schema.deprecated:
        return ""
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"{len(node.input)} inputs"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        return f"{len(node.output)} outputs"
    present = {attribute.name: attribute for attribute in node.attribute}
    for name, definition in schema.attributes.items():
        if name not in present:
            if definition.required:
                return f"no attribute '{name}'"
        elif not present[name].ref_attr_name and present[name].type not in (0, int(cast(Any, definition.type))):
            return f"an attribute '{name}' of another type than it must be"
    return ""


def constant_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes of the constants of a graph."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {sparse.values.name: tuple(sparse.dims) for sparse in graph.sparse_initializer}
    held = ((n, a) for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value")
    return shapes | {node.output[0]: tuple(attribute.t.dims) for node, attribute in held if len(node.output) == 1}


def _check_values(graph: onnx.GraphProto) -> None:
    """No constant is damaged, and what the layers compute with is finite.

    Values that are not may stand elsewhere: as bounds, masks and markers, and where nothing reads them.
    """
    weights = _weights_in_use(graph)
    for tensor in graph.initializer:
        tensor_bytes(tensor)
        array = values(tensor)
        if tensor.name in weights:
            _check_finite(tensor, array)
    for node in graph.node:
        for tensor in (a.t for a in node.attribute if node.op_type == "Constant" and a.HasField("t")):
            if node.output[0] in weights:
                _check_finite(tensor, values(tensor))


def _weights_in_use(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants that layers read, of those layers that an output depends on."""
    producers = {name: node for node in graph.node for name in node.output if name}
    pending = [o.name for o in graph.output]
    weights: set[str] = set()
    while pending:
        node = producers.pop(pending.pop(), None)
        if node is not None:
            pending.extend(reads(node))
            weights.update(node.input[1:] if node.op_type in WEIGHTED else [])
    return weights


def _check_finite(tensor: TensorProto, array: Array) -> None:
    if tensor.data_type not in FLOAT_TYPES or all_finite(array):
        return
    if has_nan(array):
        raise ModelError(f"weight '{tensor.name}' holds NaN; the model was broken before, train or export it again")
    raise ModelError(f"weight '{tensor.name}' holds infinite values; train or export the model again")
