"""Equalized channels: the same function, finer steps where they differ."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import pytest

from onnx_udfc.emit.placement import integer_bits
from onnx_udfc.emit.writer import activation_tensors, emit
from onnx_udfc.model.network import Network, read
from onnx_udfc.repair.equalize import channel_extents, equalize, links
from onnx_udfc.repair.ranges import measure_ranges
from tests.memory import taken
from tests.quantized_graphs import Values, nearest, run
from tests.small_graphs import small_model

DEPTHWISE = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[8] B1, float[8,1,3,3] W2, float[8] B2,
    float[5,8,1,1] W3, float[5] B3) => (float[N,5,8,8] y) {
    a1 = Conv(x, W1, B1) r1 = ACT(a1) a2 = Conv<group = 8>(r1, W2, B2) r2 = ACT(a2) y = Conv(r2, W3, B3) }"""
CLIP = "Clip<min = 0.0, max = 6.0>"


def model(act: str = "Relu") -> onnx.ModelProto:
    """Channels of the first tensor reach 1 to 100 times as far as others; what reads them evens that out."""
    made = small_model(DEPTHWISE.replace("ACT", act), 6 if act == CLIP else 21, 0)
    spread = np.logspace(0, 2, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
    for tensor in made.graph.initializer:
        factor = {"W1": spread, "B1": spread.ravel(), "W2": 1 / spread}.get(tensor.name)
        if factor is not None:
            values = onnx.numpy_helper.to_array(tensor) * factor
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return made


def feeds() -> Values:
    return {"x": np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)}


def quantized_error(network: Network, act: str = "Relu") -> float:
    placement = activation_tensors(network, list(network.layers), "cpu")
    grids = measure_ranges(network, placement, feeds(), likeness="real")
    written = emit(network, nearest(network, 7), grids, "cpu", placement).model
    return float(np.square(run(written, feeds())[0] - run(model(act), feeds())[0]).mean())


@pytest.mark.parametrize("act", ["Relu", "LeakyRelu<alpha = 0.2>"])
def test_the_function_stays_and_the_quantized_error_falls(act: str) -> None:
    network = read(model(act))
    before = quantized_error(network, act)
    changed = equalize(network, feeds(), 8)
    assert changed[0] == "r1"
    (y,), (expected,) = run(network.to_model(), feeds()), run(model(act), feeds())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert quantized_error(network, act) < 0.5 * before


def test_the_scale_is_what_every_tensor_was_divided_by() -> None:
    network = read(model())
    equalize(network, feeds(), 8)
    assert set(network.scale) >= {"a1", "r1"}
    assert network.copy().scale.keys() == network.scale.keys()
    before, after = with_outputs(model(), network.scale), with_outputs(network.to_model(), network.scale)
    for factor, x, y in zip(network.scale.values(), run(before, feeds())[1:], run(after, feeds())[1:], strict=True):
        np.testing.assert_allclose(y * factor.reshape(1, -1, 1, 1), x, rtol=1e-4, atol=1e-5 * np.abs(x).max())


def with_outputs(made: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return made


def test_nothing_is_moved_across_a_clip() -> None:
    network = read(model(CLIP))
    assert list(links(network)) == []
    assert equalize(network, feeds(), 8) == ()


def test_even_channels_are_left_alone() -> None:
    network = read(model())
    for name in ("W1", "B1", "W2"):
        tensor = network.graph.tensors()[name]
        tensor.values = np.abs(np.ones_like(tensor.values))
    assert equalize(network, feeds(), 8) == ()


@pytest.mark.parametrize(("target", "expected"), [("cpu", [7, 8, 7]), ("portable", [7, 8, 7]), ("tensorrt", [8, 8, 8])])
def test_integer_layers_take_the_bits_that_no_kernel_clips(target: str, expected: list[int]) -> None:
    network = read(model())
    placement = activation_tensors(network, list(network.layers), target)
    assert list(integer_bits(network, dict.fromkeys(network.layers, 8), placement).values()) == expected
    assert set(integer_bits(network, dict.fromkeys(network.layers, 4), placement).values()) == {4}


def test_kernels_compute_the_chosen_bits_exactly_where_every_product_is_the_largest() -> None:
    """On x86 without VNNI this fails with 8 bits in the dense layers."""
    network = read(model())
    for layer in network.layers.values():
        layer.set(np.ones_like(layer.matrix()), np.zeros(layer.out_channels))
    placement = activation_tensors(network, list(network.layers), "cpu")
    bits = integer_bits(network, dict.fromkeys(network.layers, 8), placement)
    ones = {"x": np.ones((1, 3, 12, 12), np.float32)}
    grids = measure_ranges(network, placement, ones, likeness="real")
    weights = {name: nearest(network, b)[name] for name, b in bits.items()}
    (y,) = run(emit(network, weights, grids, "cpu", placement).model, ones)
    np.testing.assert_allclose(y, 27 * 9 * 8, rtol=0.01)


def test_extents_of_channels_are_found_without_a_copy_of_the_tensor() -> None:
    x = np.random.default_rng(0).normal(size=(30, 6, 80, 70)).astype(np.float32)
    (largest, power), bytes_ = taken(lambda: channel_extents(x))
    assert bytes_ < x.nbytes / 2
    np.testing.assert_array_equal(largest, np.abs(x).max((0, 2, 3)))
    np.testing.assert_allclose(power, np.square(x, dtype=np.float64).mean((0, 2, 3)), rtol=1e-12)
