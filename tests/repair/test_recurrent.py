"""Weights of recurrent layers are rounded by what they are multiplied with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.model.network import read
from onnx_udfc.options import Options
from onnx_udfc.original import read_original, traced
from onnx_udfc.pipeline import Result
from onnx_udfc.repair.recurrent import MOST, cells_of, second_moments
from tests.quantized_graphs import run
from tests.small_graphs import small_model
from tests.stored_codes import stored

READ, KEPT, STEPS = 48, 32, 40
CELLS = {
    "LSTM": (f"LSTM<hidden_size = {KEPT}>", 1, 4, 3),
    "both ways": (f'LSTM<hidden_size = {KEPT}, direction = "bidirectional">', 2, 4, 3),
    "backwards": (f'LSTM<hidden_size = {KEPT}, direction = "reverse">', 1, 4, 3),
    "GRU": (f"GRU<hidden_size = {KEPT}, linear_before_reset = 1>", 1, 3, 2),
    "RNN": (f"RNN<hidden_size = {KEPT}>", 1, 1, 2),
}
WORDS = "weights of recurrent layers"


def recurrent(kind: str, *, last: bool = False, layer: bool = True) -> onnx.ModelProto:
    """Numbers of rank 6 that a recurrent layer reads; a layer mixes what it gives, or its `last` states alone."""
    op, ways, gates, outputs = CELLS[kind]
    given = ["h", "e", "l"][:outputs]
    if last:
        given[0] = "_"
    body = f"{', '.join(given)} = {op}(p, W, R, B)"
    end = "f = Squeeze(e, zero)" if last else "s = Squeeze(h, one) f = Identity(s)"
    if ways == 2:
        end = "s = Transpose<perm = [0, 2, 1, 3]>(h) f = Reshape(s, flat)"
    tail = "y = MatMul(f, C)" if layer else "y = Identity(f)"
    model = small_model(f"g (float[{STEPS},8,{READ}] x) => (y) {{ p = MatMul(x, M) {body} {end} {tail} }}")
    if last:
        node = next(n for n in model.graph.node if n.op_type in ("LSTM", "GRU", "RNN"))
        node.output[0] = ""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(READ, 6)) @ rng.normal(size=(6, READ)) / READ
    values = {
        "M": mixing,
        "W": rng.normal(size=(ways, gates * KEPT, READ)) * 0.3,
        "R": rng.normal(size=(ways, gates * KEPT, KEPT)) * 0.2,
        "B": rng.normal(size=(ways, 2 * gates * KEPT)) * 0.1,
        "C": rng.normal(size=(ways * KEPT, 16)),
    }
    tensors = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()]
    tensors += [
        numpy_helper.from_array(np.array(v, np.int64), name)
        for name, v in {"zero": [0], "one": [1], "flat": [STEPS, 8, ways * KEPT]}.items()
    ]
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(t for t in tensors if t.name in used)
    return model


def lost(model: onnx.ModelProto, result: Result) -> float:
    """Share of the answers' variance that is gone, on inputs that were not seen."""
    feeds = {"x": np.random.default_rng(7).normal(size=(STEPS, 8, READ)).astype(np.float32)}
    before, after = run(model, feeds)[0], run(result.model, feeds)[0]
    return float(np.square(before - after).sum() / np.square(before - before.mean(0)).sum())


def squeezed(model: onnx.ModelProto, method: str = "moments", bits: float = 3, **others: object) -> Result:
    return compress(model, bits=bits, method=method, bits_uniform=True, threads=1, force=True, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "last"), [*((kind, False) for kind in CELLS), ("LSTM", True), ("backwards", True)])
def test_less_is_lost_than_to_nearest(kind: str, last: bool) -> None:
    model = recurrent(kind, last=last)
    left = list(read(model).layers)
    result = squeezed(model, skip=left)
    assert any(n.startswith(f"{WORDS}, 3 bits, rounded by what they") for n in result.report.runtime.notes)
    assert lost(model, result) < 0.6 * lost(model, squeezed(model, "none", skip=left))


def test_the_states_of_a_layer_that_nothing_follows_are_seen() -> None:
    model = recurrent("LSTM", layer=False)
    left = list(read(model).layers)
    assert lost(model, squeezed(model, skip=left)) < 0.5 * lost(model, squeezed(model, "none", skip=left))


def test_a_network_of_nothing_but_a_recurrent_layer_is_run_for_it() -> None:
    body = CELLS["GRU"][0]
    model = small_model(f"g (float[{STEPS},8,{READ}] x) => (y) {{ h, e = {body}(x, W, R, B) y = Squeeze(h, one) }}")
    whole = {t.name: t for t in recurrent("GRU").graph.initializer}
    model.graph.initializer.extend(whole[name] for name in ("W", "R", "B", "one"))
    notes = squeezed(model).report.runtime.notes
    assert any("W (1 x 96 x 48)" in n and "R (1 x 96 x 32)" in n and "multiplied" in n for n in notes)


@pytest.mark.parametrize(("budget", "bits"), [("0.15", "2.32"), ("0.2", "4"), ("0.9", "8")])
def test_a_budget_of_bytes_leaves_them_what_every_weight_may_have(budget: str, bits: str) -> None:
    model = recurrent("both ways")
    result = compress(model, bits="auto", budget={"bytes": budget}, threads=1, force=True)
    assert result.report.after.bytes <= float(budget) * result.report.before.bytes
    assert any(n.startswith(f"{WORDS}, {bits} bits, rounded by what they") for n in result.report.runtime.notes)


def test_what_follows_sees_the_rounded_layer() -> None:
    """The layer behind it is fitted anew in float: less is lost than with its own weights."""
    model = recurrent("LSTM")
    fitted = squeezed(model, skip=list(read(model).layers))
    held = {t.name: numpy_helper.to_array(t) for t in fitted.model.graph.initializer}
    whole = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    unfitted = onnx.ModelProto()
    unfitted.CopyFrom(fitted.model)
    (changed,) = (t for t in unfitted.graph.initializer if held[t.name].shape == whole["C"].shape)
    assert not np.array_equal(held[changed.name], whole["C"])
    changed.CopyFrom(numpy_helper.from_array(whole["C"], changed.name))
    assert lost(model, fitted) < 0.9 * lost(model, Result(unfitted, fitted.report))


def test_what_follows_a_layer_that_begins_with_what_has_lost_channels_is_fitted_anew() -> None:
    """Nothing but the state that it begins with is another one: the layer behind it kept its old weights."""
    model = small_model(
        """g (float[4,8,16] x, float[8,16] s, float[16,64] A, float[64,32] E, float[1,32,16] W, float[1,32,32] R,
        float[32,16] C) => (float[4,8,16] y) { a = MatMul(s, A) r = Relu(a) e = MatMul(r, E)
        k = Constant<value_ints = [0]>() i = Unsqueeze(e, k) h = RNN<hidden_size = 32>(x, W, R, , , i)
        o = Constant<value_ints = [1]>() q = Squeeze(h, o) y = MatMul(q, C) }"""
    )
    result = compress(model, prune=0.5, factor="off", align=1, threads=1, force=True)
    (kept,) = (g.kept for g in result.report.groups if g.status == "pruned")
    assert kept < 64
    held = [numpy_helper.to_array(t) for t in result.model.graph.initializer if list(t.dims) == [32, 16]]
    whole = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "C")
    assert not any(np.array_equal(values, whole) for values in held)


def test_codes_of_a_direction_are_those_of_its_own_states() -> None:
    """Scales and codes lie as the weights do: what they stand for is near to these, row by row."""
    model = recurrent("both ways")
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    written = stored(squeezed(model, bits=8).model)
    for name in "WR":
        codes, scale = (numpy_helper.to_array(t).astype(np.float64) for t in written[name])
        assert codes.shape == weights[name].shape
        assert np.abs(codes * scale - weights[name]).mean() < 0.05 * np.abs(weights[name]).mean()


def test_a_weight_that_two_layers_share_is_rounded_to_nearest() -> None:
    model = recurrent("LSTM")
    node = next(n for n in model.graph.node if n.op_type == "LSTM")
    second = onnx.NodeProto()
    second.CopyFrom(node)
    second.name, second.output[:] = "again", ["h2", "e2", "l2"]
    model.graph.node.insert(list(model.graph.node).index(node) + 1, second)
    squeeze = next(n for n in model.graph.node if n.op_type == "Squeeze")
    model.graph.node.insert(list(model.graph.node).index(squeeze), onnx.helper.make_node("Add", ["h", "h2"], ["both"]))
    squeeze.input[0] = "both"
    assert not cells_of(read(model))
    (note,) = (n for n in squeezed(model).report.runtime.notes if n.startswith(WORDS))
    assert "to nearest" in note


def test_states_are_gathered_where_weights_are_rounded_alone() -> None:
    original = read_original(recurrent("LSTM"), Options())
    for bits, wanted in ((32, False), (4, True), (32, False)):
        trace = traced(original, Options(bits=bits, threads=1), balanced_inputs, lambda _: None)
        assert bool(trace.reference.states) is wanted


def test_moments_of_many_steps_are_of_all_samples() -> None:
    samples = 64
    values = np.zeros((4 * MOST // samples, samples, 3), np.float32)
    values[:, ::2, 0], values[:, 1::2, 1] = 1, 2
    found = second_moments(values)
    np.testing.assert_allclose(found.diagonal(), [0.5, 2, 0], rtol=0.1)
    assert np.array_equal(found, second_moments(values))


def test_moments_of_few_steps_are_shrunk_toward_their_diagonal() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 48)).astype(np.float32)
    rows = values.reshape(-1, 48).astype(np.float64)
    raw, share, found = rows.T @ rows / 60, (96 - 60) / (96 + 60), second_moments(values)
    np.testing.assert_allclose(found, raw - share * (raw - np.diag(np.diag(raw))), rtol=1e-5, atol=1e-6)
