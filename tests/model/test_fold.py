from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.sessions import open_session
from tests.quantized_graphs import run
from tests.small_graphs import small_model

RNG = np.random.default_rng(0)
ARRAYS = {
    "w": RNG.standard_normal((4, 3, 3, 3)),
    "wt": RNG.standard_normal((3, 4, 3, 3)),
    "wg": RNG.standard_normal((3, 4)),
    "b": RNG.standard_normal(4),
    "gamma": RNG.standard_normal(4),
    "beta": RNG.standard_normal(4),
    "mean": RNG.standard_normal(4),
    "var": RNG.random(4) + 0.1,
    "scale": RNG.standard_normal((4, 1, 1)),
    "shift": RNG.standard_normal((1, 4, 1, 1)),
    "row": RNG.standard_normal(4),
    "one": RNG.standard_normal(()),
    "wide": RNG.standard_normal((4, 6, 6)),
}
NORM = "BatchNormalization<epsilon = 0.01>"


def model(body: str, dims: str = "N,3,6,6", outputs: str = "", dtype: type = np.float32) -> onnx.ModelProto:
    kind = {"float32": "float", "float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    text = f"g ({kind}[{dims}] x) => ({kind}[{'a,b,c,d'[: len(dims.split(',')) * 2 - 1]}] y{outputs}) {{ {body} }}"
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(a.astype(dtype), n) for n, a in ARRAYS.items() if n in used
    )  # fmt: skip
    return proto


def ops(network: Network) -> list[str]:
    return [node.op_type for node in network.to_model().graph.node]


def evaluate(proto: onnx.ModelProto, x: NDArray[Any]) -> list[NDArray[Any]]:
    if x.dtype == np.float64:  # onnxruntime has no convolution in double precision
        return list(ReferenceEvaluator(proto).run(None, {"x": x}))
    return list(open_session(proto, threads=1).run(None, {"x": x}))


def same(proto: onnx.ModelProto, network: Network, tolerance: float = 1e-5) -> None:
    shape = [d.dim_value or 2 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    before, after = (evaluate(m, x) for m in (proto, network.to_model()))
    for a, b in zip(before, after, strict=True):
        assert np.abs(a.astype(np.float64) - b).max() <= tolerance * np.abs(a).max()


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"h = Conv(x, w) y = {NORM}(h, gamma, beta, mean, var)", ["Conv"]),
        (f"h = Conv(x, w, b) y = {NORM}(h, gamma, beta, mean, var)", ["Conv"]),
        (f"h = ConvTranspose(x, wt, b) y = {NORM}(h, gamma, beta, mean, var)", ["ConvTranspose"]),
        (f"h = Conv(x, w) i = {NORM}(h, gamma, beta, mean, var) j = Mul(scale, i) y = Add(j, shift)", ["Conv"]),
        (f"h = Conv(x, w) i = Add(h, shift) y = {NORM}(i, gamma, beta, mean, var)", ["Conv"]),
        (f"h = Conv(x, w) i = {NORM}(h, gamma, beta, mean, var) y = {NORM}(i, beta, gamma, b, var)", ["Conv"]),
        ("h = Conv(x, w) y = Add(h, shift)", ["Conv"]),
        ("h = Conv(x, w, b) i = Sub(h, shift) y = Div(i, scale)", ["Conv"]),
        ("h = Conv(x, w) y = Mul(h, one)", ["Conv"]),
        ("h = Conv(x, w) y = Sub(shift, h)", ["Conv", "Sub"]),
        ("h = Conv(x, w) y = Div(scale, h)", ["Conv", "Div"]),
        ("h = ConvTranspose(x, wt) y = Add(h, wide)", ["ConvTranspose", "Add"]),
        ("h = Conv(x, w) y = Mul(h, row)", ["Conv", "Mul"]),
        (f"h = Conv(x, w) i = Relu(h) y = {NORM}(i, gamma, beta, mean, var)", ["Conv", "Relu", "BatchNormalization"]),
    ],
)
def test_what_is_folded_and_what_is_left(body: str, left: list[str]) -> None:
    proto = model(body)
    if "wide" in body or "row" in body:
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 4
        proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4 if "wide" in body else 6
    network = read(proto)
    assert ops(network) == left
    same(proto, network)


def test_gemm() -> None:
    proto = model(f"h = Gemm(x, wg) i = {NORM}(h, gamma, beta, mean, var) y = Mul(i, row)", "N,3")
    network = read(proto)
    assert ops(network) == ["Gemm"]
    same(proto, network)


def test_the_parameters_are_kept() -> None:
    chain = f"h = Conv(x, w, b) i = {NORM}(h, gamma, beta, mean, var) j = Mul(i, scale) y = Add(j, shift)"
    network = read(model(chain))
    (layer,) = network.layers.values()
    norm = layer.batch_norm
    assert norm is not None
    s, t = (ARRAYS[n].reshape(-1).astype(np.float32).astype(np.float64) for n in ("scale", "shift"))
    gamma, beta, mean, var = (ARRAYS[n].astype(np.float32).astype(np.float64) for n in ("gamma", "beta", "mean", "var"))
    assert np.array_equal(norm.gamma, gamma * s)
    assert np.array_equal(norm.beta, beta * s + t)
    assert np.array_equal(norm.mean, mean)
    assert np.array_equal(norm.var, var)
    assert norm.epsilon == np.float32(0.01)
    gain = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    w, b = (ARRAYS[n].astype(np.float32).astype(np.float64) for n in ("w", "b"))
    assert np.allclose(layer.weight, w * gain[:, None, None, None], rtol=1e-6, atol=0)
    assert np.allclose(layer.bias, (b - norm.mean) * gain + norm.beta, rtol=1e-6, atol=1e-6)
    assert np.array_equal(norm.take(np.array([0, 2])).gamma, norm.gamma[[0, 2]])


def test_a_constant_alone_gives_no_batch_norm() -> None:
    (layer,) = read(model("h = Conv(x, w) y = Add(h, shift)")).layers.values()
    assert layer.batch_norm is None
    assert np.array_equal(layer.bias, ARRAYS["shift"].reshape(-1).astype(np.float32))


def test_the_last_name_survives() -> None:
    graph = read(model(f"h = Conv(x, w) i = {NORM}(h, gamma, beta, mean, var) y = Relu(i)")).to_model().graph
    assert [(n.op_type, list(n.output)) for n in graph.node] == [("Conv", ["i"]), ("Relu", ["y"])]
    assert sorted(t.name for t in graph.initializer) == ["Conv_h.bias", "w"]


@pytest.mark.parametrize(
    "body",
    [
        f"h = Conv(x, w) y = {NORM}(h, gamma, beta, mean, var) z = Relu(h)",
        "h = Conv(x, w) y, m, v = BatchNormalization<training_mode = 1>(h, gamma, beta, mean, var) z = Relu(y)",
        f"h = Conv(x, w) n = Neg(x) g = ReduceSum<keepdims = 0>(n, axes) y = {NORM}(h, g, beta, mean, var) z = Relu(y)",
    ],
)
def test_not_folded_where_it_would_change_something(body: str) -> None:
    proto = model(body, "4,3,6,6", ", float[a,b,c,d] z")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    network = read(proto)
    assert "BatchNormalization" in ops(network)
    same(proto, network)


def test_not_folded_over_a_graph_output_or_a_subgraph() -> None:
    proto = model(f"h = Conv(x, w) y = {NORM}(h, gamma, beta, mean, var)", outputs=", float[a,b,c,d] h")
    assert ops(read(proto)) == ["Conv", "BatchNormalization"]
    proto = model(f"h = Conv(x, w) i = {NORM}(h, gamma, beta, mean, var) s = ReduceSum<keepdims = 0>(i) "
                  "t = Greater(s, one) y = If(t) <then_branch = p () => (float[N,4,4,4] a) { a = Relu(h) }, "
                  "else_branch = q () => (float[N,4,4,4] b) { b = Neg(i) }>")  # fmt: skip
    network = read(proto)
    assert ops(network)[:2] == ["Conv", "BatchNormalization"]
    same(proto, network)


def test_a_shared_weight_is_folded_for_each_user() -> None:
    proto = model(f"h = Conv(x, w) i = {NORM}(h, gamma, beta, mean, var) j = Conv(x, w) "
                  f"k = {NORM}(j, beta, gamma, b, var) l = Conv(x, w) m = Add(i, k) y = Add(m, l)")  # fmt: skip
    network = read(proto)
    assert ops(network) == ["Conv"] * 3 + ["Add"] * 2
    same(proto, network)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 4e-3), (np.float64, 1e-13)])
def test_other_types(dtype: type, tolerance: float) -> None:
    proto = model(f"h = Conv(x, w, b) y = {NORM}(h, gamma, beta, mean, var)", dtype=dtype)
    network = read(proto)
    assert ops(network) == ["Conv"]
    same(proto, network, tolerance)
    assert {t.data_type for t in network.to_model().graph.initializer} == {proto.graph.initializer[0].data_type}


def test_not_folded_where_the_type_would_overflow() -> None:
    proto = model(f"h = Conv(x, w, b) y = {NORM}(h, gamma, beta, mean, var)", dtype=np.float16)
    for tensor in proto.graph.initializer:
        if tensor.name == "gamma":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, 60000, np.float16), "gamma"))
    assert ops(read(proto)) == ["Conv", "BatchNormalization"]


def test_bfloat16_weights_are_folded() -> None:
    network = read(model(f"h = Conv(x, w, b) y = {NORM}(h, gamma, beta, mean, var)", dtype=ml_dtypes.bfloat16))
    assert ops(network) == ["Conv"]


@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (1,), ()])
@pytest.mark.parametrize("trans", [0, 1])
def test_alpha_and_beta_of_a_gemm(trans: int, bias: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[np.generic]] = {"w": rng.standard_normal((4, 3) if trans else (3, 4)).astype(np.float32)}
    if bias is not None:
        arrays["c"] = rng.standard_normal(bias).astype(np.float32)
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N,3] x) => (float[N,4] y) '
        f"{{ y = Gemm<alpha = 0.5, beta = 3.0, transB = {trans}>({', '.join(['x', *arrays])}) }}"
    )
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    network = read(proto)
    (layer,) = network.layers.values()
    assert np.allclose(layer.bias, np.broadcast_to(3 * np.asarray(arrays.get("c", 0.0)).reshape(-1), 4), rtol=1e-6)
    same(proto, network)
    assert {a.name for a in network.to_model().graph.node[0].attribute} <= {"transB", "beta"}


APART = {
    "channels last": "l = Transpose<perm = [0,2,3,1]>(c) p = Mul(l, G) q = Add(p, B)",
    "an axis less": "a = Constant<value = int64[1] {2}>() l = Squeeze(c, a) p = Mul(l, K) q = Sub(p, K)",
    "an axis more": "a = Constant<value = int64[1] {1}>() l = Unsqueeze(c, a) p = Add(l, L) q = Div(p, L)",
    "space flat": "a = Constant<value = int64[3] {0,4,-1}>() l = Reshape(c, a) q = BatchNormalization(l, G, B, M, V)",
}


@pytest.mark.parametrize("body", APART.values(), ids=APART)
def test_what_moves_the_channels_only_may_stand_between(body: str) -> None:
    model = small_model(f"""g (float[2,3,1,6] x, float[4,3,1,1] W, float[4] G, float[4] B, float[4] M, float[4] V,
        float[4,1] K, float[4,1,1] L) => (float y) {{ c = Conv(x, W) {body} y = Relu(q) }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    network = read(model)
    assert [node.op for node in network.graph.nodes if node.op not in ("Constant",)][0::2] == ["Conv", "Relu"]
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 1, 6)).astype(np.float32)}
    before, after = run(model, x)[0], run(network.to_model(), x)[0]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


SINGLE = {"Div": "d = Div(s, VS) m = Mul(d, G) y = Add(m, B)", "Mul": "d = Mul(s, VS) m = Mul(G, d) y = Add(m, B)"}


@pytest.mark.parametrize("op", SINGLE)
def test_a_batch_norm_in_single_steps_is_one(op: str) -> None:
    spelled = small_model(f"""g (float[2,3,4,4] x, float[4,3,1,1] W, float[4,1,1] M, float[4,1,1] VS, float[4,1,1] G,
        float[4,1,1] B) => (float[2,4,4,4] y) {{ c = Conv(x, W) s = Sub(c, M) {SINGLE[op]} }}""")
    values = {t.name: numpy_helper.to_array(t).reshape(-1).astype(np.float64) for t in spelled.graph.initializer}
    (layer,) = read(spelled).layers.values()
    norm = layer.batch_norm
    assert norm is not None
    deviation = values["VS"] if op == "Div" else 1 / values["VS"]
    np.testing.assert_allclose(norm.mean, values["M"], rtol=1e-6)
    np.testing.assert_allclose(norm.var, np.square(deviation), rtol=1e-6)
    np.testing.assert_allclose(norm.gamma, values["G"], rtol=1e-6)
    np.testing.assert_allclose(norm.beta, values["B"], rtol=1e-6)


def test_one_product_behind_a_difference_tells_no_deviation() -> None:
    model = small_model("""g (float[2,3,4,4] x, float[4,3,1,1] W, float[4,1,1] M, float[4,1,1] VS, float[4,1,1] B)
        => (float[2,4,4,4] y) { c = Conv(x, W) s = Sub(c, M) d = Mul(s, VS) y = Add(d, B) }""")
    (layer,) = read(model).layers.values()
    assert layer.batch_norm is None
