"""How a layer of the graph looks at its input, and how it is run with other weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.model.layers import Layer, kind_of
from onnx_udfc.numerics import products
from onnx_udfc.numerics.moments import Window
from onnx_udfc.runtime.machine import make_room
from onnx_udfc.runtime.walk import Pieces, Value, run_nodes

Floats = NDArray[Any]

SHARED = 6e7  # multiply-adds: below, to pack the weights for a session of their own takes as long as it saves


def window_of(layer: Layer, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Window:
    """The layer's geometry for inputs and outputs of these shapes (N, C, *space)."""
    if not layer.kernel:
        return Window()
    found = _geometry(layer.node, layer.kernel, input_shape[2:], output_shape[2:])
    return replace(found, groups=layer.groups, transposed=layer.stuffed)


def pooling_window(node: gs.Node, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Window:
    """The geometry of a pooling for inputs and outputs of these shapes (N, C, *space)."""
    return _geometry(node, tuple(node.attrs["kernel_shape"]), input_shape[2:], output_shape[2:])


def _geometry(node: gs.Node, kernel: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Window:
    """How a node looks at an input of these spatial sizes."""
    strides = tuple(node.attrs.get("strides", [1] * len(kernel)))
    dilations = tuple(node.attrs.get("dilations", [1] * len(kernel)))
    return Window(kernel, strides, dilations, _begin_pads(node, kernel, strides, dilations, inputs, outputs))


def pooled_shape(model: onnx.ModelProto, node: gs.Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a pooling makes of one (N, C, *space): what the runtime makes of it, rounding and all."""
    made = helper.make_node(node.op, ["x"], ["y"], **_stated(node.attrs))
    y = run_nodes(model, [made], {"x": np.zeros((1, 1, *shape[2:]), np.float32)}, ["y"], [])["y"]
    return (*shape[:2], *y.shape[2:])


def _begin_pads(
    node: gs.Node,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> tuple[int, ...]:
    """Padding before the first pixel of each dimension; automatic padding is worked out from the shapes."""
    attrs, dims, transposed = node.attrs, len(kernel), kind_of(str(node.op)).stuffed
    automatic = attrs.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in attrs:
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = zip(inputs, outputs, strides, reach, strict=True)
        if transposed:
            extra = attrs.get("output_padding", [0] * dims)
            total = [max(0, s * (i - 1) + e + r - o) for (i, o, s, r), e in zip(sizes, extra, strict=True)]
        else:
            total = [max(0, (o - 1) * s + r - i) for i, o, s, r in sizes]
        # A convolution pads the odd pixel at the end for SAME_UPPER; the transposed one is its mirror.
        lower = automatic != "SAME_UPPER" if transposed else automatic == "SAME_LOWER"
        return tuple(t - t // 2 if lower else t // 2 for t in total)
    return (0,) * dims if automatic == "VALID" else tuple(attrs.get("pads", [0] * 2 * dims)[:dims])


def run_layer(
    model: onnx.ModelProto, layer: Layer, x: Value, matrix: Floats, bias: Floats, pieces: Pieces | None = None
) -> Value:
    """Output of the layer for input x with other weights, in float32.

    `matrix` is (groups, O/groups, d) as `Layer.matrix`, `bias` (O,). A small layer takes its weights as inputs, so that
    those of one geometry share one session of `pieces`.

    Raises:
        ModelError: its input does not fit its weights.
    """
    x = x.astype(np.float32, copy=False)
    if not layer.kernel:
        if x.shape[-1] != matrix.shape[2]:
            raise ModelError(
                f"{layer.name} takes rows of {matrix.shape[2]} values and gets {x.shape[-1]}: it cannot run"
            )
        make_room(4 * len(matrix[0]) * x.size // x.shape[-1])
        flat = products.product(x.reshape(-1, x.shape[-1]), matrix[0].T.astype(np.float32))
        flat += bias.astype(np.float32)
        return np.asarray(flat.reshape(*x.shape[:-1], -1))
    channels = layer.groups * matrix.shape[2] // math.prod(layer.kernel)
    if x.ndim != 2 + len(layer.kernel) or x.shape[1] != channels:
        raise ModelError(f"{layer.name} takes {channels} channels and gets {list(x.shape)}: it cannot run")
    if _pointwise(layer):
        weight = matrix[0].astype(np.float32)
        make_room(4 * len(weight) * x.size // x.shape[1])
        y: Value = np.empty((len(x), len(weight), *x.shape[2:]), np.float32)
        flat_x, flat_y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
        parts = products.parts(len(x), weight.size * x.size // x.shape[1])
        products.each(lambda part: np.matmul(weight, flat_x[part], out=flat_y[part]), parts)
        if bias.any():
            y += bias.astype(np.float32).reshape((-1,) + (1,) * len(layer.kernel))
        return y
    weight = np.ascontiguousarray(layer.layout(matrix), np.float32)
    node = helper.make_node(
        layer.node.op,
        ["x", "w", "b"],
        ["y"],
        **{k: v for k, v in _stated(layer.node.attrs).items() if k != "kernel_shape"},
    )
    values = {"w": weight, "b": bias.astype(np.float32)}
    if pieces is not None and weight.size * x.size // x.shape[1] < SHARED:
        return run_nodes(model, [node], {"x": x} | values, ["y"], [], pieces)["y"]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    return run_nodes(model, [node], {"x": x}, ["y"], constants)["y"]


def _pointwise(layer: Layer) -> bool:
    """Whether the layer looks at single pixels: a matrix product, for which onnxruntime would turn the input around."""
    attrs = layer.node.attrs
    plain = all(v == 1 for v in (*layer.kernel, *attrs.get("strides", ()))) and not any(attrs.get("pads", ()))
    return layer.convolves and layer.groups == 1 and plain


def _stated(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes without empty lists, which onnxruntime takes for their defaults."""
    return {name: value for name, value in attributes.items() if not isinstance(value, list | tuple) or len(value)}
