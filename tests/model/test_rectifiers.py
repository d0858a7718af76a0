"""Relu, Clip, PRelu, LeakyRelu, Sigmoid and Softplus in other words become one node with the same values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.as_read import assert_same, operators
from tests.small_graphs import small_model

NUMBERS: dict[str, object] = {
    "zero": 0.0, "one": 1.0, "six": 6.0, "half": 0.5, "tenth": 0.1, "two": 2.0, "minus": -1.0, "infinite": np.inf,
    "most": float(np.finfo(np.float32).max), "apart": [[[0.0]]], "zeros": np.zeros((3, 1)),
    "tenths": np.full((3, 1), 0.1), "slopes": [[0.1], [0.2], [0.3]],
}  # fmt: skip
SPELLED = {
    "Relu": [
        "y = Max(x, zero)",
        "y = Max(zero, x)",
        "y = Max(x, apart)",
        'y = Clip(x, zero, "")',
        "y = Clip(x, zero, infinite)",
        "y = Clip(x, zero, most)",
        "y = PRelu(x, zeros)",
        "y = LeakyRelu<alpha = 0.0>(x)",
        "y = ThresholdedRelu<alpha = 0.0>(x)",
        "r = Relu(x) y = Relu(r)",
        "c = Greater(x, zero) y = Where(c, x, zero)",
        "c = LessOrEqual(x, zero) y = Where(c, zero, x)",
        "c = Less(zero, x) y = Where(c, x, zero)",
        "c = Greater(x, zero) m = Cast<to = 1>(c) y = Mul(m, x)",
        "a = Abs(x) s = Add(x, a) y = Mul(s, half)",
        "r = Relu(x) a = Abs(r) d = Sub(r, a) m = Mul(d, slopes) y = Add(r, m)",
    ],
    "Clip": [
        "l = Max(x, zero) y = Min(l, six)",
        "h = Min(six, x) y = Max(minus, h)",
        "h = Min(x, six) y = Max(h, zero)",
        "l = Max(x, zero) y = Clip(l, zero, six)",
        "r = Relu(x) y = Min(r, six)",
        "r = Relu(x) y = Clip(r, zero, six)",
    ],
    "PRelu": [
        "r = Relu(x) a = Abs(x) d = Sub(x, a) m = Mul(d, slopes) y = Add(r, m)",
        "r = Relu(x) a = Abs(x) d = Sub(x, a) h = Mul(d, half) m = Mul(slopes, h) y = Add(m, r)",
        "r = Max(x, zero) l = Min(x, zero) m = Mul(l, slopes) y = Add(r, m)",
        "r = Relu(x) n = Neg(x) p = Relu(n) m = Mul(slopes, p) y = Sub(r, m)",
        "a = Abs(x) d = Sub(x, a) m = Mul(d, slopes) y = Add(x, m)",
        "r = Relu(x) n = Mul(x, minus) p = Relu(n) m = Mul(p, slopes) q = Neg(m) y = Add(q, r)",
    ],
    "LeakyRelu": [
        "r = Relu(x) a = Abs(x) d = Sub(x, a) m = Mul(d, tenth) y = Add(r, m)",
        "m = Mul(x, tenth) y = Max(m, x)",
        "c = Greater(x, zero) m = Mul(tenth, x) y = Where(c, x, m)",
        "c = Less(x, zero) m = Mul(two, x) y = Where(c, m, x)",
        "y = PRelu(x, tenths)",
    ],
    "Sigmoid": [
        "n = Neg(x) e = Exp(n) a = Add(one, e) y = Div(one, a)",
        "n = Mul(x, minus) e = Exp(n) a = Add(e, one) y = Reciprocal(a)",
        "m = Mul(x, half) t = Tanh(m) h = Mul(half, t) y = Add(h, half)",
    ],
    "Softplus": ["e = Exp(x) a = Add(e, one) y = Log(a)"],
}
OTHERS = [
    "y = Max(x, one)",
    "y = Clip(x, zero, six)",
    "y = PRelu(x, slopes)",
    "y = LeakyRelu<alpha = 0.1>(x)",
    "c = Greater(x, one) y = Where(c, x, zero)",
    "n = Neg(x) c = Greater(n, zero) y = Where(c, x, zero)",
    "c = Less(x, zero) y = Where(c, x, zero)",
    "m = Mul(x, two) y = Max(m, x)",
    "l = Max(x, six) y = Min(l, zero)",
    "r = Relu(x) y = Clip(r, minus, zero)",
    "n = Neg(x) e = Exp(n) a = Add(two, e) y = Div(one, a)",
    "a = Abs(x) s = Sub(x, a) y = Mul(s, half)",
    "r = Relu(x) n = Neg(x) p = Relu(n) m = Mul(slopes, p) y = Sub(m, r)",
    "r = Relu(x) l = Min(x, one) m = Mul(l, slopes) y = Add(r, m)",
    "r = Relu(x) a = Abs(x) d = Sub(a, x) m = Mul(d, slopes) y = Add(r, m)",
    "r = Relu(x) n = Mul(x, half) p = Relu(n) m = Mul(slopes, p) y = Sub(r, m)",
]


def model_of(body: str, kind: str = "float") -> onnx.ModelProto:
    model = small_model(f"g ({kind}[2,3,4] x) => ({kind}[2,3,4] y) {{ {body} }}")
    dtype = {"float": np.float32, "float16": np.float16, "int32": np.int32}[kind]
    used = [name for name in NUMBERS if f"{name}" in body.replace("(", " ").replace(")", " ").replace(",", " ").split()]
    model.graph.initializer.extend(numpy_helper.from_array(np.array(NUMBERS[k], dtype), k) for k in used)
    return model


def values() -> np.ndarray:
    x = 4 * np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x[0, 0, 0] = 0
    return x


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


@pytest.mark.parametrize("kind", ["float16", "int32"])
def test_only_in_float32(kind: str) -> None:
    assert operators(model_of("y = Max(x, zero)", kind)) == ["Max"]


def test_a_hard_swish_of_them_is_one() -> None:
    model = model_of("s = Add(x, three) r = Relu(s) m = Min(r, six) p = Mul(x, m) y = Div(p, six)")
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "three"))
    assert operators(model) == ["HardSwish"]
    assert_same(model, values())


def test_many_ways_to_one_tensor_are_gone_once() -> None:
    steps = "".join(f"s{i} = Sigmoid(h{i}) h{i + 1} = Mul(h{i}, s{i}) " for i in range(60))
    model = model_of(f"h0 = Cos(x) {steps} y = Max(h60, apart)")
    assert "Max" in operators(model)  # how many axes there are is too far away
