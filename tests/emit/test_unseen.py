"""Weights of recurrent layers, and inside of branches and loops: written as codes that onnxruntime folds at load."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc import compress
from onnx_udfc.emit.notes import oldest_onnxruntime
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.network import read
from onnx_udfc.model.protos import all_graphs
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.model.unseen import find_unseen
from onnx_udfc.options import Options
from onnx_udfc.pipeline import Result
from tests.emit.test_notes_against_the_loaded_graph import loaded_graph
from tests.quantized_graphs import run
from tests.small_graphs import small_model
from tests.stored_codes import stored

WORDS = "weights of recurrent layers, and inside of branches and loops"
RECURRENT = {
    "LSTM": ("h, e, l = LSTM<hidden_size = 32>(x, W, R, B)", (1, 128, 48), (1, 128, 32), (1, 256)),
    "both ways": (
        'h, e, l = LSTM<hidden_size = 32, direction = "bidirectional">(x, W, R, B)',
        (2, 128, 48), (2, 128, 32), (2, 256),
    ),
    "GRU": ("h, e = GRU<hidden_size = 32>(x, W, R, B)", (1, 96, 48), (1, 96, 32), (1, 192)),
    "RNN": ("h, e = RNN<hidden_size = 64>(x, W, R, B)", (1, 64, 48), (1, 64, 64), (1, 128)),
}  # fmt: skip


def recurrent(kind: str) -> onnx.ModelProto:
    """One recurrent layer whose gates differ in size."""
    body, *shapes = RECURRENT[kind]
    model = small_model(f"g (float[T,1,48] x) => (y) {{ {body} y = Squeeze(h) }}")
    rng = np.random.default_rng(0)
    for name, shape in zip("WRB", shapes, strict=True):
        rows = rng.uniform(0.02, 0.3, (*shape[:2], *[1] * (len(shape) - 2)))
        values = (rng.normal(size=shape) * rows).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


STEPS = {"x": np.random.default_rng(1).normal(size=(40, 1, 48)).astype(np.float32)}


def sqnr(before: np.ndarray, after: np.ndarray) -> float:
    return float(10 * np.log10(np.square(before).sum() / np.square(before - after).sum()))


def squeezed(model: onnx.ModelProto, bits: int = 8, **others: object) -> Result:
    return compress(model, Options(bits=bits, **{"method": "none"} | others))  # type: ignore[arg-type]


def operators(model: onnx.ModelProto) -> Counter[str]:
    """The operators of what is run, inside of nodes too."""
    return Counter(node.op_type for graph in all_graphs(loaded_graph(model)) for node in graph.node)


def codes_of(model: onnx.ModelProto) -> list[TensorProto]:
    graphs = all_graphs(model.graph)
    return [t for g in graphs for t in g.initializer if t.data_type in (TensorProto.INT8, TensorProto.INT4)]


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(("bits", "share", "least"), [(8, 0.33, 36.0), (4, 0.21, 12.0)])
def test_a_recurrent_layer_takes_as_many_bits_as_asked(
    kind: str, bits: int, share: float, least: float, target: str
) -> None:
    model = recurrent(kind)
    result = squeezed(model, bits, target=target)
    assert model_bytes(result.model) < share * model_bytes(model)
    before, after = run(model, STEPS)[0], run(result.model, STEPS)[0]
    assert sqnr(before, after) > least
    np.testing.assert_allclose(after, run(result.model, STEPS, optimize=False)[0], rtol=1e-5, atol=1e-5)
    assert operators(result.model) == operators(model)
    (note,) = [note for note in result.report.runtime.notes if note.startswith(WORDS)]
    assert note.startswith(f"{WORDS}, {bits} bits, to nearest: W (")
    assert not any("nothing was quantized" in warning for warning in result.report.warnings)


def test_codes_are_the_nearest_gate_by_gate() -> None:
    model = recurrent("both ways")
    model_of_codes = squeezed(model).model
    plain = {t.name: numpy_helper.to_array(t) for t in model_of_codes.graph.initializer}
    for name in "WR":
        values = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
        codes, scale = map(numpy_helper.to_array, stored(model_of_codes)[name])
        assert (codes.shape, scale.shape) == (values.shape, (2, 128, 1))
        assert np.array_equal(codes, np.clip(np.rint(values / scale), -127, 127))
        assert np.all(scale <= 1.0001 * np.abs(values).max(-1, keepdims=True) / 127)
    assert np.array_equal(plain["B"], next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "B"))


def branched(then: str, orelse: str = "e = Identity(x)", out: str = "float[N,64]", width: int = 64) -> onnx.ModelProto:
    """Weights A and C (64, 64), K (64, 1, 1, 1, 64)… that a branch reads from around it."""
    return small_model(f"""g (float[N,{width}] x, bool c, float[64,64] A, float[64,64] C) => ({out} y) {{
        y = If(c)<then_branch = t () => ({out} p) {{ {then} }}, else_branch = u () => ({out} e) {{ {orelse} }}>
    }}""")


def inside(model: onnx.ModelProto, name: str, *, node: bool = False) -> onnx.ModelProto:
    """The model with an initializer in every inner graph that reads it, in place of around them."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    for graph in list(all_graphs(model.graph))[1:]:
        if any(name in n.input for n in graph.node):
            if node:
                graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
            else:
                graph.initializer.append(tensor)
    model.graph.initializer.remove(tensor)
    onnx.checker.check_model(model)
    return model


PRODUCTS = {
    "MatMul": "p = MatMul(x, A)",
    "Gemm": "p = Gemm<transB = 1>(x, A)",
    "moved": "a = Transpose<perm = [1, 0]>(A) b = Identity(a) p = MatMul(x, b)",
    "Conv": """s = Constant<value_ints = [0, 64, 1]>() w = Reshape(x, s) t = Constant<value_ints = [64, 64, 1]>()
               k = Reshape(A, t) q = Conv(w, k) o = Constant<value_ints = [-1, 64]>() p = Reshape(q, o)""",
    "nested": """d = Constant<value = bool {1}>()
        p = If(d)<then_branch = v () => (float[N,64] i) { i = MatMul(x, A) },
                  else_branch = w () => (float[N,64] j) { j = Relu(x) }>""",
}
ROWS = {"x": np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32), "c": np.array(True)}


@pytest.mark.parametrize("place", ["around", "initializer", "Constant"])
@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(("bits", "share", "least"), [(8, 0.35, 38.0), (4, 0.26, 12.0)])
def test_a_weight_of_a_branch(kind: str, place: str, bits: int, share: float, least: float) -> None:
    model = branched(PRODUCTS[kind])
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "C"))
    if place != "around":
        inside(model, "A", node=place == "Constant")
    result = squeezed(model, bits).model
    assert list(stored(result)) == ["A"]
    assert model_bytes(result) < share * model_bytes(model)
    before, after = run(model, ROWS)[0], run(result, ROWS)[0]
    assert sqnr(before, after) > least
    np.testing.assert_allclose(after, run(result, ROWS, optimize=False)[0], rtol=1e-4, atol=1e-4)
    assert "Mul" not in operators(result)
    other = {**ROWS, "c": np.array(False)}
    assert np.array_equal(run(model, other)[0], run(result, other)[0])


LOOPS = {
    "Loop": """n = Constant<value = int64 {3}>() d = Constant<value = bool {1}>()
        y = Loop(n, d, x)<body = b (int64 i, bool k, float[N,64] s) => (bool o, float[N,64] r)
        { o = Identity(k) m = MatMul(s, A) r = Tanh(m) }>""",
    "Scan": """y, z = Scan<num_scan_inputs = 1, body = b (float[64] s, float[64] v) => (float[64] r, float[64] w)
        { a = Add(s, v) m = MatMul(a, A) r = Tanh(m) w = Identity(r) }>(V, x)""",
}


@pytest.mark.parametrize("place", ["around", "inside"])
@pytest.mark.parametrize("kind", LOOPS)
def test_a_weight_of_a_loop_body(kind: str, place: str) -> None:
    more, out = (", float[64] V", "float[64] y, float[N,64] z") if kind == "Scan" else ("", "float[N,64] y")
    model = small_model(f"g (float[N,64] x, float[64,64] A{more}) => ({out}) {{ {LOOPS[kind]} }}")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 30, tensor.name))
    if place == "inside":
        inside(model, "A")
    result = squeezed(model).model
    assert list(stored(result)) == ["A"]
    x = {"x": ROWS["x"]}
    assert sqnr(run(model, x)[0], run(result, x)[0]) > 36.0
    assert "Mul" not in operators(result)


def carried(body: str, results: str = "y, l = Loop(n, d, x, A)", after: str = "", handed: str = "B") -> onnx.ModelProto:
    """A loop to which a weight is handed as what it begins with, as while-loops of TensorFlow come."""
    model = small_model(f"""g (float[N,64] x, float[64,64] A) => (float[N,64] y) {{
        n = Constant<value = int64 {{3}}>() d = Constant<value = bool {{1}}>()
        {results}<body = b (int64 i, bool k, float[N,64] s, float[64,64] B)
            => (bool o, float[N,64] r, float[64,64] {handed})
        {{ o = Identity(k) {body} }}> {after} }}""")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 30, tensor.name))
    return model


HALF = "b = Cast<to = 10>(B) h = Cast<to = 10>(s) p = MatMul(h, b) q = Cast<to = 1>(p) r = Tanh(q)"
SAME = {
    "as it is": carried("m = MatMul(s, B) r = Tanh(m)"),
    "by another name": carried("m = MatMul(s, B) r = Tanh(m) c = Identity(B)", handed="c"),
    "in half precision": carried(HALF),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_weight_that_a_loop_hands_from_step_to_step(kind: str) -> None:
    model = SAME[kind]
    result = squeezed(model)
    assert list(stored(result.model)) == ["A"]
    x = {"x": ROWS["x"]}
    assert sqnr(run(model, x)[0], run(result.model, x)[0]) > 36.0
    assert not any("other operators" in note for note in result.report.runtime.notes)
    assert any("A (64 x 64)" in note for note in inspect_model(model).notes)


@pytest.mark.parametrize(
    "model",
    [
        carried("m = MatMul(s, B) r = Tanh(m) c = Add(B, B)", handed="c"),
        carried("m = MatMul(s, B) r = Add(m, s) c = Transpose<perm = [1, 0]>(B)", handed="c"),
        carried("m = MatMul(s, B) r = Tanh(m)", "z, l = Loop(n, d, x, A)", "y = MatMul(z, l)"),
        carried("m = MatMul(s, B) t = ReduceSum(B) q = Add(m, t) r = Tanh(q)"),
    ],
    ids=["another one", "turned", "read at the end", "read otherwise"],
)
def test_what_a_loop_begins_with_and_does_more_to_stays(model: onnx.ModelProto) -> None:
    assert not codes_of(squeezed(model, force=True).model)


def test_two_branches_may_have_weights_of_one_name() -> None:
    model = inside(branched("p = MatMul(x, A)", "e = MatMul(x, A)"), "A")
    graphs = list(all_graphs(model.graph))[1:]
    other = numpy_helper.to_array(graphs[0].initializer[0])[::-1] * np.linspace(0.1, 3, 64, dtype=np.float32)
    graphs[0].initializer[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other), "A"))
    result = squeezed(model).model
    for c in (True, False):
        feed = {**ROWS, "c": np.array(c)}
        assert sqnr(run(model, feed)[0], run(result, feed)[0]) > 38.0
    assert len({name for graph in all_graphs(result.graph) for name in (t.name for t in graph.initializer)}) == len(
        [t for graph in all_graphs(result.graph) for t in graph.initializer]
    )


@pytest.mark.parametrize("then", ["m = MatMul(x, A) q = Add(A, A) r = ReduceSum(q) p = Add(m, r)", "p = Add(x, A)"])
def test_what_a_branch_needs_in_float_stays(then: str) -> None:
    model = branched(then, out="float[64,64]")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64
    result = squeezed(model, force=True)
    assert not codes_of(result.model)
    lines = [note for note in result.report.runtime.notes if "compressed:" in note]
    reason = "weights that other nodes inside of branches and loops need" if "MatMul" in then else "constants of other"
    assert [line.startswith(reason) for line in lines] == [True]


def test_a_weight_that_the_network_itself_needs_in_float_stays() -> None:
    text = """g (float[64,64] x, bool c, float[64,64] A) => (float[64,64] z, float[64,64] y) { z = Add(x, A)
        y = If(c)<then_branch = t () => (float[64,64] p) { p = MatMul(x, A) },
                  else_branch = u () => (float[64,64] e) { e = Identity(x) }> }"""
    assert not codes_of(squeezed(small_model(text), force=True).model)


@pytest.mark.parametrize("skip", ["A", "n0", "p*"])
def test_what_is_to_be_skipped_is_left_alone(skip: str) -> None:
    model = branched("p = MatMul(x, A)")
    result = squeezed(model, skip=(skip,), force=True)
    assert not codes_of(result.model)
    assert not any(note.startswith(WORDS) for note in result.report.runtime.notes)


SHARED = """g (float[N,64] x, bool c, float[64,64] A) => (float[N,64] y, float[N,64] m) { m = MatMul(x, A) r = Relu(m)
    y = If(c)<then_branch = t () => (float[N,64] p) { p = MatMul(r, A) },
              else_branch = u () => (float[N,64] e) { e = Identity(r) }> }"""


@pytest.mark.parametrize("method", ["none", "moments"])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize(("bits", "share", "least"), [(8, 0.35, 36.0), (4, 0.30, 10.0)])
def test_a_weight_that_a_branch_shares_with_a_layer_is_written_once(
    bits: int, share: float, least: float, target: str, method: str
) -> None:
    model = small_model(SHARED)
    result = squeezed(model, bits, method=method, target=target).model
    assert len(codes_of(result)) == 1
    assert model_bytes(result) < share * model_bytes(model)
    for before, after in zip(run(model, ROWS), run(result, ROWS), strict=True):
        assert sqnr(before, after) > least


@pytest.mark.parametrize("budget", ["0.3", "0.25"])
def test_a_budget_knows_what_a_shared_weight_takes(budget: str) -> None:
    model = small_model(SHARED)
    result = compress(model, bits="auto", budget={"bytes": budget}).model
    assert model_bytes(result) < 1.03 * float(budget) * model_bytes(model)


def test_a_shared_weight_is_written_once_where_its_layer_runs_as_integers() -> None:
    """With rows as it is run on: ranges that hang on a scale that nothing tells would stay in float."""
    model = small_model(SHARED)
    result = compress(model, bits=8, activations=8, calibrate={"x": ROWS["x"]}).model
    assert [tuple(t.dims) for t in codes_of(result) if len(t.dims) == 2] == [(64, 64)]
    assert "QuantizeLinear" in {n.op_type for n in result.graph.node}
    for before, after in zip(run(model, ROWS), run(result, ROWS), strict=True):
        assert sqnr(before, after) > 25.0


@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_a_shared_weight_never_makes_a_file_larger(target: str) -> None:
    model = small_model(SHARED)
    result = squeezed(model, target=target, method="moments")
    assert model_bytes(result.model) < 0.75 * model_bytes(model)
    assert inspect_model(result.model)


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_its_own_file_is_inspected_and_compressed_again(bits: int) -> None:
    model = inside(branched("p = MatMul(x, A)", "e = MatMul(x, C)"), "A")
    first = squeezed(model, bits, force=True).model
    rows = {layer.name: layer for layer in inspect_model(first).layers}
    assert {(row.op_type, row.parameters_before, row.bits) for row in rows.values()} == {("MatMul", 4096, bits)}
    assert all(row.form for row in rows.values())
    assert not any("not compressed" in note for note in inspect_model(first).notes)
    again = squeezed(first, 8, force=True)
    for c in (True, False):
        feed = {**ROWS, "c": np.array(c)}
        assert np.array_equal(run(first, feed)[0], run(again.model, feed)[0])
    assert model_bytes(again.model) <= 1.05 * model_bytes(first) + 300


def test_inspect_lists_them_with_their_share() -> None:
    model = recurrent("LSTM")
    share = round(100 * 40960 / model_bytes(model))
    assert inspect_model(model).notes == (
        f"weights of LSTM: W (1 x 128 x 48), R (1 x 128 x 32), 40960 bytes, {share} % of the file's; --bits makes them"
        " smaller",
    )
    assert "begin with" in inspect_model(model).advice[0]
    inner = inspect_model(branched("p = MatMul(x, A)", "e = MatMul(x, C)")).notes
    assert len(inner) == 1
    assert inner[0].startswith("weights of MatMul inside of branches or loops: A (64 x 64), C (64 x 64), 32768 bytes")


def test_tensorrt_keeps_them_in_float_and_says_so() -> None:
    result = squeezed(recurrent("LSTM"), target="tensorrt")
    assert not codes_of(result.model)
    assert f"{WORDS}, stay in float for --target tensorrt: W (1 x 128 x 48), R (1 x 128 x 32)" in (
        result.report.runtime.notes
    )


def test_scales_run_along_the_axis_that_differs_most() -> None:
    model = branched("p = MatMul(x, A)", "e = MatMul(x, C)")
    rng = np.random.default_rng(0)
    for tensor, spread in zip(model.graph.initializer, ((64, 1), (1, 64)), strict=True):
        values = (rng.normal(size=(64, 64)) * rng.uniform(0.01, 1, spread)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = find_unseen(read(model), ())
    assert {name: one.axes for name, one in found.items()} == {"A": (0,), "C": (1,)}
    values = numpy_helper.to_array(model.graph.initializer[1])
    assert np.array_equal(found["C"].matrix((1,)), values.T[None])
    assert np.array_equal(found["C"].layout(found["C"].matrix((1,)), (1,)), values)


def test_four_bits_in_a_branch_name_the_onnxruntime_that_runs_them() -> None:
    result = squeezed(inside(branched("p = MatMul(x, A)"), "A"), 4).model
    assert [t.data_type for t in codes_of(result)] == [TensorProto.INT4]
    assert oldest_onnxruntime(result) == "1.23"


@pytest.mark.parametrize("place", ["around", "initializer", "Constant"])
def test_float16_halves_them(place: str) -> None:
    model = branched("p = MatMul(x, A)", "e = MatMul(x, C)")
    if place != "around":
        inside(inside(model, "A", node=place == "Constant"), "C", node=place == "Constant")
    result = compress(model, float16=True, target="cuda", method="none", force=True).model
    assert model_bytes(result) < 0.56 * model_bytes(model)
    for c in (True, False):
        feed = {**ROWS, "c": np.array(c)}
        assert sqnr(run(model, feed)[0], run(result, feed)[0]) > 60.0


def test_nothing_asked_leaves_them_alone() -> None:
    model = recurrent("LSTM")
    result = compress(model, Options(method="none")).model
    assert [t.SerializeToString() for t in result.graph.initializer] == [
        t.SerializeToString() for t in model.graph.initializer
    ]
