"""Slices, picks and turns of channels: each position carries its label, and nothing is refused that loses nothing."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray

from onnx_udfc.channels import groups
from onnx_udfc.channels.cells import balance_cells
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.labels import Flow, MisfitError, RuleWarning
from onnx_udfc.channels.prune import prune
from onnx_udfc.channels.replay import MisalignedError
from onnx_udfc.channels.rules.table import CHANNEL_RULES, propagate
from onnx_udfc.channels.shapes import resolve
from onnx_udfc.model.network import Network, read
from tests.dead_channels import kill, outputs, random_feeds
from tests.small_graphs import small_model, small_network

EVEN = """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[8] B1, float[5,8,1,1] W2, float[2,4,1,1] W3)
    => (float[a,b,c,d] y, float[e,f,g,h] z) {
    a = Conv(x, W1, B1) y = Conv(a, W2) s = Constant<value_ints = [STARTS]>() e = Constant<value_ints = [ENDS]>()
    k = Constant<value_ints = [AXES]>() t = Constant<value_ints = [STEPS]>()
    b = Slice(a, s, e, k, t) z = Conv(b, W3) }"""
CONTROL = """g (float[1,3,8,8] x, float[8,3,1,1] W1, float[6,8,1,1] W2, float[4,6,1,1] W3, float[5,4,1,1] W4)
    => (float[a,b,c,d] y) { a = Conv(x, W1) b = Conv(a, W2) c = Relu(b) d = Conv(c, W3) y = Conv(d, W4) }"""


def even(starts: str, ends: str, axes: str, steps: str) -> Network:
    text = EVEN.replace("STARTS", starts).replace("ENDS", ends).replace("AXES", axes).replace("STEPS", steps)
    return small_network(text)


def pruned(network: Network, kept: list[int]) -> tuple[list[NDArray[np.float64]], Network]:
    """What differs in the outputs when only these of the first layer's channels stay, and nothing reads the others."""
    channels = find_groups(network)
    keep, roots = {}, channels.root[channels.flow.created["n0", 0]]
    for group in channels.groups:
        members = channels.roots[group.name]
        stay = np.isin(members, roots[kept]) | ~np.isin(members, roots)
        keep[group.name] = np.flatnonzero(stay)
    dead = kill(network, channels, keep)
    left = prune(dead, channels, keep).network
    feeds = random_feeds(dead.to_model(), channels.shapes.sizes)
    pairs = zip(outputs(dead.to_model(), feeds), outputs(left.to_model(), feeds), strict=True)
    return [np.abs(a - b).max() / np.abs(a).max() for a, b in pairs], left


@pytest.mark.parametrize(
    ("cut", "kept", "ops"),
    [
        (("0", "8", "1", "2"), [0, 1, 2, 4, 6], ["Gather"]),
        (("0", "8", "1", "2"), [0, 2, 3, 5], ["Slice"]),
        (("7", "-9", "1", "-2"), [0, 1, 3, 7], ["Slice"]),
        (("-1", "-9223372036854775807", "1", "-2"), [0, 2, 3, 5, 6, 7], ["Gather"]),
        (("1, 0", "7, 8", "2, 1", "1, 2"), [0, 1, 2, 4, 6], ["Slice", "Gather"]),
        (("0, 1", "8, 7", "1, 3", "2, 2"), [0, 1, 2, 4, 6], ["Slice", "Gather"]),
    ],
)
def test_what_no_slice_can_take_any_more_is_gathered(cut: tuple[str, ...], kept: list[int], ops: list[str]) -> None:
    differences, left = pruned(even(*cut), kept)
    assert [n.op for n in left.graph.nodes if n.op in ("Slice", "Gather")] == ops
    assert left.layers["n0"].out_channels == len(kept)
    assert max(differences) < 1e-6


def test_a_slice_before_opset_10_is_cut_by_its_attributes() -> None:
    network = small_network(
        """g (float[1,3,8,8] x, float[8,3,3,3] W1, float[5,8,1,1] W2, float[2,5,1,1] W3)
        => (float[a,b,c,d] y, float[e,f,g,h] z) {
        a = Conv(x, W1) y = Conv(a, W2) b = Slice<axes = [1], starts = [2], ends = [-1]>(a) z = Conv(b, W3) }""",
        opset=9,
    )
    differences, left = pruned(network, [1, 3, 4, 7])
    node = next(n for n in left.graph.nodes if n.op == "Slice")
    assert (list(node.attrs["starts"]), list(node.attrs["ends"])) == ([1], [3])
    assert max(differences) < 1e-6


ATTENTION = """g (float[1,6,8] x, float[8,24] W1, float[8,6] W2) => (float[a,b,c] y) {
    p = MatMul(x, W1) s = Constant<value_ints = [0, 6, 3, 2, 4]>() q = Reshape(p, s)
    r = Transpose<perm = [2, 0, 3, 1, 4]>(q) TAKE
    kt = Transpose<perm = [0, 1, 3, 2]>(k) m = MatMul(q1, kt) n = Softmax(m) o = MatMul(n, v)
    t = Transpose<perm = [0, 2, 1, 3]>(o) u = Constant<value_ints = [0, 6, 8]>()
    w = Reshape(t, u) y = MatMul(w, W2) }"""
NUMBERS = "zero = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() two = Constant<value_ints = [2]>()" \
    " three = Constant<value_ints = [3]>()"  # fmt: skip
TAKES = {
    "slice": f"{NUMBERS} a = Slice(r, zero, one, zero) b = Slice(r, one, two, zero) c = Slice(r, two, three, zero)"
    " q1 = Squeeze(a, zero) k = Squeeze(b, zero) v = Squeeze(c, zero)",
    "gather": "zero = Constant<value_int = 0>() one = Constant<value_int = 1>() two = Constant<value_int = -1>()"
    " q1 = Gather(r, zero) k = Gather(r, one) v = Gather(r, two)",
    "split": "a, b, c = Split<axis = 0, num_outputs = 3>(r) zero = Constant<value_ints = [0]>()"
    " q1 = Squeeze(a, zero) k = Squeeze(b, zero) v = Squeeze(c, zero)",
}


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("skip", [(), ("*",)])
def test_attention_stays_byte_for_byte_where_nothing_goes(take: str, skip: tuple[str, ...]) -> None:
    network = small_network(ATTENTION.replace("TAKE", TAKES[take]))
    left = prune(network, find_groups(network, skip), {}).network
    assert left.to_model().SerializeToString(deterministic=True) == network.to_model().SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("take", TAKES)
def test_attention_bars_only_what_is_around_it(take: str) -> None:
    model = small_model(ATTENTION.replace("TAKE", TAKES[take]))
    other = small_model(CONTROL)
    model = onnx.compose.merge_models(model, onnx.compose.add_prefix(other, "o_"), io_map=[])
    assert [g.name for g in find_groups(read(model)).groups] == ["o_n0", "o_n1", "o_n3"]


def test_a_node_that_does_not_line_up_bars_the_nearest_channels_before_it() -> None:
    network = small_network(CONTROL)
    flow = Flow(network, resolve(network))
    propagate(flow)
    classes = balance_cells(flow)
    assert len(classes.groups) == 3
    flow.bar(flow.labels["d"], flow.node("n3"), "first")
    groups._bar_around(flow, balance_cells(flow), MisalignedError("n4", "it does not"))
    assert [len(g) for g in balance_cells(flow).groups] == [8]
    assert [b.reason for b in flow.barriers[-2:]] == [
        "its channels are rearranged around a Conv in a way that cannot be followed"
    ] * 2


def failing(error: Exception) -> Flow:
    """The walk over a network whose Relu has a rule that does all it can and then fails."""

    def rule(flow: Flow, node: gs.Node) -> None:
        ids = flow.get(node.inputs[0])
        assert ids is not None
        fresh = flow.fresh(node, 0, 6)
        flow.unite(ids, fresh.reshape(1, -1, 1, 1), node, residual=True)
        flow.bar(ids, node, "none of your business")
        flow.balance(fresh, 2, node)
        flow.box(ids, node)
        flow.link(node, 0, "link", 0, ids)
        flow.approximates(node, "much")
        flow.put(node.outputs[0], ids)
        raise error

    network = small_network(CONTROL)
    flow = Flow(network, resolve(network))
    original = CHANNEL_RULES["Relu"]
    CHANNEL_RULES["Relu"] = rule
    try:
        propagate(flow)
    finally:
        CHANNEL_RULES["Relu"] = original
    return flow


def test_a_rule_that_fails_leaves_nothing_behind() -> None:
    flow = failing(MisfitError("7 is not 6"))
    assert flow.blocked == {"n2": "its Relu node does not fit the data (7 is not 6)"}
    assert "c" not in flow.labels
    assert [b.reason for b in flow.barriers if b.node == "n2"] == [flow.blocked["n2"]]
    assert not any(key[0] == "n2" for key in flow.created)
    assert (flow.balances, flow.boxes, flow.edges, flow.residual, flow.approximate) == ([], [], [], [], {})
    assert [link.node for link in flow.links if link.node == "n2"] == []
    assert flow.count == 8 + 6 + 4 + 5
    assert [len(g) for g in balance_cells(flow).groups] == [8, 4]


def test_a_bug_in_a_rule_is_seen_here_and_a_reason_elsewhere() -> None:
    with pytest.raises(RuleWarning, match=r"node 'n2': .*follow them through Relu \(IndexError: too far\)"):
        failing(IndexError("too far"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuleWarning)
        flow = failing(KeyError("sw"))
    assert [w.category for w in caught] == [RuleWarning]
    assert flow.blocked["n2"] == (
        "onnx-udfc itself fails to follow them through Relu (KeyError: 'sw'); please report it"
    )
    assert [len(g) for g in balance_cells(flow).groups] == [8, 4]


@pytest.mark.parametrize("sparse_reads", [1, 2])
def test_a_sparse_addend_is_sliced_with_its_channels(sparse_reads: int) -> None:
    """It becomes dense where it is cut, and stays as it was where others read it whole."""
    second = "d = Conv(x, W3) e = Add(d, S) z = Conv(e, W4)" if sparse_reads == 2 else "z = Conv(x, W5)"
    model = small_model(
        f"""g (float[1,3,8,8] x, float[8,3,1,1] W1, float[8,1,1] S, float[5,8,1,1] W2, float[8,3,1,1] W3,
        float[8,8,1,1] W4, float[8,3,1,1] W5) => (float[a,b,c,d] y, float[e,f,g,h] z) {{
        a = Conv(x, W1) t = Relu(a) b = Add(t, S) y = Conv(b, W2) {second} }}"""
    )
    values = next(t for t in model.graph.initializer if t.name == "S")
    model.graph.initializer.remove(values)
    held = onnx.numpy_helper.from_array(np.asarray([3, -4, 5], np.float32), "S")
    places = onnx.numpy_helper.from_array(np.asarray([0, 3, 6]), "S.places")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(held, places, [8, 1, 1]))
    differences, left = pruned(read(model), [0, 2, 3, 5])
    assert left.layers["n0"].out_channels == 4
    assert max(differences) < 1e-6
