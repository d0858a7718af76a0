"""The backward pass of every operator that has a rule, held against differences of what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import shape_inference

from onnx_udfc.runtime.gradients import RULES, Gradients, with_gradients
from tests.small_graphs import small_model

X = "float[2, 4, 6, 6] x"
NODES = {
    "Conv": "y = Conv<pads = [1, 1, 1, 1]>(x, W)",
    "Conv, strided": "y = Conv<pads = [1, 0, 1, 1], strides = [2, 2]>(x, W)",
    "Conv, dilated": "y = Conv<dilations = [2, 2], pads = [2, 2, 2, 2]>(x, W)",
    "Conv, same": 'y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, W)',
    "Conv, same below": 'y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, W)',
    "Conv, depthwise": "y = Conv<group = 4, strides = [2, 1], pads = [1, 1, 1, 1]>(x, D)",
    "Conv, depthwise, plain": "y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, D)",
    "Conv, wide pads": "y = Conv<pads = [3, 4, 3, 3]>(x, W)",
    "ConvTranspose": "y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 0]>(x, T)",
    "BatchNormalization": "y = BatchNormalization(x, C, C, C, VC)",
    "InstanceNormalization": "y = InstanceNormalization(x, C, C)",
    "LayerNormalization": "y = LayerNormalization<axis = 3>(x, K)",
    "Relu": "y = Relu(x)",
    "Clip": "c = Constant<value_float = 0.4>() e = Constant<value_float = -0.3>() y = Clip(x, e, c)",
    "LeakyRelu": "y = LeakyRelu<alpha = 0.3>(x)",
    "PRelu": "y = PRelu(x, P)",
    "Sigmoid": "y = Sigmoid(x)",
    "Tanh": "y = Tanh(x)",
    "HardSigmoid": "y = HardSigmoid<alpha = 0.4>(x)",
    "HardSwish": "y = HardSwish(x)",
    "Elu": "y = Elu<alpha = 0.7>(x)",
    "Erf": "y = Erf(x)",
    "Gelu": "y = Gelu(x)",
    "Mish": "y = Mish(x)",
    "Softplus": "y = Softplus(x)",
    "Exp": "y = Exp(x)",
    "Sqrt": "e = Exp(x) y = Sqrt(e)",
    "Log": "e = Exp(x) y = Log(e)",
    "Reciprocal": "e = Exp(x) y = Reciprocal(e)",
    "Abs": "y = Abs(x)",
    "Neg": "y = Neg(x)",
    "Identity": "y = Identity(x)",
    "Dropout": "y = Dropout(x)",
    "Add": "a = GlobalAveragePool(x) y = Add(a, x)",
    "Sum": "a = Relu(x) b = Tanh(x) y = Sum(a, x, b)",
    "Sub": "a = GlobalAveragePool(x) y = Sub(a, x)",
    "Mul": "a = GlobalAveragePool(x) s = Sigmoid(a) y = Mul(x, s)",
    "Mul with itself": "y = Mul(x, x)",
    "Div": "a = GlobalAveragePool(x) e = Exp(a) y = Div(x, e)",
    "Pow": "c = Constant<value_int = 2>() y = Pow(x, c)",
    "Where": "a = Tanh(x) b = Neg(x) z = Constant<value_float = 0.1>() m = Greater(x, z) y = Where(m, a, b)",
    "MatMul": "y = MatMul(x, M)",
    "MatMul of two": "a = Transpose<perm = [0, 1, 3, 2]>(x) t = Tanh(x) y = MatMul(a, t)",
    "Gemm": "f = Flatten(x) y = Gemm<transB = 1, alpha = 0.5>(f, G)",
    "Softmax": "a = Softmax<axis = 1>(x) y = Mul(a, x)",
    "AveragePool": "y = AveragePool<kernel_shape = [2, 3], strides = [2, 1]>(x)",
    "MaxPool": "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)",
    "MaxPool, ceil": "y = MaxPool<kernel_shape = [2, 2], strides = [4, 4], ceil_mode = 1>(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
    "GlobalAveragePool": "y = GlobalAveragePool(x)",
    "ReduceMean": "c = Constant<value_ints = [2, 3]>() y = ReduceMean<keepdims = 0>(x, c)",
    "ReduceSum": "c = Constant<value_ints = [1]>() y = ReduceSum(x, c)",
    "Slice": "s = Constant<value_ints = [5]>() e = Constant<value_ints = [-7]>() a = Constant<value_ints = [2]>()"
    " t = Constant<value_ints = [-2]>() y = Slice(x, s, e, a, t)",
    "Gather": "i = Constant<value_ints = [1, 3, 1]>() y = Gather<axis = 1>(x, i)",
    "Split": "a, b = Split<axis = 1, num_outputs = 2>(x) t = Tanh(b) y = Mul(a, t)",
    "Split, half unused": "a, b = Split<axis = 2, num_outputs = 2>(x) y = Tanh(b)",
    "Expand": "a = GlobalAveragePool(x) s = Constant<value_ints = [2, 4, 3, 5]>() y = Expand(a, s)",
    "Tile": "s = Constant<value_ints = [1, 2, 1, 2]>() y = Tile(x, s)",
    "Flatten": "f = Flatten(x) y = Tanh(f)",
    "Reshape": "s = Constant<value_ints = [2, -1, 12]>() r = Reshape(x, s) y = Tanh(r)",
    "Squeeze": "a = GlobalAveragePool(x) s = Constant<value_ints = [2, 3]>() q = Squeeze(a, s) y = Tanh(q)",
    "Unsqueeze": "s = Constant<value_ints = [1]>() q = Unsqueeze(x, s) y = Tanh(q)",
    "Transpose": "t = Transpose<perm = [2, 0, 3, 1]>(x) y = MatMul(t, M4)",
    "Concat": "a = Relu(x) b = Tanh(x) y = Concat<axis = 1>(a, x, b)",
    "Pad": "p = Constant<value_ints = [0, 0, 1, 2, 0, 0, 0, 1]>() y = Pad(x, p)",
    "Resize": 'r = Constant<value_floats = [1.0, 1.0, 2.0, 3.0]>() y = Resize<mode = "nearest", nearest_mode = "floor",'
    ' coordinate_transformation_mode = "asymmetric">(x, , r)',
    "DepthToSpace": "y = DepthToSpace<blocksize = 2>(x)",
    "SpaceToDepth": "y = SpaceToDepth<blocksize = 2>(x)",
}
WEIGHTS = {
    "W": "float[5, 4, 3, 3] W", "D": "float[4, 1, 3, 3] D", "T": "float[4, 3, 3, 3] T", "C": "float[4] C",
    "VC": "float[4] VC", "K": "float[6] K", "P": "float[4, 1, 1] P", "M": "float[6, 5] M", "M4": "float[4, 5] M4",
    "G": "float[3, 144] G",
}  # fmt: skip


def model_of(nodes: str) -> onnx.ModelProto:
    """One input x, one output y, and the weights that the nodes name."""
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    inputs = ", ".join([X, *(WEIGHTS[w] for w in WEIGHTS if w in words)])
    model = small_model(f"g ({inputs}) => (float y) {{ {nodes} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(model, data_prop=True)


def sizes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    infos = [*graph.input, *graph.value_info, *graph.output]
    known = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}
    return known | {t.name: tuple(t.dims) for t in graph.initializer}


def backward(model: onnx.ModelProto, wanted: str = "x") -> Gradients:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return with_gradients(copy, sizes_of(model), [wanted])


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


@pytest.mark.parametrize("name", NODES)
def test_a_gradient_is_what_differences_say(name: str) -> None:
    model, rng = model_of(NODES[name]), np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 6)).astype(np.float32)
    noise = rng.normal(size=10007).astype(np.float32)
    found = backward(model)
    assert list(found.answers) == ["y"]
    session = ort.InferenceSession(found.model.SerializeToString())
    feed = {"x": x, found.noise: noise, found.answers["y"]: np.array(2, np.float32)}
    slope = session.run([found.slopes["x"]], feed)[0]
    assert slope.shape == x.shape
    step = 1e-3
    for at in [tuple(rng.integers(0, x.shape)) for _ in range(40)]:
        moved = [x.copy(), x.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        change = (run(model, moved[0]) - run(model, moved[1])).reshape(-1) / (2 * step)
        expected = 2 * float(change @ noise[: change.size])
        assert slope[at] == pytest.approx(expected, rel=0.01, abs=0.01 * max(1.0, float(abs(slope).max())))


def test_every_rule_is_tested() -> None:
    ops = {name.partition(",")[0].partition(" ")[0] for name in NODES}
    assert set(RULES) <= ops


def test_what_no_rule_knows_is_an_answer() -> None:
    model = model_of("a = Conv(x, W) h = Tanh(a) c = CumSum(h, z) y = Neg(c)".replace("z", "C"))
    found = backward(model, "a")
    assert set(found.answers) == {"y", "h"}
    assert set(found.slopes) == {"a"}


def test_a_softmax_at_the_end_is_left_away() -> None:
    found = backward(model_of("f = Flatten(x) z = Gemm<transB = 1>(f, G) y = Softmax(z)"), "z")
    assert list(found.answers) == ["z"]
    session = ort.InferenceSession(found.model.SerializeToString())
    x, noise = np.zeros((2, 4, 6, 6), np.float32), np.arange(101, dtype=np.float32) ** 2
    feed = {"x": x, found.noise: noise, found.answers["z"]: np.array(1, np.float32)}
    slope = session.run([found.slopes["z"]], feed)[0]
    np.testing.assert_allclose(slope.sum(1), 0, atol=1e-5)  # a shift of all classes changes nothing
    np.testing.assert_allclose(slope[0] - slope[0].mean(), noise[:3] - noise[:3].mean(), rtol=1e-5)


def test_integers_and_shapes_have_no_gradient() -> None:
    found = backward(model_of("s = Shape(x) r = Reshape(x, s) a = ArgMax<axis = 1>(x) y = Tanh(r)"))
    assert list(found.answers) == ["y"]
    assert set(found.slopes) == {"x"}


@pytest.mark.parametrize(("unknown", "answers"), [("m", {"y", "m", "t"}), ("t", {"y", "t", "a"}), ("y", {"y", "m"})])
def test_sizes_that_nobody_knows_end_the_pass(unknown: str, answers: set[str]) -> None:
    model = model_of("a = Neg(x) t = Transpose(a) m = Tanh(t) y = MatMul(m, M)")
    sizes = {name: size for name, size in sizes_of(model).items() if name != unknown}
    found = with_gradients(model, sizes, ["a"])
    assert set(found.answers) == answers
    assert set(found.slopes) == {"a"}
