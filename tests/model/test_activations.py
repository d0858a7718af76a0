"""Activations in single steps become one node with the same values and the same output name."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.as_read import assert_same, operators
from tests.small_graphs import small_model

NUMBERS = {
    "three": 3.0, "zero": 0.0, "one": 1.0, "six": 6.0, "sixth": 1 / 6, "root": 1.4142135, "inverse": 0.70710678,
    "half": 0.5, "two": 2.0, "fifth": 0.2,
}  # fmt: skip
HARD = "a = Add(x, three) c = Clip(a, zero, six)"
SPELLED = {
    "HardSwish": [
        f"{HARD} m = Mul(x, c) y = Div(m, six)",
        f"{HARD} m = Mul(c, x) y = Mul(sixth, m)",
        f"{HARD} d = Div(c, six) y = Mul(x, d)",
        f"{HARD} d = Mul(c, sixth) y = Mul(d, x)",
        f"{HARD} d = Div(x, six) y = Mul(d, c)",
        "a = Add(three, x) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
        "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h)",
    ],
    "HardSigmoid": [
        f"{HARD} y = Div(c, six)",
        f"{HARD} y = Mul(c, sixth)",
        "k = Mul(x, fifth) a = Add(k, half) y = Clip(a, zero, one)",
        "k = Div(x, two) a = Add(half, k) y = Clip(a, zero, one)",
    ],
    "Gelu": [
        "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
        "d = Mul(inverse, x) e = Erf(d) a = Add(one, e) h = Mul(half, a) y = Mul(h, x)",
        "d = Div(x, root) e = Erf(d) a = Add(e, one) g = Mul(x, half) y = Mul(g, a)",
        "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Div(m, two)",
    ],
    "Mish": ["s = Softplus(x) t = Tanh(s) y = Mul(x, t)", "s = Softplus(x) t = Tanh(s) y = Mul(t, x)"],
}
OTHERS = [
    f"{HARD} m = Mul(x, c) y = Div(m, three)",
    "a = Add(x, one) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "a = Add(x, three) c = Clip(a, zero, three) m = Mul(x, c) y = Div(m, six)",
    "d = Div(x, two) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
    "d = Div(x, root) e = Erf(d) a = Add(e, one) y = Mul(x, a)",
    f"{HARD} y = Mul(x, c)",
    "n = Neg(x) s = Softplus(n) t = Tanh(s) y = Mul(x, t)",
    f"n = Neg(x) {HARD} d = Div(six, c) y = Mul(n, d)",
]


def model_of(body: str, opset: int = 21, dtype: type = np.float32) -> onnx.ModelProto:
    kind = "float" if dtype is np.float32 else "float16"
    model = small_model(f"g ({kind}[2,3,4] x) => ({kind}[2,3,4] y) {{ {body} }}", opset)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(v, dtype), k) for k, v in NUMBERS.items() if f"{k}" in body
    )
    return model


def values() -> np.ndarray:
    return 4 * np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(("op", "body"), [(op, body) for op, bodies in SPELLED.items() for body in bodies])
def test_one_node_takes_their_place(op: str, body: str) -> None:
    model = model_of(body)
    assert operators(model) == [op]
    assert_same(model, values())


@pytest.mark.parametrize("body", OTHERS)
def test_what_looks_alike_stays(body: str) -> None:
    model = model_of(body)
    assert operators(model) == [n.op_type for n in model.graph.node]
    assert_same(model, values())


@pytest.mark.parametrize(("op", "body"), [(op, bodies[0]) for op, bodies in SPELLED.items()])
def test_neither_in_float16_nor_where_a_step_is_read_elsewhere(op: str, body: str) -> None:
    assert op not in operators(model_of(body, dtype=np.float16))
    model = model_of(body)
    model.graph.output.append(onnx.helper.make_tensor_value_info(model.graph.node[0].output[0], 1, [2, 3, 4]))
    assert op not in operators(model)


def test_several_in_a_row_and_one_beside_the_other() -> None:
    steps = [f"a{i} = Add(x{i}, three) c{i} = Clip(a{i}, zero, six) m{i} = Mul(x{i}, c{i}) x{i + 1} = Div(m{i}, six)"
             for i in range(3)]  # fmt: skip
    body = "x0 = Neg(x) " + " ".join(steps) + " s = Softplus(x1) t = Tanh(s) z = Mul(x1, t) y = Add(x3, z)"
    model = model_of(body)
    assert sorted(operators(model)) == sorted(["Neg", *itertools.repeat("HardSwish", 3), "Mish", "Add"])
    assert_same(model, values())
