"""Channel groups: what is found, what is left alone, and the reasons given."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_udfc.channels.cells import _refine
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.labels import components
from tests.channels.test_prune import DENSENET, GRAPHS, GROUPED, RESIDUAL, SHUFFLE, SPLIT_CONCAT, SQUEEZE
from tests.small_graphs import small_network


def test_a_residual_stream_is_one_group_of_all_its_producers() -> None:
    channels = find_groups(small_network(RESIDUAL))
    stream, inner = channels.groups
    assert (stream.kind, stream.channels) == ("stream", 8)
    assert (stream.producers, stream.consumers) == (("n0", "n4"), ("n2", "n7"))
    assert (inner.kind, inner.producers, inner.consumers) == ("inner", ("n2",), ("n4",))


def test_concatenated_channels_stay_groups_of_their_own_with_offsets() -> None:
    channels = find_groups(small_network(DENSENET))
    assert [(g.name, g.kind, g.consumers) for g in channels.groups] == [
        ("n0", "inner", ("n3", "n7", "n11")),
        ("n3", "inner", ("n7", "n11")),
        ("n7", "inner", ("n11",)),
    ]
    assert [list(g.inputs("n11")[:, 0]) for g in channels.groups] == [
        list(range(8)), list(range(8, 12)), list(range(12, 16)),
    ]  # fmt: skip


def test_channels_beside_a_map_that_a_dense_layer_made_stay() -> None:
    """The joined tensor is the network's output; the dense layer's features vary along its places, too."""
    text = """g (float[1,8,4,4] x, float[4,8,3,3] W, float[64,128] D) => (float[1,6,4,4] y, float[1,3,2,2] z) {
        a = Conv<pads=[1,1,1,1]>(x, W) f = Flatten(x) d = Gemm<transB=1>(f, D)
        s = Constant<value_ints = [1,4,4,4]>() m = Reshape(d, s) y = Concat<axis=1>(m, a)
        V = Constant<value = float[3,4,1,1] {1,2,3,4,5,6,7,8,9,1,2,3}>() z = Conv<strides=[2,2]>(a, V) }"""
    channels = find_groups(small_network(text))
    assert channels.groups == ()
    assert {skip.node for skip in channels.skips if skip.reason.startswith("it is joined")} == {"n0", "n2"}


def test_squeeze_and_excitation_couples_without_being_a_stream() -> None:
    group = find_groups(small_network(SQUEEZE))["n0"]
    assert (group.kind, group.producers, group.consumers) == ("inner", ("n0", "n5"), ("n3", "n8"))


STEP = """g (float[N,3,8,8] x, float[N,6] t, float[8,3,3,3] W1, float[8,6] D, float[4,8,3,3] W2) => (float[N,4,4,4] y) {
    a = Conv(x, W1) g = Gemm<transB = 1>(t, D) two = Constant<value_ints = [2, 3]>() u = Unsqueeze(g, two)
    s = Add(a, u) r = Relu(s) y = Conv(r, W2) }"""


def test_branches_side_by_side_that_are_added_are_no_stream() -> None:
    """As in a selective kernel network, whose 3 x 3 layers would never be pruned else."""
    network = small_network(
        """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[8,3,1,1] W2, float[5,8,1,1] W4)
        => (float[a,b,c,d] y) { p = Conv<pads = [1, 1, 1, 1]>(x, W1) q = Conv(x, W2) r = Relu(p) t = Relu(q)
        a = Add(r, t) z = Relu(a) y = Conv(z, W4) }"""
    )
    (group,) = find_groups(network).groups
    assert (group.kind, group.channels, len(group.producers)) == ("inner", 8, 2)


def test_a_bias_that_a_layer_computes_for_each_channel_is_no_stream() -> None:
    """As of a diffusion step; nothing is carried past a layer, and each map has what it had without it."""
    (group,) = find_groups(small_network(STEP)).groups
    assert (group.kind, group.producers, group.consumers) == ("inner", ("n0", "n1"), ("n6",))


def test_a_flattened_channel_owns_a_block_of_columns() -> None:
    group = find_groups(small_network(GRAPHS["Gemm chain"]))["n0"]
    np.testing.assert_array_equal(group.inputs("n3"), np.arange(512).reshape(8, 64))


def test_channels_flattened_last_own_strided_columns() -> None:
    network = small_network("""g (float[1,3,2,2] x, float[4,3,1,1] W1, float[16,5] W2) => (float[a,b] y) {
        a = Conv(x, W1) t = Transpose<perm = [0, 2, 3, 1]>(a) f = Flatten(t) y = MatMul(f, W2) }""")
    np.testing.assert_array_equal(find_groups(network)["n0"].inputs("n3"), np.arange(16).reshape(4, 4).T)


def test_two_grouped_convolutions_cut_the_channels_into_cells_of_their_common_size() -> None:
    group = find_groups(small_network(GROUPED))["n2"]
    assert group.channels == 24
    assert list(np.bincount(group.cells)) == [2] * 12


def test_a_channel_shuffle_has_a_cell_for_every_pair_of_groups() -> None:
    group = find_groups(small_network(SHUFFLE))["n0"]
    assert group.channels == 24
    sizes = np.bincount(group.cells)
    assert len(sizes) == 9
    assert set(sizes) == {2, 3}


def test_parts_of_a_split_are_groups_of_their_own() -> None:
    channels = find_groups(small_network(SPLIT_CONCAT))
    assert [(g.name, g.channels, list(g.outputs("n0")[:, 0])) for g in channels.groups] == [
        ("n0", 4, [0, 1, 2, 3]),
        ("n0#2", 4, [4, 5, 6, 7]),
    ]


BODY_REASONS = {
    "y = Relu(a)": "it is an output of the network",
    "b = Softmax<axis = 1>(a) y = Relu(b)": "Softmax runs over its channels",
    "b = Det(a) y = Relu(b)": "it feeds Det, through which channels cannot be followed",
    "b = custom.Magic(a) y = Relu(b)": "it feeds custom.Magic, an operator that is not of the ONNX standard",
    "c = Constant<value = bool {1}>() b = If(c) <then_branch = t () => (float[1,8,6,6] z) { z = Relu(a) },"
    " else_branch = e () => (float[1,8,6,6] v) { v = Abs(a) }> y = Relu(b)": "it feeds the control flow of a If node",
    "b = Add(a, m) y = Conv(b, W2)": "it is combined with a tensor whose channels cannot be removed",
    "r = Relu(a) t = Transpose<perm = [0, 2, 3, 1]>(r) k = Transpose<perm = [0, 2, 1, 3]>(r)"
    " y = MatMul(t, k)": "MatMul sums over its channels",
}


@pytest.mark.parametrize("body", BODY_REASONS)
def test_what_cannot_be_pruned_says_why(body: str) -> None:
    network = small_network(f"""g (float[1,3,8,8] x, float[8,3,3,3] W1, float[5,8,1,1] W2, float[1,8,6,6] m)
        => (float[a,b,c,d] y) {{ a = Conv(x, W1) {body} }}""")
    channels = find_groups(network)
    assert channels.groups == ()
    assert {skip.node: skip.reason for skip in channels.skips}["n0"] == BODY_REASONS[body]


@pytest.mark.parametrize("pattern", ["n2", "b", "n[2]"])
def test_skipped_names_are_left_alone(pattern: str) -> None:
    channels = find_groups(small_network(RESIDUAL), [pattern])
    reasons = {skip.node: skip.reason for skip in channels.skips}
    assert "n2" not in {p for group in channels.groups for p in group.producers}
    assert "--skip" in reasons["n2"]


def test_every_layer_is_in_a_group_or_skipped_with_a_reason() -> None:
    for text in GRAPHS.values():
        network = small_network(text)
        channels = find_groups(network)
        skipped = {skip.node for skip in channels.skips}
        touched = {slot.node for group in channels.groups for slot in group.slots if slot.role != "consumer"}
        assert set(network.layers) <= skipped | touched
        assert not skipped & {p for group in channels.groups for p in group.producers}
        assert all(skip.reason for skip in channels.skips)


def test_a_layer_with_quantized_weights_is_left_alone() -> None:
    network = small_network(
        """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[5,8,1,1] W2) => (float[a,b,c,d] y) {
        s = Constant<value_float = 0.1>() q = QuantizeLinear(x, s) p = DequantizeLinear(q, s)
        z = Constant<value = int8[5,8,1,1] {"""
        + ", ".join("1" for _ in range(40))
        + """}>()
        w = DequantizeLinear(z, s) a = Conv(p, W1) y = Conv(a, w) }"""
    )
    reasons = {skip.node: skip.reason for skip in find_groups(network).skips}
    assert reasons["n6"] == "it is already quantized"


def test_local_response_normalization_is_pruned_with_a_note() -> None:
    network = small_network("""g (float[1,3,8,8] x, float[8,3,3,3] W1, float[5,8,1,1] W2) => (float[a,b,c,d] y) {
        a = Conv(x, W1) b = LRN<size = 5>(a) y = Conv(b, W2) }""")
    channels = find_groups(network)
    assert [g.name for g in channels.groups] == ["n0"]
    assert channels.notes == ("n1: local response normalization: its window over channels sees fewer of them",)


def test_components_are_those_of_a_naive_union() -> None:
    rng = np.random.default_rng(0)
    for count, edges in [(1, 0), (40, 20), (200, 180), (300, 900)]:
        a, b = rng.integers(0, count, (2, edges))
        naive = list(range(count))
        for i, j in zip(a, b, strict=True):
            low, high = sorted((naive[i], naive[j]))
            naive = [low if root == high else root for root in naive]
        assert list(components(count, [(a, b)])) == naive


def test_cells_refine_equal_blocks_and_are_cut_to_a_common_size() -> None:
    def blocks(channels: int, count: int) -> NDArray[np.int64]:
        inside = np.arange(channels) // (channels // count) == np.arange(count)[:, None]
        return np.asarray(inside, np.int64)

    numbers, failed = _refine([blocks(24, 4), blocks(24, 3)])
    assert failed == []
    assert list(numbers) == list(np.repeat(np.arange(12), 2))
    assert _refine([blocks(12, 4), blocks(12, 3)])[1] == [0, 1]
