from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import Channels, find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.model.network import Network, read
from onnx_udfc.repair.absorb import absorb_copies, input_rows, producer_of
from onnx_udfc.repair.reference import trace
from onnx_udfc.repair.refit import repair
from onnx_udfc.repair.repaired import RepairSettings
from tests.dead_channels import outputs
from tests.duplicates import duplicate, halves
from tests.normed_graphs import CHAIN, scaled_model, settled

DEPTHWISE = """g (float[N,3,12,12] x, float[16,3,1,1] W1, float[16] B1, float[16,1,3,3] W2, float[16] B2,
    float[6,16,1,1] W3) => (float[N,6,6,6] y) { a = Conv(x, W1, B1) r = Relu(a)
    b = Conv<group = 16, strides = [2, 2], pads = [1, 1, 1, 1]>(r, W2, B2) s = Relu(b) y = Conv(s, W3) }"""
FLAT = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[8] B1, float[200,12] W2, float[12] B2, float[5,12] W3)
    => (float[N,5] y) { a = Conv(x, W1, B1) r = Relu(a) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    f = Flatten(p) h = MatMul(f, W2) i = Add(h, B2) s = Relu(i) y = Gemm<transB = 1>(s, W3) }"""
TRANSPOSED = """g (float[N,3,12,12] x, float[3,16,3,3] W1, float[16] B1, float[16] S, float[16,5,2,2] W2)
    => (float[N,5,28,28] y) { a = ConvTranspose(x, W1, B1) k = Constant<value_ints = [16, 1, 1]>() q = Reshape(S, k)
    r = PRelu(a, q) y = ConvTranspose<strides = [2, 2]>(r, W2) }"""
WIDENED = """g (float[N,3,12,12] x, float[8,3,1,1] W1, float[8] B1, float[8,3,2,2] W2, float[24] B2, float[6,24,1,1] W3)
    => (float[N,6,24,24] y) { a = Conv(x, W1, B1) r = Relu(a)
    b = ConvTranspose<group = 8, strides = [2, 2]>(r, W2, B2) s = Relu(b) y = Conv(s, W3) }"""
FORMS = {"widened": WIDENED, "chain": CHAIN, "depthwise": DEPTHWISE, "flat": FLAT, "transposed": TRANSPOSED}
X = {"x": np.random.default_rng(0).normal(size=(64, 3, 12, 12)).astype(np.float32)}


def copies(name: str) -> tuple[Network, Channels]:
    """A network in which half of the channels of every group are copies of the other half."""
    network = read(settled(scaled_model(FORMS[name]), X))
    channels = find_groups(network)
    return duplicate(network, channels), channels


@pytest.mark.parametrize("name", FORMS)
def test_removing_copies_is_exact_before_any_fit(name: str) -> None:
    network, channels = copies(name)
    start = network.copy()
    absorb_copies(start, network, channels, halves(channels))
    (before,), (after,) = (
        outputs(n.to_model(), X) for n in (network, prune(start, channels, halves(channels)).network)
    )
    (without,) = outputs(prune(network, channels, halves(channels)).network.to_model(), X)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert abs(without - before).max() > 0.1


@pytest.mark.parametrize("name", FORMS)
def test_removing_copies_is_exact_after_the_repair(name: str) -> None:
    network = read(copies(name)[0].to_model())  # folded batch norms are plain weights in what is written
    channels = find_groups(network)
    keep = halves(channels)
    reference = trace(network, X, (), matched=True, samples=4096, seed=0, advance=lambda _: None)
    absorb_copies(reference.network, network, channels, keep)
    pruned, matched = (prune(n, channels, keep) for n in (network, reference.network))
    repair(pruned, matched.network, reference, {}, RepairSettings(), lambda _: None)
    (before,), (after,) = (outputs(n.to_model(), X) for n in (network, pruned.network))
    assert np.sqrt(np.square(after - before).mean()) < 1e-4 * before.std()


def test_without_copies_nothing_moves() -> None:
    network = read(scaled_model(CHAIN))
    channels = find_groups(network)
    start = network.copy()
    absorb_copies(start, network, channels, halves(channels))
    for name, layer in network.layers.items():
        assert np.array_equal(start.layers[name].weight, layer.weight)


GROUPED = """g (float[N,3,12,12] x, float[8,3,3,3] W1, float[8] B1, float[6,4,3,3] W2, float[5,6,1,1] W3)
    => (float[N,5,8,8] y) { a = Conv(x, W1, B1) r = Relu(a) b = Conv<group = 2>(r, W2) s = Relu(b) y = Conv(s, W3) }"""


def test_rows_of_a_grouped_consumer() -> None:
    network = read(scaled_model(GROUPED))
    group, layer = find_groups(network).groups[0], network.layers["n2"]
    rows = input_rows(layer, group)
    assert rows.shape == (2, 8, 9)
    for g in range(2):
        for channel in range(8):
            inside = channel // 4 == g
            expected = np.arange(9) + 9 * (channel % 4) if inside else np.full(9, -1)
            assert np.array_equal(rows[g, channel], expected)


def test_rows_of_a_flattened_consumer_are_all_pixels_of_a_channel() -> None:
    network = read(scaled_model(FLAT))
    group = find_groups(network).groups[0]
    rows = input_rows(network.layers[group.consumers[0]], group)
    assert np.array_equal(rows[0], np.arange(200).reshape(8, 25))


def test_what_a_method_knows_of_a_group() -> None:
    network = read(scaled_model(CHAIN))
    group, layer = find_groups(network).groups[0], network.layers["n0"]
    found = producer_of(network, group)
    norm = layer.batch_norm
    assert norm is not None
    assert np.array_equal(found.weight, layer.weight.reshape(16, 27))
    assert np.array_equal(found.bias, layer.bias)
    np.testing.assert_allclose(found.scale, norm.gamma / np.sqrt(norm.var + norm.epsilon), rtol=1e-9)
