"""Axes and sizes: channels last, what of the sizes is known, pixels that the network scales itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from tests.flavours.editing import Editor, Flavour
from tests.flavours.layers import TO_FIRST, TO_LAST


def _turned(info: onnx.ValueInfoProto, name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input of pictures with its channels last."""
    dims = info.type.tensor_type.shape.dim
    return helper.make_tensor_value_info(name, kind, [dims[i].dim_param or dims[i].dim_value for i in TO_LAST])


def nhwc_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """The input has its channels last, and is transposed once."""
    edit = Editor(model)
    old = edit.graph.input[0]
    edit.graph.node.insert(0, helper.make_node("Transpose", ["input_1:0"], [old.name], "to_first", perm=TO_FIRST))
    old.CopyFrom(_turned(old, "input_1:0"))
    return edit.model


def nhwc(model: onnx.ModelProto, apart: bool = False) -> onnx.ModelProto:
    """Channels are last, as in Keras, and turned around every layer; `apart`: not around norms and biases."""

    def wrapped(edit: Editor) -> None:
        x, *others = edit.node.input
        y = edit.again([edit.put("Transpose", [x], perm=TO_FIRST), *others])
        edit.last("Transpose", [y], perm=TO_LAST)

    def conv(edit: Editor) -> None:
        x, weight, *bias = edit.node.input
        y = edit.again([edit.put("Transpose", [x], perm=TO_FIRST), weight])
        y = edit.put("Transpose", [y], perm=TO_LAST)
        edit.last("Add" if bias else "Identity", [y, *bias])

    def norm(edit: Editor) -> None:
        scale, shift = edit.norm()
        edit.last("Add", [edit.put("Mul", [edit.node.input[0], edit.keep(scale)]), edit.keep(shift)])

    def pool(edit: Editor) -> None:
        edit.last("ReduceMean", [edit.node.input[0]], axes=[1, 2], keepdims=1)

    def concat(edit: Editor) -> None:
        edit.again(list(edit.node.input), edit.node.output[0], axis=3)

    edit = Editor(model)
    turned = edit.rewritten(
        {
            "Conv": conv if apart else wrapped, "BatchNormalization": norm if apart else wrapped, "MaxPool": wrapped,
            "AveragePool": wrapped, "GlobalAveragePool": pool, "Concat": concat,
        }
    )  # fmt: skip
    turned.graph.input[0].CopyFrom(_turned(turned.graph.input[0], turned.graph.input[0].name))
    del turned.graph.value_info[:]
    return turned


def _batch(size: int | str | None, model: onnx.ModelProto) -> onnx.ModelProto:
    """The number of samples is fixed, named, or not told."""
    graph = Editor(model).model
    for info in (graph.graph.input[0], *graph.graph.output):
        dim = info.type.tensor_type.shape.dim[0]
        dim.Clear()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    del graph.graph.value_info[:]
    return graph


def no_output_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nothing is told of the output but its type."""
    copy = Editor(model).model
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def _infos(batch: int | None, model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes of all tensors, from a trace with so many samples, or with open sizes of space."""
    copy = Editor(model).model
    for info in shape_inference.infer_shapes(copy).graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 4 and batch is not None:
            dims[0].dim_value = batch
        elif len(dims) == 4:
            dims[2].dim_param, dims[3].dim_param = "H", "W"
        copy.graph.value_info.append(info)
    return copy


def _pixels(form: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """Raw pixels go in, and the network scales them itself."""
    edit = Editor(model)
    info = edit.graph.input[0]
    channels = edit.shapes[info.name][1]
    mean, std = np.full((1, channels, 1, 1), 0.305), np.full((1, channels, 1, 1), 0.376)
    kind = TensorProto.UINT8 if "uint8" in form else TensorProto.FLOAT
    x = "pixels"
    if "uint8" in form:
        x = edit.put("Cast", [x], to=TensorProto.FLOAT)
    if "last" in form:
        x = edit.put("Transpose", [x], perm=TO_FIRST)
    if "norm" in form:
        fixed = [np.ones(channels), np.zeros(channels), 255 * mean.reshape(-1), np.square(255 * std.reshape(-1)) - 1e-5]
        edit.put("BatchNormalization", [x, *(edit.keep(values) for values in fixed)], info.name)
    else:
        x = edit.put("Sub", [edit.put("Div", [x, edit.keep(np.float32(255))]), edit.keep(mean)])
        edit.put("Div", [x, edit.keep(std)], info.name)
    nodes = [*edit.written, *edit.graph.node]
    del edit.graph.node[:]
    edit.graph.node.extend(nodes)
    new = _turned(info, "pixels", kind)
    if "last" not in form:
        new.CopyFrom(info)
        new.name, new.type.tensor_type.elem_type = "pixels", kind
    info.CopyFrom(new)
    return edit.model


LAYOUTS: dict[str, Flavour] = {
    "nhwc_input": nhwc_input,
    "nhwc": nhwc,
    "nhwc_apart": partial(nhwc, apart=True),
    "batch_1": partial(_batch, 1),
    "batch_8": partial(_batch, 8),
    "batch_unknown": partial(_batch, None),
    "batch_named": partial(_batch, "unk__612"),
    "no_output_shape": no_output_shape,
    "infos_of_4": partial(_infos, 4),
    "infos_open": partial(_infos, None),
    "pixels": partial(_pixels, ""),
    "pixels_norm": partial(_pixels, "norm"),
    "pixels_uint8": partial(_pixels, "uint8"),
    "pixels_uint8_last": partial(_pixels, "uint8 last"),
}
