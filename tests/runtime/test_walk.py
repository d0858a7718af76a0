from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser

from onnx_udfc.model.protos import reads
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.runtime import walk as walk_module
from onnx_udfc.runtime.joined import JoinedRuns, Room
from onnx_udfc.runtime.walk import Walk
from tests.small_graphs import small_model

Value = NDArray[Any]
CHAIN = """g (float[2,4] x, float[4,4] W) => (float[2,4] y) {
    a = MatMul(x, W) b = Relu(a) c = MatMul(b, W) d = Add(c, b) e = Sigmoid(d) y = Mul(e, x) }"""
NAMES = ["a", "b", "c", "d", "e", "y"]  # of the outputs of n0 ... n5
X = np.linspace(-1, 2, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each node was run."""
    count: Counter[str] = Counter()
    run = walk_module.run_nodes

    def counted(model: onnx.ModelProto, nodes: list[onnx.NodeProto], *rest: Any) -> dict[str, Value]:
        count.update(n.name for n in nodes)
        return run(model, nodes, *rest)

    monkeypatch.setattr(walk_module, "run_nodes", counted)
    return count


def expected() -> dict[str, Value]:
    """Every tensor of CHAIN, computed here."""
    w = onnx.numpy_helper.to_array(small_model(CHAIN).graph.initializer[0])
    a = X @ w
    b = np.maximum(a, 0)
    c = b @ w
    d = c + b
    e = 1 / (1 + np.exp(-d))
    return {"x": X, "W": w, "a": a, "b": b, "c": c, "d": d, "e": e, "y": e * X}


def test_every_tensor_is_what_it_should_be() -> None:
    for name, value in expected().items():
        walk = Walk(small_model(CHAIN), {"x": X}, [])
        np.testing.assert_allclose(walk.get(name), value, rtol=1e-5)


def test_each_node_runs_once(ran: Counter[str]) -> None:
    walk = Walk(small_model(CHAIN), {"x": X}, [])
    values = expected()
    for name in ("b", "c", "e", "y"):
        np.testing.assert_allclose(walk.get(name), values[name], rtol=1e-5)
    assert ran == {f"n{i}": 1 for i in range(6)}


def test_only_what_is_needed_runs(ran: Counter[str]) -> None:
    Walk(small_model(CHAIN), {"x": X}, []).get("c")
    assert set(ran) == {"n0", "n1", "n2"}


def test_values_are_freed_after_their_last_user() -> None:
    walk = Walk(small_model(CHAIN), {"x": X}, [])
    assert set(walk.values) == {"x"}
    walk.get("a")
    assert set(walk.values) == {"x", "a"}  # the last node multiplies by x
    walk.get("b")
    assert set(walk.values) == {"x", "b"}
    walk.get("c")
    assert set(walk.values) == {"x", "b", "c"}
    walk.get("e")
    assert set(walk.values) == {"x", "e"}
    walk.get("y")
    assert set(walk.values) <= {"y"}


def test_stops_wait_for_their_value(ran: Counter[str]) -> None:
    walk = Walk(small_model(CHAIN), {"x": X}, ["n2"])
    assert walk.available("b")
    assert not walk.available("c")
    assert not walk.available("y")
    with pytest.raises(KeyError):
        walk.get("y")
    b = walk.get("b")
    walk.put("n2", np.zeros_like(b))
    assert walk.available("y")
    np.testing.assert_allclose(walk.get("y"), X / (1 + np.exp(-b)), rtol=1e-5)
    assert "n2" not in ran


def test_putting_frees_what_only_the_stop_needed() -> None:
    walk = Walk(small_model(CHAIN.replace("Add(c, b)", "Add(c, x)")), {"x": X}, ["n2"])
    walk.get("b")
    assert "b" in walk.values
    walk.put("n2", X)
    assert set(walk.values) == {"x", "c"}


BRANCHES = """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
    a = Relu(x) b = Sigmoid(a) c = Tanh(b) d = Add(c, b) y = Sigmoid(d) z = Add(y, a) }"""


@pytest.mark.parametrize("batch", ["N", "8"])
def test_in_place_what_nobody_waits_for_gives_its_memory_and_nothing_else_does(
    batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "SMALL", 1)  # values that are shared out
    x = np.linspace(-1, 2, 160, dtype=np.float32).reshape(40, 4)
    model, given, places = small_model(BRANCHES.replace("N", batch)), x.copy(), {}
    walks = [Walk(model, {"x": x}, [], in_place=in_place) for in_place in (False, True)]
    for name in ("a", "b", "c", "d", "y", "z"):
        plain, own = (walk.get(name) for walk in walks)
        np.testing.assert_array_equal(plain, own)
        places[name] = own.ctypes.data
    np.testing.assert_array_equal(x, given)  # what was fed is the caller's
    assert len({places[name] for name in "abc"} | {x.ctypes.data}) == 4  # a and b were still needed
    assert places["d"] in (places["b"], places["c"])
    assert places["y"] == places["d"]
    assert places["z"] in (places["y"], places["a"])


def test_what_was_not_fed_is_not_available() -> None:
    text = "g (float[2,4] x, float[2,4] z) => (float[2,4] y) { a = Relu(x) y = Add(a, z) }"
    walk = Walk(small_model(text), {"x": X}, [])
    assert walk.available("a")
    assert not walk.available("y")
    assert not walk.available("z")
    assert not walk.available("no such tensor")
    with pytest.raises(KeyError):
        walk.get("y")


def test_initializers_are_there() -> None:
    walk = Walk(small_model(CHAIN), {"x": X}, [])
    assert walk.available("W")
    np.testing.assert_array_equal(walk.get("W"), expected()["W"])


def test_watched_tensors_are_seen_once_and_changed_for_their_users() -> None:
    seen: list[Value] = []

    def half(value: Value) -> Value:
        seen.append(value)
        return value / 2

    walk = Walk(small_model(CHAIN), {"x": X}, [], {"c": half})
    y = walk.get("y")
    np.testing.assert_allclose(seen[0], expected()["c"], rtol=1e-5)
    assert len(seen) == 1
    assert np.isfinite(y).all()


def test_watched_inputs_and_stops_are_changed_too() -> None:
    values = expected()
    walk = Walk(small_model(CHAIN), {"x": X}, ["n0"], {"x": np.negative, "a": np.negative})
    np.testing.assert_array_equal(walk.get("x"), -X)
    walk.put("n0", -values["a"])
    np.testing.assert_allclose(walk.get("b"), values["b"], rtol=1e-5)


BRANCH = """g (float[2,4] x, bool flag) => (float[2,4] y) {
    a = Relu(x) b = Neg(x)
    c = If(flag) <
        then_branch = t () => (float[2,4] p) { p = Add(a, b) },
        else_branch = e () => (float[2,4] q) {
            r = If(flag) <then_branch = u () => (float[2,4] s) { s = Abs(b) },
                          else_branch = v () => (float[2,4] w) { w = Mul(a, a) }>
            q = Identity(r) }>
    y = Add(c, x) }"""


@pytest.mark.parametrize("small", [1, 1 << 19])
def test_codes_that_a_watcher_gives_are_read_as_the_values_they_stand_for(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "SMALL", small)  # values that are shared out, some rows at a time
    grid, x = ActivationParams(0.046875, 90), np.linspace(-3, 3, 160, dtype=np.float32).reshape(40, 4)
    ways: list[dict[str, Callable[[Value], Any]]] = [
        dict.fromkeys("xac", grid.coded),
        dict.fromkeys("xac", lambda value: grid.simulate(value).astype(np.float32)),
    ]
    coded, plain = (Walk(small_model(BRANCHES), {"x": x}, [], watched, in_place=True) for watched in ways)
    for name in ("a", "c", "y", "z"):
        coded.run_to(name)
        np.testing.assert_array_equal(coded.get(name), plain.get(name))


def test_codes_go_into_runs_of_a_fixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "SMALL", 1)
    grid, x = ActivationParams(0.046875, 90), np.linspace(-3, 3, 28, dtype=np.float32).reshape(7, 4)
    coded = Walk(small_model(CHAIN), {"x": x}, [], {"x": grid.coded, "b": grid.coded})
    plain = Walk(small_model(CHAIN), {"x": coded.get("x")}, [], {"b": lambda v: grid.coded(v)[...]})
    assert coded.get("y").shape == (7, 4)
    np.testing.assert_array_equal(coded.get("y"), plain.get("y"))


def test_subgraphs_hold_what_they_read_from_outside() -> None:
    model = small_model(BRANCH)
    branch = next(n for n in model.graph.node if n.op_type == "If")
    assert set(reads(branch)) == {"flag", "a", "b"}
    for flag, value in ((True, np.maximum(X, 0) - X), (False, np.square(np.maximum(X, 0)))):
        walk = Walk(model, {"x": X, "flag": np.array(flag)}, [])
        for name in ("a", "b"):
            walk.get(name)
        assert {"a", "b"} <= set(walk.values)
        np.testing.assert_allclose(walk.get("c"), value, rtol=1e-5)
        assert set(walk.values) == {"x", "c"}
        np.testing.assert_allclose(walk.get("y"), value + X, rtol=1e-5)


def test_a_subgraph_waits_for_the_stop_that_it_reads() -> None:
    model = small_model(BRANCH)
    stop = next(n.name for n in model.graph.node if "b" in n.output)
    walk = Walk(model, {"x": X, "flag": np.array(True)}, [stop])
    assert not walk.available("c")
    walk.put(stop, X)
    np.testing.assert_allclose(walk.get("c"), np.maximum(X, 0) + X, rtol=1e-5)


def test_reads_knows_inner_names() -> None:
    node = parser.parse_node(
        "y = Loop(n, c, x) <body = b (int64 i, bool k, float s) => (bool k2, float s2) "
        "{ k2 = Identity(k) t = Add(s, outer) s2 = Mul(t, t) }>"
    )
    assert set(reads(node)) == {"n", "c", "x", "outer"}


def test_several_outputs_and_outputs_that_nobody_reads() -> None:
    text = "g (float[2,4] x) => (float[2,2] y) { p, q = Split<axis = 1, num_outputs = 2>(x) y = Relu(q) }"
    walk = Walk(small_model(text), {"x": X}, [])
    np.testing.assert_allclose(walk.get("y"), np.maximum(X[:, 2:], 0))
    other = Walk(small_model(text), {"x": X}, [])
    np.testing.assert_array_equal(other.get("p"), X[:, :2])
    np.testing.assert_allclose(other.get("y"), np.maximum(X[:, 2:], 0))


def test_functions_and_empty_inputs() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[2,4] x) => (float[2,4] y) { [a] h = own.Twice(x) [b] y = Clip(h, , top) }
    <opset_import: ["" : 21], domain: "own"> Twice (u) => (v) { v = Add(u, u) }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "top"))
    np.testing.assert_allclose(Walk(model, {"x": X}, []).get("y"), np.minimum(2 * X, 1))


FIXED = """g (float[2,3,4] x, float[12,12] W) => (float[2,12] y) {
    c = Constant<value_ints = [2, 12]>() f = Reshape(x, c) r = Relu(f) h = MatMul(r, W) m = Reshape(h, c)
    y = Abs(m) }"""


@pytest.mark.parametrize("samples", [1, 2, 3, 6])
def test_a_fixed_batch_inside_the_network_holds_for_any_number_of_samples(samples: int) -> None:
    x = np.random.default_rng(0).normal(size=(samples, 3, 4)).astype(np.float32)
    walk = Walk(small_model(FIXED), {"x": x}, ["n3"])
    np.testing.assert_array_equal(walk.get("r"), np.maximum(x.reshape(-1, 12), 0))
    walk.put("n3", x.reshape(-1, 12))
    np.testing.assert_array_equal(walk.get("y"), abs(x.reshape(-1, 12)))


def test_runs_are_put_together_as_they_come() -> None:
    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    joined = JoinedRuns(3, 2, Room([]))
    parts = [joined.take(number, values[number]) for number in (2, 0, 1)]
    whole = joined.whole(parts)
    np.testing.assert_array_equal(whole, values.reshape(6, 4))
    assert all(part.base is whole for part in parts)  # none of them is held twice
    other = JoinedRuns(2, 2, Room([]))
    odd = [other.take(0, values[0]), other.take(1, values[1][:, :3])]
    np.testing.assert_array_equal(odd[1], values[1][:, :3])
    np.testing.assert_array_equal(other.whole([values[0], values[1]]), values[:2].reshape(4, 4))


def test_what_does_not_depend_on_the_sample_is_not_repeated() -> None:
    text = """g (float[1,4] x) => (float[1,4] y) {
        n = Shape<start = 0, end = 1>(x) a = Relu(x) b = Neg(a) k = Constant<value_ints = [4]>()
        t = Concat<axis = 0>(n, k) y = Reshape(b, t) }"""
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    walk = Walk(small_model(text), {"x": x}, ["n1"])
    assert walk.get("n").tolist() == [1]
    walk.put("n1", x)
    np.testing.assert_array_equal(walk.get("y"), -x)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize("empty", [False, True])
def test_sequences_pass_between_stops(batch: str, empty: bool) -> None:
    """A list that is made before a stop and read behind it, in runs of a fixed batch too."""
    start = "l0 = SequenceEmpty()" if empty else "l0 = SequenceConstruct(x)"
    model = small_model(
        f"""g (float[{batch},3,4,4] x, float[3,3,1,1] W1) => (float[a,b,c,d] y) {{
        one = Constant<value_ints = [1, 2]>() zero = Constant<value_int = 0>() {start}
        l1 = SplitToSequence<axis = 1>(x, one) c = Conv(x, W1) p = SequenceAt(l1, zero)
        l2 = SequenceInsert(l0, c) l3 = SequenceInsert(l2, p) y = ConcatFromSequence<axis = 1>(l3) }}"""
    )
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    walk = Walk(model, {"x": x}, [conv.name])
    assert np.array_equal(walk.get("x"), x)
    walk.put(conv.name, 2 * x)
    wanted = np.concatenate([*([] if empty else [x]), 2 * x, x[:, :1]], 1)
    np.testing.assert_array_equal(walk.get("y"), wanted)


def test_a_sparse_constant_is_there_with_its_zeros() -> None:
    model = small_model("g (float[1,2,3,3] x, float[2,1,1] S) => (float[a,b,c,d] y) { y = Add(x, S) }")
    del model.graph.initializer[:]
    held = onnx.numpy_helper.from_array(np.asarray([7], np.float32), "S")
    places = onnx.numpy_helper.from_array(np.asarray([[1, 0, 0]]), "S.places")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(held, places, [2, 1, 1]))
    walk = Walk(model, {"x": np.zeros((1, 2, 3, 3), np.float32)}, [])
    assert walk.get("S").tolist() == [[[0.0]], [[7.0]]]
    assert walk.get("y")[0, :, 0, 0].tolist() == [0.0, 7.0]


def test_sizes_that_are_a_part_of_a_list_from_outside() -> None:
    """Of a list of unknown length onnxruntime takes a part for nothing, and refuses sizes that are made of it."""
    model = small_model("""g (float[N,3,4,4] x) => (y) {
        s = Shape(x) a = Constant<value_ints = [2]>() b = Constant<value_ints = [3]>() c = Constant<value_ints = [0]>()
        h = Slice(s, a, b, c) two = Constant<value_ints = [2]>() w = Mul(h, two) n = Shape<start = 0, end = 2>(x)
        z = Concat<axis = 0>(n, w, w) y = Resize(x, , , z) }""")
    x = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    nodes = [node for node in model.graph.node if node.output[0] != "s"]
    found = walk_module.run_nodes(model, nodes, {"x": x, "s": np.array([2, 3, 4, 4])}, ["y"], [])
    assert np.array_equal(found["y"], x.repeat(2, 2).repeat(2, 3))
