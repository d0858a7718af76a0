from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from onnx_udfc.errors import ModelError
from onnx_udfc.model.layers import Layer
from onnx_udfc.numerics.moments import patches, sample_positions, sample_targets, tap_positions
from onnx_udfc.runtime.sessions import open_session
from onnx_udfc.runtime.windows import pooled_shape, pooling_window, run_layer, window_of
from tests.small_graphs import small_network


class Case(NamedTuple):
    """One node, its weights, and its input's shape."""

    node: str
    weights: str
    shape: tuple[int, ...]


CONV, KERNEL = "float[6,4,3,2] W, float[6] B", "float[4,5,3,3] W"
GROUPED = "float[4,3,3,2] W, float[6] B"
SMALL = (3, 4, 5, 6)
CASES = [
    Case("Conv(x, W, B)", CONV, (3, 4, 9, 8)),
    Case("Conv<strides = [2, 3], dilations = [2, 1], pads = [2, 0, 1, 1]>(x, W, B)", CONV, (3, 4, 9, 8)),
    Case("Conv(x, W, B)", "float[6,4,1,1] W, float[6] B", (3, 4, 9, 8)),
    Case("Conv(x, W)", "float[6,4,1] W", (3, 4, 9)),
    Case("Conv<strides = [2, 1]>(x, W, B)", "float[6,4,1,1] W, float[6] B", (3, 4, 9, 8)),
    Case("Conv<pads = [1, 0, 0, 1]>(x, W, B)", "float[6,4,1,1] W, float[6] B", (3, 4, 9, 8)),
    Case("Conv<group = 2>(x, W, B)", "float[6,2,1,1] W, float[6] B", (3, 4, 9, 8)),
    Case("Conv<group = 2, pads = [1, 1, 1, 1]>(x, W, B)", "float[6,2,3,2] W, float[6] B", (3, 4, 9, 8)),
    Case("Conv<group = 4, strides = [2, 2], pads = [1, 1, 1, 1]>(x, W)", "float[4,1,3,3] W", (3, 4, 9, 8)),
    Case("Conv<group = 4, pads = [1, 1, 1, 1]>(x, W)", "float[8,1,3,3] W", (3, 4, 9, 8)),
    Case("Conv<strides = [2]>(x, W, B)", "float[5,3,4] W, float[5] B", (3, 3, 17)),
    Case("Conv<pads = [1, 0, 1, 0, 1, 0]>(x, W)", "float[5,3,2,2,2] W", (2, 3, 5, 4, 6)),
    *[
        Case(f'Conv<auto_pad = "{pad}", strides = [{s}, {s}]>(x, W)', f"float[6,4,{k},{k}] W", (2, 4, 9, 8))
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for s in (1, 2, 3)
        for k in (2, 3, 4)
    ],
    Case("ConvTranspose(x, W, B)", "float[4,5,3,2] W, float[5] B", (3, 4, 5, 6)),
    Case("ConvTranspose<group = 2, strides = [2, 3], pads = [1, 0, 0, 1]>(x, W, B)", GROUPED, SMALL),
    Case("ConvTranspose<strides = [3, 2], output_padding = [2, 1], dilations = [1, 2]>(x, W)", KERNEL, SMALL),
    Case("ConvTranspose<group = 4, strides = [2, 2]>(x, W)", "float[4,1,2,2] W", (3, 4, 5, 6)),
    Case("ConvTranspose<strides = [2]>(x, W)", "float[4,5,3] W", (3, 4, 7)),
    Case("ConvTranspose<strides = [2, 1, 2]>(x, W)", "float[4,5,2,2,3] W", (2, 4, 3, 4, 3)),
    *[
        Case(f'ConvTranspose<auto_pad = "{pad}", strides = [{s}, {s}]{extra}>(x, W)', f"float[4,5,{k},{k}] W", SMALL)
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for s in (1, 2, 3)
        for k in (3, 4)
        for extra in ("", ", output_padding = [1, 1]")
        if s > 1 or not extra
    ],
    Case("ConvTranspose<strides = [2, 2], output_shape = [10, 11]>(x, W)", "float[4,5,3,3] W", (2, 4, 5, 6)),
    Case('ConvTranspose<output_shape = [5, 7], auto_pad = "SAME_UPPER">(x, W)', "float[4,5,3,3] W", SMALL),
    Case('ConvTranspose<strides = [2, 2], output_shape = [9, 12], auto_pad = "SAME_UPPER">(x, W)', KERNEL, SMALL),
    Case("Gemm<transB = 1>(x, W, B)", "float[5,4] W, float[5] B", (30, 4)),
    Case("Gemm(x, W)", "float[4,5] W", (30, 4)),
    Case("MatMul(x, W)", "float[4,5] W", (2, 3, 7, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[c.node for c in CASES])
def test_the_matrix_on_patches_is_what_onnxruntime_computes(case: Case) -> None:
    rank = ",".join("abcdefg"[: len(case.shape)])
    shape = ",".join(map(str, case.shape))
    network = small_network(f"g (float[{shape}] x, {case.weights}) => (float[{rank}] y) {{ y = {case.node} }}")
    (layer,) = network.layers.values()
    x = np.random.default_rng(1).normal(size=case.shape).astype(np.float32)
    y = open_session(network.to_model(), threads=1).run(None, {"x": x})[0]
    window = window_of(layer, x.shape, y.shape)
    positions = sample_positions(y.shape, window, 50, seed=2)
    p = patches(x, window, y.shape, positions)
    linear = p @ layer.matrix().transpose(0, 2, 1)
    found = linear.transpose(1, 0, 2).reshape(len(positions), -1) + layer.bias
    np.testing.assert_allclose(found, sample_targets(y, window, positions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[c.node for c in CASES])
def test_a_layer_is_run_with_other_weights(case: Case) -> None:
    rank = ",".join("abcdefg"[: len(case.shape)])
    shape = ",".join(map(str, case.shape))
    network = small_network(f"g (float[{shape}] x, {case.weights}) => (float[{rank}] y) {{ y = {case.node} }}")
    (layer,) = network.layers.values()
    x = np.random.default_rng(1).normal(size=case.shape).astype(np.float32)
    matrix, bias = other_weights(layer)
    before = (layer.matrix(), layer.bias)
    found = run_layer(network.to_model(), layer, x, matrix, bias)
    assert np.array_equal(layer.matrix(), before[0])
    assert np.array_equal(layer.bias, before[1])
    layer.set(matrix, bias)
    expected = open_session(network.to_model(), threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def other_weights(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.normal(size=layer.matrix().shape), rng.normal(size=layer.out_channels)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [2, 2], strides = [2, 2]",
        "kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]",
        "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
        "kernel_shape = [2, 3], dilations = [2, 1]",
        *[
            f'kernel_shape = [{k}, {k}], strides = [2, 2], auto_pad = "{pad}"'
            for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
            for k in (2, 3)
        ],
    ],
)
def test_a_pooling_reads_what_onnxruntime_reads(attributes: str) -> None:
    network = small_network(f"g (float[2,3,9,8] x) => (float[a,b,c,d] y) {{ y = MaxPool<{attributes}>(x) }}")
    (node,) = network.graph.nodes
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 8)).astype(np.float32)
    y = open_session(network.to_model(), threads=1).run(None, {"x": x})[0]
    assert pooled_shape(network.to_model(), node, x.shape) == y.shape
    window = pooling_window(node, x.shape, y.shape)
    taps = tap_positions(window, x.shape, y.shape, np.arange(y.size // 3))
    rows = np.concatenate([x.transpose(0, 2, 3, 1).reshape(-1, 3), np.full((1, 3), -np.inf, np.float32)])
    np.testing.assert_array_equal(rows[taps].max(1), y.transpose(0, 2, 3, 1).reshape(-1, 3))


def test_rows_that_do_not_fit_the_weights_are_the_users_to_mend() -> None:
    network = small_network("g (float[n, 4] x, float[4, 2] W) => (float[n, 2] y) { y = MatMul(x, W) }")
    (layer,) = network.layers.values()
    with pytest.raises(ModelError, match="rows of 4 values and gets 6: it cannot run"):
        run_layer(network.to_model(), layer, np.zeros((3, 6), np.float32), layer.matrix(), np.zeros(2))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8), (2, 2, 8, 8)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_pictures_that_do_not_fit_the_weights_are_the_users_to_mend(shape: tuple[int, ...], kernel: int) -> None:
    text = f"g (float[n,1,h,w] x, float[2,1,{kernel},{kernel}] W) => (float[n,2,a,b] y) {{ y = Conv(x, W) }}"
    network = small_network(text)
    (layer,) = network.layers.values()
    with pytest.raises(ModelError, match=r"takes 1 channels and gets .*: it cannot run"):
        run_layer(network.to_model(), layer, np.zeros(shape, np.float32), layer.matrix(), np.zeros(2))
