from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.sessions import open_session


def model(body: str, arrays: dict[str, NDArray[Any]] | None = None, opset: int = 21) -> onnx.ModelProto:
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[N,C,H,W] x, bool c) => (float[n,m,h,w] y) {{ {body} }}'
    )
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (arrays or {}).items())
    return proto


def normal(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ops(network: Network) -> list[str]:
    return [node.op_type for node in network.to_model().graph.node]


def same(proto: onnx.ModelProto, network: Network, rounding: float = 0) -> None:
    feeds = {"x": normal(2, 4, 6, 6), "c": np.array(True)}
    before, after = (open_session(m, threads=1).run(None, feeds) for m in (proto, network.to_model()))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding)


FOUR = {"s": np.array([4, 1, 1, 1])}
RANGE = {"a": np.array(0), "b": np.array(1 << 40), "o": np.array(1)}
LITTLE = {"a": np.array(0), "b": np.array(999), "o": np.array(1)}
WEIGHT = {"w": normal(6, 4, 3, 3)}
EXPRESSIONS: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {
    "reshape": ("k = Reshape(w, s)", {"w": normal(6, 36), "s": np.array([6, 4, 3, 3])}),
    "transpose": ("k = Transpose<perm = [3, 2, 0, 1]>(w)", {"w": normal(3, 3, 4, 6)}),
    "cast": ("k = Cast<to = 1>(w)", {"w": normal(6, 4, 3, 3).astype(np.float16)}),
    "chain": ("t = Mul(w, s) u = Unsqueeze(t, a) k = Squeeze(u, a)", {**WEIGHT, "s": normal(1), "a": np.array([0])}),
    "shape": (
        "s = Shape(w) i = Gather(s, z) d = Slice(s, z, o) r = Concat<axis = 0>(i, d) e = Shape(w) k = Reshape(w, e)",
        {**WEIGHT, "z": np.array([0]), "o": np.array([1])},
    ),
    "filled": ("s = Shape(w) k = ConstantOfShape<value = float[1] {0.5}>(s)", WEIGHT),
    "expand": ("k = Expand(w, s)", {"w": normal(6, 4, 1, 1), "s": np.array([6, 4, 3, 3])}),
    "constant": ("w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() k = Reshape(w, s)", FOUR),
    "identity": ("t = Identity(w) k = Identity(t)", WEIGHT),
    "weight norm": (
        "n = ReduceL2(w, a) d = Div(w, n) k = Mul(d, g)",
        {**WEIGHT, "a": np.array([1, 2, 3]), "g": normal(6, 1, 1, 1)},
    ),
    "standardized": (  # rows by a batch norm of their own statistics, whose running ones nobody reads
        "r = Reshape(w, i) b, m, v = BatchNormalization<training_mode = 1>(r, g, z, z, o) k = Reshape(b, s)",
        {
            **WEIGHT,
            "i": np.array([1, 6, 36]),
            "g": normal(6),
            "z": normal(6) * 0,
            "o": np.ones(6, np.float32),
            "s": np.array([6, 4, 3, 3]),
        },
    ),
    "normalized": (
        "r = Reshape(w, i) b = InstanceNormalization(r, g, z) l = LayerNormalization(b, o) k = Reshape(l, s)",
        {
            **WEIGHT,
            "i": np.array([1, 6, 36]),
            "g": normal(6),
            "z": normal(6),
            "o": normal(36),
            "s": np.array([6, 4, 3, 3]),
        },
    ),
    "bounded": ("t = Tanh(w) k = Mul(t, g)", {**WEIGHT, "g": normal(6, 1, 1, 1)}),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_weights_that_are_computed(name: str) -> None:
    body, arrays = EXPRESSIONS[name]
    groups = 4 if name == "constant" else 1
    proto = model(f"{body} y = Conv<group = {groups}>(x, k)", arrays)
    network = read(proto)
    assert ops(network) == ["Conv"]
    assert len(network.layers) == 1
    assert [t.name for t in network.to_model().graph.initializer] == ["k"]
    same(proto, network, 1e-4 if "ized" in name else 1e-5 if name in ("weight norm", "bounded") else 0)


@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [
        ("value = float[4] {1, 2, 3, 4}", np.float32),
        ("value_float = 2.5", np.float32),
        ("value_floats = [1.0, 2.0]", np.float32),
        ("value_int = 3", np.int64),
        ("value_ints = [1, 2]", np.int64),
    ],
)
def test_constant_nodes(attribute: str, dtype: type) -> None:
    network = read(model(f"k = Constant<{attribute}>() f = Cast<to = 1>(k) y = Add(x, f)"))
    assert ops(network)[-1] == "Add"
    (tensor,) = network.to_model().graph.initializer
    assert numpy_helper.to_array(tensor).dtype == np.float32
    network = read(model(f"k = Constant<{attribute}>() y = Sequence(x, k)"))
    (tensor,) = network.to_model().graph.initializer
    assert numpy_helper.to_array(tensor).dtype == dtype


@pytest.mark.parametrize(
    ("body", "arrays", "left"),
    [
        ("k = DequantizeLinear(q, s) y = Conv(x, k)", {"q": np.ones((6, 4, 1, 1), np.int8), "s": normal()}, 2),
        ("k = Cast<to = 1>(q) l = Mul(k, s) y = Conv(x, l)", {"q": np.ones((6, 4, 1, 1), np.int8), "s": normal()}, 3),
        ("k = RandomNormal<shape = [6, 4, 1, 1]>() y = Conv(x, k)", {}, 2),
        ("k = RandomNormalLike(w) y = Conv(x, k)", WEIGHT, 2),
        ("k = ConstantOfShape(s) y = Add(x, k)", {"s": np.array([1, 1, 2000, 2000])}, 2),
        ("k = ConstantOfShape(s) y = Conv(x, k)", {"s": np.array([1 << 20, 1 << 20, 3, 3])}, 2),
        ("k = Tile(w, s) y = Add(x, k)", {"w": normal(1, 1, 9, 9), "s": np.array([1, 1, 999, 999])}, 2),
        ("k = Range(a, b, o) f = Cast<to = 1>(k) y = Add(x, f)", RANGE, 3),
        ("k = Mul(a, b) y = Add(x, k)", {"a": normal(9999, 1), "b": normal(1, 9999)}, 2),
        ("k = Range(a, b, o) f = Cast<to = 1>(k) l = Cos(f) y = Add(x, l)", LITTLE, 4),
        ("k = Range(a, b, o) f = Cast<to = 1>(k) y = Add(x, f)", LITTLE, 1),
        ("k = my.Twice(w) y = Conv(x, k)", WEIGHT, 2),
        ("s = Shape(x) y = Reshape(x, s)", {}, 2),
        ("k = Unsqueeze() y = Add(x, k)", {}, 2),
    ],
)  # fmt: skip
def test_what_is_left_alone(body: str, arrays: dict[str, NDArray[Any]], left: int) -> None:
    assert len(ops(read(model(body, arrays)))) == left


def test_a_constant_that_is_a_graph_output_stays() -> None:
    proto = model("k = Constant<value_float = 2.5>() y = Mul(x, k)")
    proto.graph.output.append(helper.make_tensor_value_info("k", 1, []))
    network = read(proto)
    assert ops(network) == ["Constant", "Mul"]
    same(proto, network)


def test_a_constant_that_a_subgraph_uses_stays() -> None:
    proto = model("k = Constant<value_float = 2.5>() y = If(c) <then_branch = p () => (float[n,m,h,w] a) "
                  "{ a = Mul(x, k) }, else_branch = q () => (float[n,m,h,w] b) { b = Neg(x) }>")  # fmt: skip
    network = read(proto)
    assert ops(network) == ["Constant", "If"]
    same(proto, network)


def test_a_constant_is_not_left_out_with_one_that_holds_the_same() -> None:
    network = read(model("a = Conv(x, w) b = Mul(x, w) y = Add(a, b)", {"w": normal(4, 4, 1, 1)}))
    assert [t.name for t in network.to_model().graph.initializer] == ["w"]
    graph = network.to_model(without=network.weights).graph
    (left,) = graph.initializer
    assert left.name != "w"
    assert [left.name in node.input for node in graph.node] == [False, True, False]


def test_shared_constants_get_one_user_each_and_are_written_once() -> None:
    proto = model("a = Conv(x, w) b = Conv(x, w) d = Where(c, s, s) e = Mul(a, s) f = Mul(b, s) y = Sum(d, e, f)",
                  {"w": normal(6, 4, 3, 3), "s": normal(6, 4, 4)})  # fmt: skip
    network = read(proto)
    users = [id(t) for n in network.graph.nodes for t in n.inputs if t.name not in "xabdef"]
    assert len(users) == len(set(users))
    names = [t.name for t in network.to_model().graph.initializer]
    assert names == ["w", "s"]
    same(proto, network)

    first, second = network.layers.values()
    first.set(first.matrix() * 2, first.bias)
    assert np.array_equal(second.weight, normal(6, 4, 3, 3))
    assert sum(t.dims == [6, 4, 3, 3] for t in network.to_model().graph.initializer) == 2
    second.set(second.matrix() * 2, second.bias)
    assert sum(t.dims == [6, 4, 3, 3] for t in network.to_model().graph.initializer) == 1


def test_a_weight_that_a_subgraph_uses_too_is_never_changed() -> None:
    proto = model("a = MatMul(x, w) z = If(c) <then_branch = p () => (float[n,m,h,w] t) { t = MatMul(x, w) }, "
                  "else_branch = q () => (float[n,m,h,w] f) { f = Neg(x) }> y = Sub(a, z)",
                  {"w": normal(6, 6)})  # fmt: skip
    network = read(proto)
    assert next(t.name for t in network.to_model().graph.initializer) == "w"
    same(proto, network)
    (layer,) = network.layers.values()
    layer.set(layer.matrix() * 2, layer.bias)
    tensors = {t.name: numpy_helper.to_array(t) for t in network.to_model().graph.initializer}
    assert np.array_equal(tensors["w"], normal(6, 6))
    assert np.array_equal(tensors[layer.constant.name], normal(6, 6) * 2)


def test_a_weight_that_is_a_graph_output_is_never_changed() -> None:
    proto = model("y = MatMul(x, w)", {"w": normal(6, 6)})
    proto.graph.output.append(helper.make_tensor_value_info("w", 1, [6, 6]))
    network = read(proto)
    (layer,) = network.layers.values()
    layer.set(layer.matrix() * 2, layer.bias)
    feeds = {"x": normal(2, 4, 6, 6), "c": np.array(True)}
    before, after = (open_session(m, threads=1).run(None, feeds) for m in (proto, network.to_model()))
    assert np.array_equal(before[1], after[1])
    assert np.allclose(before[0] * 2, after[0], rtol=1e-6)


@pytest.mark.parametrize("opset", [11, 13])
def test_old_opsets(opset: int) -> None:
    unsqueeze = "Unsqueeze<axes = [2, 3]>(w)" if opset < 13 else "Unsqueeze(w, a)"
    network = read(model(f"k = {unsqueeze} y = Conv(x, k)", {"w": normal(6, 4), "a": np.array([2, 3])}, opset))
    assert ops(network) == ["Conv"]
    assert np.array_equal(next(iter(network.layers.values())).weight, normal(6, 4)[:, :, None, None])
