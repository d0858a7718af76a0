"""How many bytes of a file each layer's weights take, as they are written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx

from onnx_udfc.model.protos import constants, tensor_bytes

UNPACKED_BY = (
    "Cast", "DequantizeLinear", "Div", "Gather", "Identity", "Mod", "Mul", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze", "Concat", "Add", "Sub",
)  # fmt: skip


def layer_bytes(model: onnx.ModelProto, names: Collection[str]) -> dict[str, int]:
    """Return name → bytes of the constants that a layer reads, through what unpacks and scales them.

    A constant that several layers read counts for the first of them; a layer that is not there has no entry.
    """
    held = {name: tensor_bytes(tensor) for name, tensor in constants(model.graph).items()}
    makers = {tensor: node for node in model.graph.node for tensor in node.output if tensor}
    wanted, found = frozenset(names), dict[str, int]()
    for node in model.graph.node:
        if node.name in wanted:
            read = set(_behind(node.input[1:], held, makers))
            found[node.name] = sum(held.pop(tensor) for tensor in read)
    return found


def _behind(tensors: Collection[str], held: Mapping[str, int], makers: Mapping[str, onnx.NodeProto]) -> Iterator[str]:
    """Constants that the tensors are made of."""
    waiting, seen = list(tensors), set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in held:
            yield tensor
        elif (node := makers.get(tensor)) is not None and node.op_type in UNPACKED_BY:
            waiting += node.input
