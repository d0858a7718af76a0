"""Whether the weights of a node fit it, as far as the file alone tells: ranks, numbers of channels, lists of a length.

onnxruntime says much of this too, but late and about what it made of the graph; here a line names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
Attributes = Mapping[str, Any]
Check = Callable[[Shapes, Attributes, int], str]

LISTS = ("strides", "dilations", "pads", "kernel_shape", "output_padding", "output_shape")


def misfit(node: onnx.NodeProto, shapes: Mapping[str, Shape], opset: int) -> str:
    """What about a node does not fit its weights; empty if nothing is known to."""
    if node.op_type not in CHECKS:
        return ""
    given = [shapes.get(name) for name in node.input]
    if any(shape is not None and 0 in shape for shape in given[1:]):
        return "a weight without any values"
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    return CHECKS[node.op_type](given, attributes, opset)


def _at(shapes: Shapes, index: int) -> Shape | None:
    return shapes[index] if index < len(shapes) else None


def _windows(attributes: Attributes, kernel: Shape | None, dims: int | None) -> str:
    """The lists of a convolution or a pooling: one number a dimension, two of pads; an empty one is none."""
    given = {name: list(attributes[name]) for name in LISTS if attributes.get(name)}
    for name, values in given.items():
        times = 2 if name == "pads" else 1
        if (
            dims is not None
            and len(values) != times * dims
            and not (name == "output_shape" and len(values) == dims + 2)
        ):
            return f"{len(values)} {name} for {dims} dimensions"
        least = 1 if name in ("strides", "dilations", "kernel_shape") else None
        if least is not None and min(values) < least:
            return f"{name} of {min(values)}"
    if kernel is not None and given.get("kernel_shape", list(kernel)) != list(kernel):
        return f"a kernel_shape of {given['kernel_shape']}, but a weight for {list(kernel)}"
    return ""


def _conv(shapes: Shapes, attributes: Attributes, _opset: int, transposed: bool = False) -> str:
    weight, bias = _at(shapes, 1), _at(shapes, 2)
    if weight is None:
        return _windows(attributes, None, None)
    if len(weight) < 3:
        return f"a weight with {len(weight)} axes, of at least 3"
    groups = int(attributes.get("group", 1))
    if groups < 1 or weight[0] % groups:
        return f"{groups} groups for {weight[0]} channels"
    channels = weight[1] * groups if transposed else weight[0]
    if bias is not None and bias != (channels,):
        return f"a bias of shape {list(bias)} for {channels} channels"
    return _windows(attributes, weight[2:], len(weight) - 2)


def _gemm(shapes: Shapes, attributes: Attributes, _opset: int) -> str:
    weight, bias = _at(shapes, 1), _at(shapes, 2)
    if weight is None:
        return ""
    if len(weight) != 2:
        return f"a weight with {len(weight)} axes, not 2"
    channels = weight[0 if attributes.get("transB", 0) else 1]
    if bias is not None and (len(bias) > 2 or bias[-1:] not in ((), (1,), (channels,))):
        return f"a bias of shape {list(bias)} for {channels} channels"
    return ""


def _batch_norm(shapes: Shapes, attributes: Attributes, _opset: int) -> str:
    if not attributes.get("spatial", 1):
        return ""
    return _vectors(shapes, attributes, _opset)


def _vectors(shapes: Shapes, _attributes: Attributes, _opset: int) -> str:
    """Parameters of one number a channel each."""
    known = [shape for shape in shapes[1:] if shape is not None]
    if any(len(shape) != 1 for shape in known) or len(set(known)) > 1:
        return f"parameters of shapes {', '.join(str(list(shape)) for shape in known)}"
    return ""


def _group_norm(shapes: Shapes, attributes: Attributes, opset: int) -> str:
    groups, scale = int(attributes["num_groups"]), _at(shapes, 1)
    if groups < 1 or (scale is not None and len(scale) == 1 and scale[0] % groups):
        return f"{groups} groups for parameters of shape {list(scale or ())}"
    if opset < 21 and scale is not None and scale != (groups,):
        return f"parameters of shape {list(scale)} for {groups} groups"
    return _vectors(shapes, attributes, opset)


CHECKS: dict[str, Check] = {
    "AveragePool": lambda _, attributes, __: _windows(
        attributes, None, len(attributes.get("kernel_shape", ())) or None
    ),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": lambda shapes, attributes, opset: _conv(shapes, attributes, opset, transposed=True),
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _vectors,
    "MaxPool": lambda _, attributes, __: _windows(attributes, None, len(attributes.get("kernel_shape", ())) or None),
}
