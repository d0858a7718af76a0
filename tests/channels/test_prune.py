"""Pruning: exact where channels are copies, strict in what it removes, and silent about everything else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.model.network import Network, read
from tests.dead_channels import outputs, random_feeds
from tests.duplicates import add_up, duplicate, halves
from tests.small_graphs import small_model, small_network

RESIDUAL = """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[8] B1, float[6,8,3,3] W2, float[8,6,3,3] W3, float[8] B3,
    float[5,8,3,3] W4) => (float[a,b,c,d] y) {
    s = Conv<pads = [1, 1, 1, 1]>(x, W1, B1) r = Relu(s)
    a = Conv<pads = [1, 1, 1, 1]>(r, W2) b = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(b, W3, B3)
    t = Add(c, r) u = Relu(t) y = Conv(u, W4) }"""
DENSENET = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[4,8,3,3] W2, float[4,12,3,3] W3, float[5,16,1,1] W4,
    float[8] V1, float[12] V2, float[16] V3) => (float[a,b,c,d] y) {
    a = Conv(x, W1) an = BatchNormalization(a, V1, V1, V1, V1) ar = Relu(an) b = Conv<pads = [1, 1, 1, 1]>(ar, W2)
    c = Concat<axis = 1>(a, b) cn = BatchNormalization(c, V2, V2, V2, V2) cr = Relu(cn)
    d = Conv<pads = [1, 1, 1, 1]>(cr, W3) e = Concat<axis = 1>(c, d)
    en = BatchNormalization(e, V3, V3, V3, V3) er = Relu(en) y = Conv(er, W4) }"""
GROUPED = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[24,2,3,3] W2, float[24] B2, float[12,8,1,1] W3,
    float[5,12,1,1] W4) => (float[a,b,c,d] y) {
    a = Conv(x, W1) r = Relu(a) b = Conv<group = 4>(r, W2, B2) s = Relu(b) c = Conv<group = 3>(s, W3) t = Relu(c)
    y = Conv(t, W4) }"""
SQUEEZE = """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[4,8,1,1] W2, float[8,4,1,1] W3, float[8] B3,
    float[5,8,1,1] W4) => (float[a,b,c,d] y) {
    a = Conv(x, W1) r = Relu(a) p = GlobalAveragePool(r) q = Conv(p, W2) s = Relu(q) t = Conv(s, W3, B3)
    g = Sigmoid(t) m = Mul(r, g) y = Conv(m, W4) }"""
SHUFFLE = """g (float[1,6,8,8] x, float[24,2,1,1] W1, float[24,1,3,3] W2, float[9,8,1,1] W3, float[5,9,1,1] W4)
    => (float[a,b,c,d] y) {
    a = Conv<group = 3>(x, W1) r = Relu(a) s = Constant<value_ints = [1, 3, 8, 8, 8]>() p = Reshape(r, s)
    q = Transpose<perm = [0, 2, 1, 3, 4]>(p) t = Constant<value_ints = [0, -1, 8, 8]>() u = Reshape(q, t)
    d = Conv<group = 24>(u, W2) e = Conv<group = 3>(d, W3) f = Relu(e) y = Conv(f, W4) }"""
SHUFFLE_SPLIT = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[4,4,3,3] W2, float[4,4,3,3] W3, float[5,8,1,1] W4)
    => (float[a,b,c,d] y) {
    a = Conv(x, W1) r = Relu(a) p, q = Split<axis = 1, num_outputs = 2>(r)
    b = Conv<pads = [1, 1, 1, 1]>(q, W2) c = Concat<axis = 1>(p, b)
    s = Constant<value_ints = [1, 2, 4, 8, 8]>() t = Constant<value_ints = [1, 8, 8, 8]>() d = Reshape(c, s)
    e = Transpose<perm = [0, 2, 1, 3, 4]>(d) f = Reshape(e, t) h, i = Split<axis = 1, num_outputs = 2>(f)
    j = Conv<pads = [1, 1, 1, 1]>(i, W3) k = Concat<axis = 1>(h, j) y = Conv(k, W4) }"""
SPLIT_CONCAT = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[4,4,3,3] W2, float[5,12,1,1] W3) => (float[a,b,c,d] y) {
    a = Conv(x, W1) r = Sigmoid(a) p, q = Split<axis = 1, num_outputs = 2>(r)
    b = Conv<pads = [1, 1, 1, 1]>(q, W2) s = Relu(b) t = Add(s, q) c = Concat<axis = 1>(p, q, t) y = Conv(c, W3) }"""
TRANSPOSED = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[8,6,2,2] W2, float[6] B2, float[6,4,3,3] W3,
    float[8,5,1,1] W4) => (float[a,b,c,d] y) {
    a = Conv(x, W1) r = Relu(a) b = ConvTranspose<strides = [2, 2]>(r, W2, B2) s = Relu(b)
    c = ConvTranspose<group = 2>(s, W3) t = Relu(c) y = ConvTranspose(t, W4) }"""
GEMM = """g (float[2,3,8,8] x, float[8,3,1,1] W1, float[10,512] W2, float[10] B2, float[10,6] W3, float[6] B3,
    float[6,4] W4) => (float[a,b] y) {
    a = Conv(x, W1) r = Relu(a) f = Flatten(r) g = Gemm<transB = 1>(f, W2, B2) s = Relu(g) h = MatMul(s, W3)
    i = Add(h, B3) t = Relu(i) y = Gemm(t, W4) }"""
GROUP_NORM = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[4] S1, float[4] T1, float[8,1,1] S2, float[8,1,1] T2,
    float[5,8,1,1] W2) => (float[a,b,c,d] y) {
    a = Conv(x, W1) s = Constant<value_ints = [0, 4, -1]>() p = Reshape(a, s) q = InstanceNormalization(p, S1, T1)
    z = Shape(a) r = Reshape(q, z) m = Mul(r, S2) n = Add(m, T2) t = Relu(n) y = Conv(t, W2) }"""
CONVNEXT = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[8,1,3,3] W2, float[8] S, float[8,12] W3, float[12] B3,
    float[12,8] W4, float[8] B4, float[8] S4, float[5,8,1,1] W5) => (float[a,b,c,d] y) {
    a = Conv(x, W1) d = Conv<group = 8, pads = [1, 1, 1, 1]>(a, W2) t = Transpose<perm = [0, 2, 3, 1]>(d)
    n = LayerNormalization(t, S) e = MatMul(n, W3) f = Add(e, B3) g = Gelu(f) h = MatMul(g, W4) i = Add(h, B4)
    j = Mul(i, S4) k = Transpose<perm = [0, 3, 1, 2]>(j) l = Add(k, a) y = Conv(l, W5) }"""
PIXEL_SHUFFLE = """g (float[1,3,8,8] x, float[12,3,1,1] W1, float[5,3,1,1] W2) => (float[a,b,c,d] y) {
    a = Conv(x, W1) s = Constant<value_ints = [1, 3, 2, 2, 8, 8]>() p = Reshape(a, s)
    q = Transpose<perm = [0, 1, 4, 2, 5, 3]>(p) t = Constant<value_ints = [1, 3, 16, 16]>() u = Reshape(q, t)
    y = Conv(u, W2) }"""
HALF = GROUPED.replace("float[", "float16[")

GRAPHS = {
    "residual stream": RESIDUAL,
    "DenseNet concat": DENSENET,
    "grouped convolution": GROUPED,
    "squeeze and excitation": SQUEEZE,
    "channel shuffle": SHUFFLE,
    "ShuffleNet V2": SHUFFLE_SPLIT,
    "split and concat": SPLIT_CONCAT,
    "transposed convolution": TRANSPOSED,
    "Gemm chain": GEMM,
    "group norm": GROUP_NORM,
    "ConvNeXt": CONVNEXT,
    "pixel shuffle": PIXEL_SHUFFLE,
    "float16": HALF,
}


def coarse(network: Network) -> Network:
    """Weights rounded to eighths, so that sums are exact in float16."""
    copy = network.copy()
    for layer in copy.layers.values():
        layer.constant.values = (np.round(layer.constant.values * 4) / 8).astype(layer.constant.values.dtype)
    return copy


@pytest.mark.parametrize("name", GRAPHS)
def test_pruning_copies_is_exact(name: str) -> None:
    network = coarse(small_network(GRAPHS[name]))
    channels = find_groups(network)
    assert channels.groups
    copies = duplicate(network, channels)
    pruned = prune(add_up(copies, channels), channels, halves(channels))
    before = copies.to_model()
    feeds = {k: np.round(v * 8).astype(v.dtype) / 8 for k, v in random_feeds(before, channels.shapes.sizes).items()}
    feeds = {k: v.astype(np.float16) if name == "float16" else v.astype(np.float32) for k, v in feeds.items()}
    (expected,), (found,) = outputs(before, feeds), outputs(pruned.network.to_model(), feeds)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    onnx.checker.check_model(pruned.network.to_model(), full_check=True)


def test_parameters_left_are_those_counted_by_hand() -> None:
    network = small_network(RESIDUAL)
    channels = find_groups(network)
    pruned = prune(network, channels, {"n0": np.array([0, 2, 5]), "n2": np.array([1, 2])})
    left = {name: layer.constant.values.size for name, layer in pruned.network.layers.items()}
    assert left == {"n0": 3 * 3 * 9, "n2": 2 * 3 * 9, "n4": 3 * 2 * 9, "n7": 5 * 3 * 9}
    biases = {name: layer.bias_tensor for name, layer in pruned.network.layers.items()}
    assert {name: tensor.shape for name, tensor in biases.items() if tensor is not None} == {"n0": (3,), "n4": (3,)}


def test_kept_channels_are_reported_and_their_weights_are_the_original_ones() -> None:
    network = small_network(RESIDUAL)
    stream, inner = np.array([0, 2, 5]), np.array([1, 2])
    pruned = prune(network, find_groups(network), {"n0": stream, "n2": inner})
    kept = {name: (list(pruned.kept_in[name]), list(pruned.kept_out[name])) for name in network.layers}
    everything = list(range(5))
    assert kept == {
        "n0": ([0, 1, 2], [0, 2, 5]),
        "n2": ([0, 2, 5], [1, 2]),
        "n4": ([1, 2], [0, 2, 5]),
        "n7": ([0, 2, 5], everything),
    }
    for name, layer in pruned.network.layers.items():
        whole = network.layers[name].weight
        np.testing.assert_array_equal(layer.weight, whole[pruned.kept_out[name]][:, pruned.kept_in[name]])


def test_groups_that_are_not_named_stay_whole() -> None:
    network = small_network(RESIDUAL)
    pruned = prune(network, find_groups(network), {"n2": np.array([3])})
    assert {name: len(kept) for name, kept in pruned.kept_out.items()} == {"n0": 8, "n2": 1, "n4": 8, "n7": 5}


def test_the_network_itself_is_not_changed() -> None:
    network = small_network(DENSENET)
    before = network.to_model().SerializeToString(deterministic=True)
    channels = find_groups(network)
    prune(network, channels, halves(channels))
    assert network.to_model().SerializeToString(deterministic=True) == before


def test_pruning_twice_gives_the_same_bytes() -> None:
    def once() -> onnx.ModelProto:
        network = small_network(SHUFFLE)
        channels = find_groups(network)
        return prune(network, channels, halves(channels)).network.to_model()

    assert once().SerializeToString() == once().SerializeToString()


def test_channels_behind_a_shuffle_are_reported_in_their_physical_order() -> None:
    network = small_network(SHUFFLE)
    channels = find_groups(network)
    group = channels["n0"]
    rows = group.cells.reshape(3, 8)
    keep = np.concatenate([8 * i + np.flatnonzero(rows[i] == cell)[-2 + (i == 0) :][:1] for i in range(3)
                           for cell in np.unique(rows[i])])  # fmt: skip
    pruned = prune(network, channels, {"n0": np.sort(keep)})
    each = np.sort(keep).reshape(3, -1)
    shuffled = [8 * 0 + (channel % 8) * 3 + channel // 8 for channel in each.T.ravel()]
    assert list(pruned.kept_in["n8"]) == shuffled
    assert pruned.network.layers["n7"].groups == 9


def test_a_constant_of_two_users_is_sliced_only_for_the_one_that_needs_it() -> None:
    network = small_network("""g (float[1,3,8,8] x, float[8,3,1,1] W1, float[8,3,1,1] W2, float[5,8,1,1] W3,
        float[8,1,1] S) => (float[a,b,c,d] y, float[a,b,c,d] z) {
        a = Conv(x, W1) r = Relu(a) b = Mul(r, S) y = Conv(b, W3) c = Conv(x, W2) s = Relu(c) z = Mul(s, S) }""")
    channels = find_groups(network)
    pruned = prune(network, channels, halves(channels))
    shapes = {n.name: n.inputs[1].shape for n in pruned.network.graph.nodes if n.op == "Mul"}
    assert shapes == {"n2": (4, 1, 1), "n6": (8, 1, 1)}
    outputs(pruned.network.to_model(), random_feeds(network.to_model(), channels.shapes.sizes))


def test_folded_batch_norm_loses_the_same_channels() -> None:
    network = small_network("""g (float[1,3,8,8] x, float[4,3,1,1] W1, float[4] S, float[4] B, float[4] M, float[4] V,
        float[5,4,1,1] W2) => (float[a,b,c,d] y) { a = Conv(x, W1) b = BatchNormalization(a, S, B, M, V) c = Relu(b)
        y = Conv(c, W2) }""")
    pruned = prune(network, find_groups(network), {"n0": np.array([1, 3])})
    whole, left = network.layers["n0"].batch_norm, pruned.network.layers["n0"].batch_norm
    assert whole is not None
    assert left is not None
    np.testing.assert_array_equal(left.mean, whole.mean[[1, 3]])
    assert len(whole.mean) == 4


def test_inputs_and_outputs_keep_names_and_shapes() -> None:
    model = small_model(RESIDUAL)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    network = read(model)
    channels = find_groups(network)
    result = prune(network, channels, halves(channels)).network.to_model()
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)


def test_a_computed_target_shape_follows_for_any_batch_and_size() -> None:
    network = small_network("""g (float[n,3,h,w] x, float[8,3,1,1] W1, float[5,8,1,1] W2) => (float[a,b,c,d] y) {
        a = Conv(x, W1) s = Shape(a) i = Constant<value_ints = [0]>() j = Constant<value_ints = [2, 3]>()
        k = Gather(s, i) l = Gather(s, j) c = Constant<value_ints = [2]>() d = Constant<value_ints = [4]>()
        t = Concat<axis = 0>(k, c, d, l) p = Reshape(a, t) q = Transpose<perm = [0, 2, 1, 3, 4]>(p)
        u = Reshape(q, s) y = Conv(u, W2) }""")
    channels = find_groups(network)
    copies = duplicate(network, channels)
    pruned = prune(add_up(copies, channels), channels, halves(channels)).network
    assert pruned.layers["n0"].out_channels == 4
    for size in [(1, 3, 4, 4), (3, 3, 5, 7)]:
        feeds = {"x": np.random.default_rng(0).random(size).astype(np.float32)}
        (expected,), (found,) = outputs(copies.to_model(), feeds), outputs(pruned.to_model(), feeds)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_cells_must_keep_equally_many() -> None:
    network = small_network(GROUPED)
    with pytest.raises(AssertionError, match="cells keep"):
        prune(network, find_groups(network), {"n0": np.array([0, 1, 2])})
