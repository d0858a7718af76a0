from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.onward import peaked
from onnx_udfc.numerics.moments import peak_positions
from onnx_udfc.repair.reference import trace
from tests.quantized_graphs import fetch
from tests.small_graphs import small_network

CONV = "g (float[N,8,40] x, float[16,8,3] W, float[16] B) => (float[N,16] y) {{ c = Conv<pads = [1, 1]>(x, W, B) {} }}"
LARGEST = {
    "global pooling": "r = Relu(c) g = GlobalMaxPool(r) y = Flatten(g)",
    "a gate written out": "s = Sigmoid(c) r = Mul(c, s) g = GlobalMaxPool(r) y = Flatten(g)",
    "channels last": "r = Relu(c) t = Transpose<perm = [0, 2, 1]>(r) y = ReduceMax<axes = [1], keepdims = 0>(t)",
    "a window as long as the text": "g = MaxPool<kernel_shape = [40]>(c) y = Flatten(g)",
}
MORE = {
    "a mean beside it": "r = Relu(c) g = GlobalMaxPool(r) a = GlobalAveragePool(r) s = Add(g, a) y = Flatten(s)",
    "windows": "g = MaxPool<kernel_shape = [2], strides = [2]>(c) a = GlobalAveragePool(g) y = Flatten(a)",
    "the largest of the channels": "y = ReduceMax<axes = [1], keepdims = 0>(c)",
    "neighbours": "r = Relu(c) q = AveragePool<kernel_shape = [3]>(r) g = GlobalMaxPool(q) y = Flatten(g)",
}


def found(body: str, opset: int = 13) -> frozenset[str]:
    network = small_network(CONV.format(body), opset=opset)
    return peaked(network, find_groups(network).shapes.sizes)


@pytest.mark.parametrize("body", LARGEST.values(), ids=LARGEST)
def test_layers_of_which_only_the_largest_values_are_seen(body: str) -> None:
    assert found(body) == {"n0"}


@pytest.mark.parametrize("body", MORE.values(), ids=MORE)
def test_layers_that_are_seen_elsewhere_too(body: str) -> None:
    assert found(body) == frozenset()


def test_rows_of_a_dense_layer_have_peaks() -> None:
    text = """
        g (float[N,40,8] x, float[8,16] W) => (float[N,16] y) {
            m = MatMul(x, W) r = Relu(m) y = ReduceMax<axes = [1], keepdims = 0>(r)
        }"""
    network = small_network(text, opset=13)
    assert peaked(network, find_groups(network).shapes.sizes) == {"n0"}


@pytest.mark.parametrize("spatial", [True, False])
def test_peaks_are_among_the_positions(spatial: bool) -> None:
    y = np.random.default_rng(0).normal(size=(5, 4, 100)).astype(np.float32)
    own = {int(n * 100 + p) for n, p in enumerate(y.argmax(2)) for p in p}
    given = np.arange(0, 500, 10)
    positions = peak_positions(y if spatial else np.moveaxis(y, 1, 2), given, spatial=spatial, seed=3)
    assert len(positions) == len(given)
    assert (np.diff(positions) > 0).all()
    assert own <= set(positions.tolist())


def test_of_many_peaks_some_are_taken_and_others_stay() -> None:
    y = np.random.default_rng(0).normal(size=(5, 64, 100)).astype(np.float32)
    own = {int(n * 100 + p) for n, p in enumerate(y.argmax(2)) for p in p}
    positions = set(peak_positions(y, np.arange(0, 500, 10), spatial=True, seed=3).tolist())
    assert len(positions) == 50
    assert len(positions & own) >= 0.75 * 50 - 1
    assert positions - own


def test_all_positions_stay_all() -> None:
    y = np.random.default_rng(0).normal(size=(2, 8, 20)).astype(np.float32)
    assert np.array_equal(peak_positions(y, np.arange(40), spatial=True, seed=0), np.arange(40))


def test_a_pass_over_the_original_samples_peaks() -> None:
    network = small_network(CONV.format(LARGEST["global pooling"]), opset=13)
    x = np.random.default_rng(7).normal(size=(32, 8, 40)).astype(np.float32)
    own = {int(n * 40 + p) for n, p in enumerate(fetch(network.to_model(), "c", {"x": x}).argmax(2)) for p in p}

    def seen(names: frozenset[str]) -> int:
        reference = trace(network, {"x": x}, (), matched=False, samples=64, seed=0, peaked=names)
        return len(own & set(reference.layers["n0"].positions.tolist()))

    usual = seen(frozenset())
    assert seen(frozenset({"n0"})) > 1.5 * usual
