"""Where weights come from: flavours of constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.flavours.editing import Array, Editor

LAYERS = ("Conv", "Gemm")


def _through(model: onnx.ModelProto, made: Callable[[Editor, str], str]) -> onnx.ModelProto:
    """The model with each weight written by `made(editor, name)`, which returns the tensor to read."""

    def rule(edit: Editor) -> None:
        inputs = list(edit.node.input)
        edit.again([inputs[0], made(edit, inputs[1]), *inputs[2:]], edit.node.output[0])

    return Editor(model).rewritten(dict.fromkeys(LAYERS, rule))


def constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants are Constant nodes (PyTorch, Paddle2ONNX, MXNet)."""
    edit = Editor(model)
    nodes = [helper.make_node("Constant", [], [t.name], f"Constant_{t.name}", value=t) for t in edit.graph.initializer]
    nodes.extend(edit.graph.node)
    del edit.graph.node[:], edit.graph.initializer[:]
    edit.graph.node.extend(nodes)
    return edit.model


def behind_transpose(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights lie as TensorFlow has them, and are transposed."""

    def made(edit: Editor, name: str) -> str:
        W = edit.value(name)
        there = [2, 3, 1, 0] if W.ndim == 4 else [1, 0]
        return edit.put("Transpose", [edit.keep(W.transpose(there))], perm=list(np.argsort(there)))

    return _through(model, made)


def behind_reshape(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights lie flat."""
    return _through(
        model,
        lambda edit, name: edit.put(
            "Reshape", [edit.keep(edit.value(name).reshape(-1)), edit.ints(*edit.value(name).shape)]
        ),
    )


def behind_identity(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights pass an Identity."""
    return _through(model, lambda edit, name: edit.put("Identity", [name]))


def behind_cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights lie in double precision."""
    return _through(
        model, lambda edit, name: edit.put("Cast", [edit.keep(edit.value(name), np.float64)], to=onnx.TensorProto.FLOAT)
    )


def halves_cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights lie in half precision, and are cast."""
    return _through(
        model, lambda edit, name: edit.put("Cast", [edit.keep(edit.value(name), np.float16)], to=onnx.TensorProto.FLOAT)
    )


def scaled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights times a number (equalized learning rates, weight standardization folded half-way)."""
    return _through(
        model, lambda edit, name: edit.put("Mul", [edit.keep(edit.value(name) * 8), edit.keep(np.float32(0.125))])
    )


def normed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights as direction and length: weight normalization left in."""

    def made(edit: Editor, name: str) -> str:
        W = edit.value(name)
        axes = tuple(range(1, W.ndim))
        length = np.sqrt(np.square(W.astype(np.float64)).sum(axes, keepdims=True))
        v = edit.keep(W * 3)
        unit = edit.put("Div", [v, edit.put("ReduceL2", [v], axes=list(axes), keepdims=1)])
        return edit.put("Mul", [unit, edit.keep(length)])

    return _through(model, made)


def standardized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights less their mean plus it, in nodes."""

    def made(edit: Editor, name: str) -> str:
        w = edit.put("Identity", [name])
        mean = edit.put("ReduceMean", [w], keepdims=1)
        return edit.put("Add", [edit.put("Sub", [w, mean]), mean])

    return _through(model, made)


def in_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are a Concat of two."""

    def made(edit: Editor, name: str) -> str:
        W = edit.value(name)
        n = len(W) // 2
        return edit.put("Concat", [edit.keep(W[:n]), edit.keep(W[n:])], axis=0)

    return _through(model, made)


def one_buffer(model: onnx.ModelProto) -> onnx.ModelProto:
    """All weights lie in one buffer that a Split cuts."""
    edit = Editor(model)
    names = [n.input[1] for n in edit.graph.node if n.op_type in LAYERS]
    flat = np.concatenate([edit.value(n).reshape(-1) for n in names])
    sizes = [edit.value(n).size for n in names]
    pieces = [f"{n}_flat" for n in names]
    nodes = [helper.make_node("Split", [edit.keep(flat), edit.ints(*sizes)], pieces, "split", axis=0)]
    for name, piece in zip(names, pieces, strict=True):
        shape = edit.ints(*edit.value(name).shape)
        nodes.append(helper.make_node("Reshape", [piece, shape], [f"{name}_made"], f"{name}_shaped"))
    for node in edit.graph.node:
        if node.op_type in LAYERS:
            node.input[1] = f"{node.input[1]}_made"
    nodes.extend(edit.graph.node)
    del edit.graph.node[:]
    edit.graph.node.extend(nodes)
    return edit.swept()


def sliced(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are cut out of larger ones (supernets)."""

    def made(edit: Editor, name: str) -> str:
        W = edit.value(name)
        large: Array = np.pad(W, [(0, 4), (0, 4), *[(0, 0)] * (W.ndim - 2)], constant_values=3)
        return edit.put("Slice", [edit.keep(large), edit.ints(0, 0), edit.ints(*W.shape[:2]), edit.ints(0, 1)])

    return _through(model, made)


def are_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are graph inputs, too, as before IR 4."""
    edit = Editor(model)
    edit.model.ir_version = 3
    edit.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in edit.graph.initializer
    )
    return edit.model


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every constant vector of one value is filled by the graph."""
    edit = Editor(model)
    nodes = []
    for tensor in list(edit.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1 and np.all(array == array.flat[0]):
            edit.graph.initializer.remove(tensor)
            value = numpy_helper.from_array(array.reshape(-1)[:1])
            shape = edit.ints(*array.shape)
            nodes.append(
                helper.make_node("ConstantOfShape", [shape], [tensor.name], f"fill_{tensor.name}", value=value)
            )
    nodes.extend(edit.graph.node)
    del edit.graph.node[:]
    edit.graph.node.extend(nodes)
    return edit.model


FLAVOURS = (
    constant_nodes, behind_transpose, behind_reshape, behind_identity, behind_cast, halves_cast, scaled, normed,
    standardized, in_halves, one_buffer, sliced, are_inputs, filled,
)  # fmt: skip
