"""How batch norms, biases and what stands around them are spelled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from tests.flavours.editing import Array, Editor, Flavour, Rule

SHAPES: dict[str, tuple[int, ...]] = {"c11": (-1, 1, 1), "1c11": (1, -1, 1, 1)}


def _column(edit: Editor, values: Array, form: str = "c11") -> str:
    return edit.keep(values.reshape(SHAPES[form]))


def _affine(form: str, edit: Editor) -> None:
    scale, shift = edit.norm()
    product = edit.put("Mul", [edit.node.input[0], _column(edit, scale, form)])
    edit.last("Add", [product, _column(edit, shift, form)])


def _affine_first(edit: Editor) -> None:
    scale, shift = edit.norm()
    product = edit.put("Mul", [_column(edit, scale, "1c11"), edit.node.input[0]])
    edit.last("Add", [_column(edit, shift), product])


def _spelled(edit: Editor) -> None:
    x, *names = edit.node.input
    gamma, beta, mean, var = (edit.value(n) for n in names)
    std = edit.put(
        "Sqrt", [edit.put("Add", [_column(edit, var), edit.keep(np.float32(edit.attribute("epsilon", 1e-5)))])]
    )
    unit = edit.put("Div", [edit.put("Sub", [x, _column(edit, mean)]), std])
    edit.last("Add", [edit.put("Mul", [unit, _column(edit, gamma)]), _column(edit, beta)])


def _keras(edit: Editor) -> None:
    x, *names = edit.node.input
    gamma, beta, mean, var = (edit.value(n) for n in names)
    inv = edit.put(
        "Reciprocal",
        [edit.put("Sqrt", [edit.put("Add", [edit.keep(var), edit.keep(np.float32(edit.attribute("epsilon", 1e-5)))])])],
    )
    scale = edit.put("Mul", [inv, edit.keep(gamma)])
    shift = edit.put("Sub", [edit.keep(beta), edit.put("Mul", [edit.keep(mean), scale])])
    axes = edit.ints(0, 2, 3)
    product = edit.put("Mul", [x, edit.put("Unsqueeze", [scale, axes])])
    edit.last("Add", [product, edit.put("Unsqueeze", [shift, axes])])


def _caffe(edit: Editor) -> None:
    x, gamma, beta, mean, var = edit.node.input
    ones, zeros = np.ones_like(edit.value(gamma)), np.zeros_like(edit.value(gamma))
    unit = edit.again([x, edit.keep(ones), edit.keep(zeros), mean, var])
    shape = edit.ints(1, -1, 1, 1)
    product = edit.put("Mul", [unit, edit.put("Reshape", [gamma, shape])])
    edit.last("Add", [product, edit.put("Reshape", [beta, shape])])


def _caffe_sub(edit: Editor) -> None:
    scale, shift = edit.norm()
    edit.last("Sub", [edit.put("Div", [edit.node.input[0], _column(edit, 1 / scale, "1c11")]), _column(edit, -shift)])


def _two_norms(edit: Editor) -> None:
    x, gamma, beta, mean, var = edit.node.input
    inner = edit.again([x, gamma, beta, mean, var])
    C = len(edit.value(gamma))
    one = np.float32(1 - edit.attribute("epsilon", 1e-5))
    edit.again(
        [inner, edit.keep(np.ones(C)), edit.keep(np.zeros(C)), edit.keep(np.zeros(C)), edit.keep(np.full(C, one))],
        edit.node.output[0],
    )


def _fp64_norm(edit: Editor) -> None:
    kind = onnx.TensorProto
    x = edit.put("Cast", [edit.node.input[0]], to=kind.DOUBLE)
    parts = [edit.keep(edit.value(n), np.float64) for n in edit.node.input[1:5]]
    edit.last("Cast", [edit.again([x, *parts])], to=kind.FLOAT)


def _one_dimensional(edit: Editor) -> None:
    """As BatchNorm of (N, C, H*W)."""
    x = edit.node.input[0]
    shape = edit.shapes[x]
    flat = edit.put("Reshape", [x, edit.ints(0, 0, -1)])
    edit.last("Reshape", [edit.again([flat, *edit.node.input[1:5]]), edit.ints(0, *shape[1:])])


def _norm(rule: Rule, model: onnx.ModelProto) -> onnx.ModelProto:
    return Editor(model).rewritten({"BatchNormalization": rule})


def _bias(form: str, model: onnx.ModelProto) -> onnx.ModelProto:
    def rule(edit: Editor) -> None:
        if len(edit.node.input) < 3:
            return
        bias = edit.value(edit.node.input[2])
        edit.last("Add", [edit.again(list(edit.node.input[:2])), _column(edit, bias, form)])

    return Editor(model).rewritten({"Conv": rule})


def _with_bias(bias: Callable[[Editor], str], model: onnx.ModelProto) -> onnx.ModelProto:
    """Every convolution without a bias names one."""

    def rule(edit: Editor) -> None:
        if len(edit.node.input) == 2:
            edit.again([*edit.node.input, bias(edit)], edit.node.output[0])

    return Editor(model).rewritten({"Conv": rule})


def layer_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Behind each batch norm stands a scale of its own."""

    def rule(edit: Editor) -> None:
        x, gamma, beta, mean, var = edit.node.input
        s = np.linspace(0.5, 2, len(edit.value(gamma))).astype(np.float32)
        inner = edit.again([x, edit.keep(edit.value(gamma) / s), edit.keep(edit.value(beta) / s), mean, var])
        edit.last("Mul", [inner, _column(edit, s)])

    return Editor(model).rewritten({"BatchNormalization": rule})


NORMS: dict[str, Flavour] = {
    "bn_c11": partial(_norm, partial(_affine, "c11")),
    "bn_1c11": partial(_norm, partial(_affine, "1c11")),
    "bn_first": partial(_norm, _affine_first),
    "bn_spelled": partial(_norm, _spelled),
    "bn_keras": partial(_norm, _keras),
    "bn_caffe": partial(_norm, _caffe),
    "bn_divsub": partial(_norm, _caffe_sub),
    "bn_two": partial(_norm, _two_norms),
    "bn_double": partial(_norm, _fp64_norm),
    "bn_1d": partial(_norm, _one_dimensional),
    "bias_c11": partial(_bias, "c11"),
    "bias_1c11": partial(_bias, "1c11"),
    "bias_zero": partial(_with_bias, lambda edit: edit.keep(np.zeros(len(edit.value(edit.node.input[1]))))),
    "bias_empty": partial(_with_bias, lambda _: ""),
    "layer_scale": layer_scale,
}
