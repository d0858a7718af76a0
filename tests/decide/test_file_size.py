"""The model of the file's size against files that were written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.decide.file_size import file_size, with_biases, written, written_bytes
from onnx_udfc.decide.footprint import footprint
from onnx_udfc.decide.ranks import rank_levels, saved_weights
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.kernels import optimized_graph
from tests.quantized_graphs import network_of
from tests.small_graphs import small_model, small_network

WIDE = """g (float[1, 3, 8, 8] x, float[64, 3, 3, 3] W0, float[64] B0, float[96, 64, 3, 3] W1, float[10, 96, 1, 1] W2)
=> (float[1, 10, 8, 8] y) {
  a = Conv<pads=[1, 1, 1, 1]>(x, W0, B0)
  b = Relu(a)
  c = Conv<pads=[1, 1, 1, 1]>(b, W1)
  d = Relu(c)
  y = Conv(d, W2)
}"""


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("activations", [None, 8])
def test_the_whole_network_is_exact_and_a_pruned_one_near(bits: int, activations: int | None) -> None:
    if bits == 32 and activations:
        pytest.skip("activations need quantized weights")
    network = small_network(WIDE)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    options = Options(bits=bits, activations=activations)
    ranks = rank_levels(network, {}, size, {}, saved_weights(size))
    model = file_size(network, ranks, () if bits == 32 else (bits,), options)
    widths = np.full(len(network.layers), float(bits))
    named = {} if bits == 32 else dict.fromkeys(network.layers, bits)
    whole = written_bytes(with_biases(network), named, options)
    assert float(model.bytes(size.channels, np.zeros(len(network.layers)), widths)) == pytest.approx(whole, abs=1)
    kept = {group.name: np.arange(group.channels // 2) for group in channels.groups}
    small = prune(network, channels, kept).network
    true = written_bytes(with_biases(small), named, options)
    guess = float(model.bytes(np.array([len(k) for k in kept.values()], np.float64), 0 * widths, widths))
    assert guess == pytest.approx(true, rel=0.03)


def test_layers_of_different_bits_add_up() -> None:
    network = small_network(WIDE)
    channels = find_groups(network)
    size = footprint(network, channels, channels.groups)
    ranks = rank_levels(network, {}, size, {}, saved_weights(size))
    model = file_size(network, ranks, (8, 4), Options(bits="auto", budget={"bytes": "0.2"}))
    first, second, third = network.layers
    true = written_bytes(with_biases(network), {first: 8, second: 4, third: 8}, Options())
    assert float(model.bytes(size.channels, np.zeros(len(network.layers)), np.array([8.0, 4.0, 8.0]))) == pytest.approx(
        true, rel=0.01
    )


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_file_weighs_what_was_reckoned(bits: int) -> None:
    network = small_network(WIDE)  # one layer has a bias of the file, two get one by their repair
    options = Options(bits=bits, bits_uniform=True, threads=1)
    reckoned = written_bytes(with_biases(network), dict.fromkeys(network.layers, bits), options)
    assert compress(network.to_model(), options).model.ByteSize() == reckoned


SAME = """g (float[N,64] x, float[64,64] A, float[64,64] B, float[64,64] C) => (float[N,64] y) {
    a = MatMul(x, A) r = Relu(a) b = MatMul(r, B) s = Relu(b) y = MatMul(s, C) }"""
TABLE = """g (int64[N] ids, int64[N] others, float[1000,64] E, float[1000,64] F, float[64,16] W) => (float[N,16] y) {
    p = Gather(E, ids) q = Gather(F, others) r = Add(p, q) y = MatMul(r, W) }"""


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("text", [SAME, TABLE], ids=["layers", "tables"])
def test_layers_and_tables_of_one_shape_are_counted_each(text: str, bits: int) -> None:
    network, options = small_network(text), Options(bits=bits, method="none")
    real = compress(small_model(text), options).report.after.bytes
    assert written_bytes(network, dict.fromkeys(network.layers, bits), options) == real


def test_a_draft_runs_on_the_kernels_that_the_file_will_run_on() -> None:
    """A clipping at 6 is taken over by a kernel whose codes end below it, as those of measured ranges do."""
    text = """(float[1,16,9,9] x) => (float y) <float low = {0.0}, float high = {6.0}>
        { a = Conv (x, w1) r = Clip (a, low, high) y = Conv (r, w2) }"""
    network = network_of(text, {"w1": (16, 16, 3, 3), "w2": (16, 16, 1, 1)})
    model = written(with_biases(network), dict.fromkeys(network.layers, 8), Options(bits=8, activations=8))
    kernels = Counter(node.op_type for node in optimized_graph(model).graph.node)
    assert kernels["QLinearConv"] == 2
    assert not {"Conv", "FusedConv", "Clip"} & set(kernels)
