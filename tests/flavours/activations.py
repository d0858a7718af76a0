"""How activations are spelled."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from tests.flavours.editing import Editor, Flavour, Rule, by

FLOAT = onnx.TensorProto.FLOAT
MOST = float(np.finfo(np.float32).max)


def _max(form: tuple[int, ...], edit: Editor) -> None:
    edit.last("Max", [edit.node.input[0], edit.keep(np.zeros(form))])


def _max_first(edit: Editor) -> None:
    edit.last("Max", [edit.keep(np.float32(0)), edit.node.input[0]])


def _clip(high: float | None, edit: Editor) -> None:
    edit.last(
        "Clip", [edit.node.input[0], edit.keep(np.float32(0)), *([] if high is None else [edit.keep(np.float32(high))])]
    )


def _prelu(form: tuple[int, ...], edit: Editor) -> None:
    C = edit.shapes[edit.node.input[0]][1]
    edit.last("PRelu", [edit.node.input[0], edit.keep(np.zeros([C if n < 0 else n for n in form]))])


def _where(edit: Editor) -> None:
    x, zero = edit.node.input[0], edit.keep(np.float32(0))
    edit.last("Where", [edit.put("Greater", [x, zero]), x, zero])


def _where_less(edit: Editor) -> None:
    x, zero = edit.node.input[0], edit.keep(np.float32(0))
    edit.last("Where", [edit.put("Less", [x, zero]), zero, x])


def _times_mask(edit: Editor) -> None:
    x = edit.node.input[0]
    edit.last("Mul", [x, edit.put("Cast", [edit.put("Greater", [x, edit.keep(np.float32(0))])], to=FLOAT)])


def _absolute(edit: Editor) -> None:
    x = edit.node.input[0]
    edit.last("Mul", [edit.put("Add", [x, edit.put("Abs", [x])]), edit.keep(np.float32(0.5))])


def _relu_twice(edit: Editor) -> None:
    edit.last("Relu", [edit.put("Relu", [edit.node.input[0]])])


def _squeezed(edit: Editor) -> None:
    x = edit.put("Unsqueeze", [edit.node.input[0], edit.ints(4)])
    edit.last("Squeeze", [edit.put("Relu", [x]), edit.ints(4)])


def _flat(edit: Editor) -> None:
    shape = edit.put("Shape", [edit.node.input[0]])
    x = edit.put("Reshape", [edit.node.input[0], edit.ints(0, -1)])
    edit.last("Reshape", [edit.put("Relu", [x]), shape])


RELUS: dict[str, Rule] = {
    "relu_max": partial(_max, ()),
    "relu_max1": partial(_max, (1,)),
    "relu_max1111": partial(_max, (1, 1, 1, 1)),
    "relu_max_first": _max_first,
    "relu_clip": partial(_clip, None),
    "relu_clip_inf": partial(_clip, np.inf),
    "relu_clip_max": partial(_clip, MOST),
    "relu_prelu": partial(_prelu, (-1, 1, 1)),
    "relu_prelu1": partial(_prelu, (1,)),
    "relu_leaky": lambda edit: edit.last("LeakyRelu", [edit.node.input[0]], alpha=0.0),
    "relu_thresholded": lambda edit: edit.last("ThresholdedRelu", [edit.node.input[0]], alpha=0.0),
    "relu_where": _where,
    "relu_where_less": _where_less,
    "relu_mask": _times_mask,
    "relu_abs": _absolute,
    "relu_twice": _relu_twice,
    "relu_unsqueezed": _squeezed,
    "relu_flat": _flat,
}


def _bounds(edit: Editor) -> tuple[float, float]:
    return float(edit.value(edit.node.input[1])), float(edit.value(edit.node.input[2]))


def _min_max(edit: Editor) -> None:
    low, high = _bounds(edit)
    edit.last("Min", [edit.put("Max", [edit.node.input[0], edit.keep(np.float32(low))]), edit.keep(np.float32(high))])


def _max_min(edit: Editor) -> None:
    low, high = _bounds(edit)
    edit.last("Max", [edit.put("Min", [edit.node.input[0], edit.keep(np.float32(high))]), edit.keep(np.float32(low))])


def _relu_min(edit: Editor) -> None:
    low, high = _bounds(edit)
    if low:
        return
    edit.last("Min", [edit.put("Relu", [edit.node.input[0]]), edit.keep(np.float32(high))])


def _relu_clip(edit: Editor) -> None:
    low, high = _bounds(edit)
    if low:
        return
    edit.last("Clip", [edit.put("Relu", [edit.node.input[0]]), edit.keep(np.float32(0)), edit.keep(np.float32(high))])


def _clip_cast(edit: Editor) -> None:
    low, high = _bounds(edit)
    ends = [edit.put("Cast", [edit.keep(v, np.float64)], to=FLOAT) for v in (low, high)]
    edit.last("Clip", [edit.node.input[0], *ends])


CLIPS: dict[str, Rule] = {
    "relu6_minmax": _min_max,
    "relu6_maxmin": _max_min,
    "relu6_relumin": _relu_min,
    "relu6_reluclip": _relu_clip,
    "relu6_cast": _clip_cast,
}


def _sigmoid_exp(edit: Editor) -> None:
    one = edit.keep(np.float32(1))
    edit.last("Div", [one, edit.put("Add", [one, edit.put("Exp", [edit.put("Neg", [edit.node.input[0]])])])])


def _sigmoid_reciprocal(edit: Editor) -> None:
    one = edit.keep(np.float32(1))
    edit.last("Reciprocal", [edit.put("Add", [edit.put("Exp", [edit.put("Neg", [edit.node.input[0]])]), one])])


def _sigmoid_tanh(edit: Editor) -> None:
    half = edit.keep(np.float32(0.5))
    edit.last("Add", [edit.put("Mul", [edit.put("Tanh", [edit.put("Mul", [edit.node.input[0], half])]), half]), half])


def _softmax_exp(edit: Editor) -> None:
    axis = edit.attribute("axis", -1)
    e = edit.put(
        "Exp", [edit.put("Sub", [edit.node.input[0], edit.put("ReduceMax", [edit.node.input[0]], axes=[axis])])]
    )
    edit.last("Div", [e, edit.put("ReduceSum", [e, edit.ints(axis)])])


SIGMOIDS: dict[str, Rule] = {
    "sigmoid_exp": _sigmoid_exp,
    "sigmoid_reciprocal": _sigmoid_reciprocal,
    "sigmoid_tanh": _sigmoid_tanh,
}


ACTIVATIONS: dict[str, Flavour] = {
    **{k: partial(by, "Relu", r) for k, r in RELUS.items()},
    **{k: partial(by, "Clip", r) for k, r in CLIPS.items()},
    **{k: partial(by, "Sigmoid", r) for k, r in SIGMOIDS.items()},
    "softmax_exp": partial(by, "Softmax", _softmax_exp),
}
