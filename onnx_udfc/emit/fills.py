"""Constants of one value that the original computed are computed again: they may outweigh all codes of a small file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_udfc.model.names import Taken, names_in, unique_name
from onnx_udfc.model.protos import set_nodes, tensor_bytes
from onnx_udfc.model.values import values

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

LEAST = 1024  # bytes from which on a constant is worth a node and the list of its sizes
FIRST_OPSET = 9  # that has ConstantOfShape
KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64)


def compute_fills(model: onnx.ModelProto, network: Network) -> None:
    """Write initializers of one value as what makes them, in place, where the original file had nodes for them."""
    made = {name for node in network.origin.nodes.values() if node.op_type != "Constant" for name in node.output}
    stored = model.graph.initializer
    places = [i for i, tensor in enumerate(stored) if tensor.name in made and _is_fill(tensor)]
    if not places or network.graph.opset < FIRST_OPSET:
        return
    taken, lists = Taken(names_in(model.graph)), dict[tuple[int, ...], str]()
    nodes = []
    for tensor in [stored[i] for i in places]:
        dims = tuple(tensor.dims)
        if dims not in lists:
            lists[dims] = unique_name("fill.sizes", taken)
            stored.append(numpy_helper.from_array(np.array(dims, np.int64), lists[dims]))
        value = numpy_helper.from_array(np.asarray(values(tensor)).reshape(-1)[:1], "value")
        name = unique_name("fill", taken)
        nodes.append(helper.make_node("ConstantOfShape", [lists[dims]], [tensor.name], name=name, value=value))
    for i in reversed(places):
        del stored[i]
    set_nodes(model.graph, [*nodes, *model.graph.node])


def _is_fill(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in KINDS or tensor_bytes(tensor) < LEAST:
        return False
    held = np.ascontiguousarray(values(tensor)).reshape(-1)
    return held.tobytes() == held[:1].tobytes() * held.size  # bit by bit: zeros have signs
