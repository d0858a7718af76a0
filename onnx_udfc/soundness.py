"""What must hold of a model before anything is computed with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_udfc.errors import ModelError
from onnx_udfc.external import values
from onnx_udfc.protos import tensor_bytes

Array = NDArray[Any]

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
CHUNK = 1 << 22
REMARKS = ("doc_string", "producer_name", "producer_version", "key", "value")


def check(model: onnx.ModelProto) -> None:
    """Refuses models that nothing sensible can come from.

    Raises:
        ModelError: no graph, a tensor written twice, damaged weights, or weights that are not finite.
    """
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("the model has no graph; the file is damaged or not an ONNX model")
    if not model.opset_import:
        raise ModelError("the model declares no opset, so its operators have no meaning; export it again")
    _check_text(model)
    _check_names(model.graph)
    _check_values(model.graph)


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
    """Every tensor has one source."""
    written = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    if len({t.name for t in graph.initializer}) != len(graph.initializer):
        raise ModelError("two weights of the model have the same name; export the model again")
    if len({i.name for i in graph.input}) != len(graph.input):
        raise ModelError("two inputs of the model have the same name; export the model again")
    for name in (name for node in graph.node for name in node.output if name):
        if name in written:
            raise ModelError(f"tensor '{name}' is written twice; the model is damaged, export it again")
        written.add(name)


def _check_values(graph: onnx.GraphProto) -> None:
    """No weight is damaged; no float is NaN; no weight of a layer is infinite (bounds and masks may be)."""
    weights = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    for tensor in graph.initializer:
        tensor_bytes(tensor)
        array = values(tensor)
        if tensor.data_type not in FLOAT_TYPES:
            continue
        if all_finite(array):
            continue
        if has_nan(array):
            raise ModelError(f"weight '{tensor.name}' holds NaN; the model was broken before, train or export it again")
        if tensor.name in weights:
            raise ModelError(f"weight '{tensor.name}' holds infinite values; train or export the model again")


def has_nan(array: Array) -> bool:
    """Whether any value is NaN; a memory-mapped array is read piece by piece."""
    flat = array.reshape(-1)
    return any(bool(np.isnan(flat[i : i + CHUNK]).any()) for i in range(0, flat.size, CHUNK))


def all_finite(array: Array) -> bool:
    """Whether all values are finite."""
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[i : i + CHUNK]).all()) for i in range(0, flat.size, CHUNK))
