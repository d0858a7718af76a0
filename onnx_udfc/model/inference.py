"""onnx's shape inference with the values of shapes followed, which by itself takes time and memory without limit.

To follow the values of shapes, onnx writes out every tensor that reaches a Cast, Concat, Mul and the like along its
first axis: a Range of 2·10^9, or a Concat of a tensor with itself thirty times over, takes hours and all memory. So
nodes whose inputs or outputs are long, or may be, are hidden from it, and shown again once they are known to be short.
"""

from __future__ import annotations

import onnx
from onnx import shape_inference

FOLLOWED = ("Add", "Cast", "Concat", "Gather", "Mul", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze")
GROWING = ("ConstantOfShape", "Expand", "Pad", "Range", "Reshape", "Tile")
LONGEST = 1 << 14  # elements of a tensor whose values are followed
ROUNDS = 8
HIDDEN = "onnx_udfc.hidden"

Size = tuple[int, ...]


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its tensors as far as they can be inferred; its nodes may be changed.

    Raises:
        InferenceError, RuntimeError, ValueError: whatever onnx's inference raises.
    """
    known = known_sizes(shape_inference.infer_shapes(model))
    hidden = _long(model, known)
    if not hidden:
        return shape_inference.infer_shapes(model, data_prop=True)
    for _ in range(ROUNDS):
        result = shape_inference.infer_shapes(_without(model, hidden), data_prop=True)
        known |= known_sizes(result)
        left = _long(model, known)
        if not left < hidden:
            break
        hidden = left
    found = {info.name for info in result.graph.value_info}
    plain = shape_inference.infer_shapes(model)
    result.graph.value_info.extend(info for info in plain.graph.value_info if info.name not in found)
    return result


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `infer`; the model itself where inference fails."""
    try:
        return infer(model)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def known_sizes(model: onnx.ModelProto) -> dict[str, Size]:
    """Shapes in the model that are fully known."""
    graph = model.graph
    sizes: dict[str, Size] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in [*graph.input, *graph.output, *graph.value_info]:
        kind = info.type.tensor_type
        if info.type.HasField("tensor_type") and kind.HasField("shape"):
            dims = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            if all(d >= 0 for d in dims):
                sizes[info.name] = dims
    return sizes


def _long(model: onnx.ModelProto, known: dict[str, Size]) -> set[int]:
    """Indices of the nodes that inference would write out: with a long tensor, or one that may be long."""
    grown = {name for node in model.graph.node if node.op_type in GROWING for name in node.output}
    found = set()
    for i, node in enumerate(model.graph.node):
        if node.op_type in FOLLOWED:
            names = [name for name in (*node.input, *node.output) if name]
            if any(_is_long(known.get(name, ())) or (name in grown and name not in known) for name in names):
                found.add(i)
                grown.update(name for name in node.output if name not in known)
    return found


def _is_long(size: Size) -> bool:
    return bool(size) and size[0] > LONGEST


def _without(model: onnx.ModelProto, hidden: set[int]) -> onnx.ModelProto:
    """A copy in which some nodes are of an operator that nobody knows."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for i in hidden:
        copy.graph.node[i].domain = HIDDEN
    copy.opset_import.add(domain=HIDDEN, version=1)
    return copy
