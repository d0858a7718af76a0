"""The codes and scales that tensors of a written model are made of: names of what was added are numbers."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from onnx_udfc.model.protos import all_graphs

WHOLE = (TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)
CODES_AT = {"Cast": 0, "Reshape": 0, "Slice": 0, "Mod": 0, "Div": 0, "Gather": 1, "Identity": 0}  # input → its place


def stored(model: onnx.ModelProto) -> dict[str, tuple[TensorProto, TensorProto]]:
    """Name of a tensor → the codes and the scale that a Mul or a DequantizeLinear makes it of."""
    graphs = list(all_graphs(model.graph))
    constants = {t.name: t for graph in graphs for t in graph.initializer}
    nodes = [node for graph in graphs for node in graph.node]
    writers = {name: node for node in nodes for name in node.output}
    narrowed = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Cast"}
    found = {}
    for node in nodes:
        if node.op_type not in ("Mul", "DequantizeLinear") or node.input[1] not in constants:
            continue
        name = node.input[0]
        while name in writers and writers[name].op_type in CODES_AT:
            name = writers[name].input[CODES_AT[writers[name].op_type]]
        if name in constants and constants[name].data_type in WHOLE:
            made = node.output[0]
            found[narrowed.get(made, made)] = constants[name], constants[node.input[1]]
    return found
