"""Two layers in a row give what the one that they stand for gave."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.model.factored import Factor, can_be_factored, factor
from onnx_udfc.model.network import read
from onnx_udfc.numerics.factors import factors, splits
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model

CONVOLUTIONS = {
    "plain": ("[1, 4, 9, 8]", "[6, 4, 3, 3]", "kernel_shape=[3, 3]"),
    "strides and uneven pads": ("[2, 4, 9, 8]", "[6, 4, 3, 2]", "strides=[2, 1], pads=[1, 0, 2, 1]"),
    "dilations": ("[1, 4, 9, 8]", "[6, 4, 3, 3]", "dilations=[2, 1], pads=[2, 1, 2, 1]"),
    "automatic pads": ("[1, 4, 9, 8]", "[6, 4, 3, 4]", 'strides=[2, 3], auto_pad="SAME_UPPER"'),
    "one axis": ("[1, 4, 20]", "[6, 4, 5]", "strides=[2], pads=[2, 1]"),
    "three axes": ("[1, 4, 5, 6, 7]", "[6, 4, 3, 1, 2]", "pads=[1, 0, 0, 1, 0, 1]"),
}
TEXTS = {
    name: f"g (float{x} x, float{w} W, float[6] B) => (float{'[' + ', '.join('abcde'[: x.count(',') + 1]) + ']'} y) {{"
    f" y = Conv<{attributes}>(x, W, B) }}"
    for name, (x, w, attributes) in CONVOLUTIONS.items()
} | {
    "Gemm": "g (float[5, 4] x, float[4, 6] W, float[6] B) => (float[5, 6] y) { y = Gemm(x, W, B) }",
    "Gemm, transposed": "g (float[5, 4] x, float[6, 4] W) => (float[5, 6] y) { y = Gemm<transB=1>(x, W) }",
    "MatMul": "g (float[2, 5, 4] x, float[4, 6] W, float[6] B) => (float[2, 5, 6] y)"
    " { a = MatMul(x, W) y = Add(a, B) }",
}


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("name", TEXTS)
def test_the_network_computes_the_same(name: str, number: int) -> None:
    model = small_model(TEXTS[name])
    network = read(model)
    (layer,) = network.layers.values()
    ways = splits(layer.kernel)
    if number >= len(ways):
        pytest.skip("this kernel has fewer ways to be split")
    assert can_be_factored(layer)
    split, matrix, bias = ways[number], layer.matrix()[0], layer.bias.copy()
    rank = min(layer.in_channels * split.taps[0], layer.out_channels * split.taps[1])
    first, second = factors(matrix, np.eye(matrix.shape[1]), split, rank, 10_000)
    names = factor(network, {layer.name: Factor(split, rank)})
    assert list(network.layers) == [next(iter(names)), layer.name]
    network.layers[next(iter(names))].set(first[None], np.zeros(rank))
    network.layers[layer.name].set(second[None], bias)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    before, after = (open_session(m, "cpu", 1).run(None, feed)[0] for m in (model, network.to_model()))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1, 4, 8, 8] x, float[6, 2, 3, 3] W) => (float[1, 6, 6, 6] y) { y = Conv<group=2>(x, W) }",
        "g (float[1, 4, 8, 8] x, float[4, 6, 3, 3] W) => (float[1, 6, 10, 10] y) { y = ConvTranspose(x, W) }",
    ],
)
def test_groups_and_transposed_convolutions_stay_whole(text: str) -> None:
    (layer,) = read(small_model(text)).layers.values()
    assert not can_be_factored(layer)
