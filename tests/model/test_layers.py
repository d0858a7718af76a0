from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnx_udfc.model.network import Layer, Network, read
from onnx_udfc.runtime.sessions import open_session


def network(body: str, weights: dict[str, NDArray[Any]], kind: str = "float", rank: int = 4) -> Network:
    dims = ",".join("NCHWD"[:rank])
    text = f'<ir_version: 10, opset_import: ["": 21]> g ({kind}[{dims}] x) => ({kind}[{dims.lower()}] y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return read(model)


def normal(*shape: int, dtype: type = np.float32) -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def only(net: Network) -> Layer:
    (layer,) = net.layers.values()
    return layer


def run(model: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = open_session(model, threads=1).run(None, {"x": x})[0]
    return result


CASES = {
    "conv": ("y = Conv<group = 2>(x, w, b)", {"w": normal(6, 2, 3, 2), "b": normal(6)}, (2, 3, 12), (6, 4), 4),
    "conv 1-D": ("y = Conv(x, w)", {"w": normal(5, 4, 3)}, (1, 5, 12), (5, 4), 3),
    "conv 3-D": ("y = Conv(x, w)", {"w": normal(5, 4, 1, 2, 3)}, (1, 5, 24), (5, 4), 5),
    "depthwise": ("y = Conv<group = 4>(x, w)", {"w": normal(4, 1, 3, 3)}, (4, 1, 9), (4, 4), 4),
    "transpose": ("y = ConvTranspose<group = 2>(x, w, b)", {"w": normal(4, 3, 3, 2), "b": normal(6)},
                  (2, 3, 12), (6, 4), 4),
    "gemm": ("y = Gemm(x, w, b)", {"w": normal(4, 6), "b": normal(6)}, (1, 6, 4), (6, 4), 2),
    "gemm transposed": ("y = Gemm<transB = 1>(x, w)", {"w": normal(6, 4)}, (1, 6, 4), (6, 4), 2),
    "matmul": ("y = MatMul(x, w)", {"w": normal(4, 6)}, (1, 6, 4), (6, 4), 3),
    "matmul with bias": ("h = MatMul(x, w) y = Add(b, h)", {"w": normal(4, 6), "b": normal(6)}, (1, 6, 4), (6, 4), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_round_trip(name: str) -> None:
    body, weights, shape, channels, rank = CASES[name]
    layer = only(network(body, weights, rank=rank))
    assert layer.matrix().shape == layer.matrix_shape == shape
    assert layer.weight_bytes == weights["w"].nbytes
    assert layer.matrix().dtype == np.float64
    assert (layer.out_channels, layer.in_channels) == channels
    assert np.array_equal(layer.weight, weights["w"])
    assert np.array_equal(layer.bias, weights.get("b", np.zeros(channels[0])))
    layer.set(layer.matrix(), layer.bias)
    assert np.array_equal(layer.weight, weights["w"])
    assert layer.weight.dtype == np.float32


@pytest.mark.parametrize("name", CASES)
def test_set_changes_what_the_network_computes(name: str) -> None:
    body, weights, _, channels, rank = CASES[name]
    net = network(body, weights, rank=rank)
    x = normal(3, 5, 4) if name.startswith("matmul") else normal(*(2, 4, 7, 6, 5)[:rank])
    layer, before = only(net), run(net.to_model(), x)
    added = normal(channels[0]).astype(np.float64)
    layer.set(2 * layer.matrix(), 2 * layer.bias + added)
    axis = 2 if name.startswith("matmul") else 1
    spread = added.reshape([-1 if i == axis else 1 for i in range(before.ndim)])
    assert np.allclose(run(net.to_model(), x), 2 * before + spread, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(net.to_model())


def patches(x: NDArray[Any], kernel: tuple[int, int]) -> NDArray[Any]:
    """(N, C*kh*kw, H', W'): channel first, then row-major taps."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    n, c, h, w = windows.shape[:4]
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kernel[0] * kernel[1], h, w)


def test_matrix_of_a_convolution_is_a_regression_on_patches() -> None:
    body, weights, *_ = CASES["conv"]
    net = network(body, weights)
    x = normal(2, 4, 7, 6)
    expected = run(net.to_model(), x) - np.asarray(weights["b"])[:, None, None]
    groups = [x[:, 2 * g : 2 * g + 2] for g in range(2)]
    for g, matrix in enumerate(only(net).matrix()):
        result = np.einsum("od,ndhw->nohw", matrix, patches(groups[g], (3, 2)))
        assert np.allclose(result, expected[:, 3 * g : 3 * g + 3], rtol=1e-5, atol=1e-5)


def test_matrix_of_a_transposed_convolution_works_on_zero_stuffed_input() -> None:
    weights = {"w": normal(4, 3, 3, 2)}
    net = network("y = ConvTranspose<group = 2, strides = [2, 3]>(x, w)", weights)
    x = normal(1, 4, 5, 4)
    expected = run(net.to_model(), x)
    stuffed = np.zeros((1, 4, (5 - 1) * 2 + 1 + 4, (4 - 1) * 3 + 1 + 2), np.float32)  # kernel - 1 zeros around
    stuffed[:, :, 2:-2:2, 1:-1:3] = x
    for g, matrix in enumerate(only(net).matrix()):
        result = np.einsum("od,ndhw->nohw", matrix, patches(stuffed[:, 2 * g : 2 * g + 2], (3, 2)))
        assert np.allclose(result, expected[:, 3 * g : 3 * g + 3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(w, x)",
        "h = Relu(w) y = Conv(x, h)",
        "y = Gemm(x, w, x)",
        "y = other.Conv(x, w)",
        "h = Cast<to = 1>(codes) y = Conv(x, h)",
        "h = DequantizeLinear(codes, one) y = Conv(x, h)",
    ],
)
def test_what_is_no_layer(body: str) -> None:
    text = f'<ir_version: 10, opset_import: ["": 21, "other": 1]> g (float[N,4] x) => (float[N,4] y) {{ {body} }}'
    model = parser.parse_model(text)
    rank4 = "Conv" in body
    arrays = {
        "w": normal(4, 4, 1, 1) if rank4 else normal(4, 4),
        "codes": np.ones((4, 4, 1, 1), np.int8),
        "one": np.ones((), np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    assert read(model).layers == {} or body.startswith("h = Relu")


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float16, "float16"), (np.float64, "double"), (ml_dtypes.bfloat16, "bfloat16")]
)
def test_types_are_kept(dtype: type, kind: str) -> None:
    net = network("y = Conv(x, w)", {"w": normal(4, 4, 1, 1, dtype=dtype)}, kind)
    layer = only(net)
    computed = np.float64 if dtype is np.float64 else np.float32
    assert layer.weight.dtype == layer.bias.dtype == computed
    layer.set(layer.matrix() / 3, np.arange(4) / 3)
    tensors = {t.name: numpy_helper.to_array(t) for t in net.to_model().graph.initializer}
    assert {t.dtype for t in tensors.values()} == {np.dtype(dtype)}
    assert np.array_equal(tensors["w"], (np.asarray(normal(4, 4, 1, 1, dtype=dtype), np.float64) / 3).astype(dtype))


def test_a_zero_bias_adds_nothing() -> None:
    net = network("y = MatMul(x, w)", {"w": normal(4, 6)}, rank=3)
    only(net).set(only(net).matrix(), np.zeros(6))
    assert [n.op_type for n in net.to_model().graph.node] == ["MatMul"]


def test_an_added_bias_has_a_name_of_its_own() -> None:
    net = network("[m] a = MatMul(x, w) y = Mul(a, m_bias)", {"w": normal(4, 6), "m_bias": normal(1)}, rank=3)
    only(net).set(only(net).matrix(), np.ones(6))
    model = net.to_model()
    assert [(n.op_type, list(n.input), list(n.output)) for n in model.graph.node] == [
        ("MatMul", ["x", "w"], ["a.unbiased"]),
        ("Add", ["a.unbiased", "m.bias"], ["a"]),
        ("Mul", ["a", "m_bias"], ["y"]),
    ]
    only(net).set(only(net).matrix(), np.full(6, 2.0))
    assert np.array_equal(only(net).bias, np.full(6, 2.0))
    assert len(net.to_model().graph.node) == 3
