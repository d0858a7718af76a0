"""Networks of float16: what is turned, what stays, and that they compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from onnx_udfc import compress
from onnx_udfc.emit.float16 import to_float16
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.numerics.halves import Span
from tests.emit.test_notes_against_the_loaded_graph import loaded, loaded_graph
from tests.quantized_graphs import run
from tests.repair.test_finer import floor, spectrum
from tests.small_graphs import small_model
from tests.stored_codes import stored

CHAIN = """g (float[N,3,8,8] x, float[8,3,3,3] W1, float[8] B1, float[4,8,3,3] W2) => (float[N,4,4,4] y) {
    a = Conv(x, W1, B1) r = Relu(a) b = Conv(r, W2) y = Sigmoid(b) }"""


def image(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in model.graph.initializer}


def near(model: onnx.ModelProto, halved: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float) -> None:
    for first, second in zip(run(model, feeds), run(halved, feeds), strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_allclose(second, first, atol=tolerance * np.abs(first).max())


def test_weights_are_halves_and_inputs_and_outputs_as_declared() -> None:
    model = small_model(CHAIN)
    halved = to_float16(small_model(CHAIN), {})
    onnx.checker.check_model(halved.model, full_check=True)
    assert kinds(halved.model) == dict.fromkeys(("W1", "B1", "W2"), TensorProto.FLOAT16)
    assert [v.type.tensor_type.elem_type for v in (*halved.model.graph.input, *halved.model.graph.output)] == [1, 1]
    assert halved.nodes == {"n0", "n1", "n2"}  # what follows the last layer is float32
    assert halved.wide == ("n3",)
    near(model, halved.model, image(2, 3, 8, 8), 2e-3)


def test_values_that_overflow_stay_and_the_rest_does_not() -> None:
    model = small_model(CHAIN)
    halved = to_float16(small_model(CHAIN), {"a": Span(1e5, False, 0.0)})
    assert halved.nodes == {"n2"}
    assert kinds(halved.model)["W1"] == TensorProto.FLOAT16  # stored so, and widened when the file is loaded
    near(model, halved.model, image(2, 3, 8, 8), 2e-3)


def test_ranges_are_measured() -> None:
    """A first layer whose values reach 10⁶ overflows in float16; the second brings them back."""
    model = small_model(CHAIN)
    for tensor, factor in zip(model.graph.initializer, (1e5, 1.0, 1e-5), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    result = compress(model, float16=True, threads=1)
    assert np.isfinite(run(result.model, image(1, 3, 8, 8))[0]).all()
    near(model, result.model, image(1, 3, 8, 8), 2e-3)
    assert any("float16 does not hold their values: n0" in note for note in result.report.runtime.notes)


def test_an_epsilon_that_would_vanish_keeps_its_node() -> None:
    text = """g (float[N,4] x, float[4,4] W, float[4,4] U) => (float[N,4] y) {
        a = MatMul(x, W) e = Constant<value = float {1e-9}>() s = Mul(a, a) t = Add(s, e) q = Div(a, t) y = MatMul(q, U)
    }"""
    result = compress(small_model(text), float16=True, threads=1).model
    nodes = {node.name: node for node in result.graph.node}
    assert nodes["n3"].input[1] in {n for n, kind in kinds(result).items() if kind == TensorProto.FLOAT}
    assert kinds(result)["W"] == kinds(result)["U"] == TensorProto.FLOAT16


def test_scales_of_resize_and_shapes_are_what_they_were() -> None:
    text = """g (float[1,3,4,4] x, float[4,3,1,1] W1, float[4,4,1,1] W2) => (float[1,4,8,8] y) {
        a = Conv(x, W1) s = Constant<value = float[4] {1, 1, 2, 2}>() b = Resize<mode = "nearest">(a, "", s)
        y = Conv(b, W2) }"""
    model = small_model(text)
    result = compress(model, float16=True, threads=1).model
    assert {TensorProto.FLOAT} == {k for n, k in kinds(result).items() if n not in ("W1", "W2")}
    near(model, result, image(1, 3, 4, 4), 2e-3)


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 3}, {"prune": 0.5}, {"rank_layer": {"n2": 1}}], ids=str)
def test_with_what_else_is_asked_for(options: dict[str, object]) -> None:
    """The same network but for the rounding of floats, and smaller."""
    model = small_model(CHAIN)
    plain = compress(model, threads=1, force=True, **options)  # type: ignore[arg-type]
    halved = compress(model, threads=1, force=True, float16=True, **options)  # type: ignore[arg-type]
    near(plain.model, halved.model, image(2, 3, 8, 8), 4e-3)
    assert [x.bits for x in halved.report.layers] == [min(x.bits, 16) for x in plain.report.layers]
    assert ({x.bits for x in halved.report.layers} == {16}) is ("bits" not in options)


def test_codes_are_multiplied_in_float32_which_is_folded_at_load() -> None:
    result = compress(small_model(CHAIN), float16=True, bits=8, threads=1, force=True).model
    writers = {name: node for node in result.graph.node for name in node.output}
    first = next(node for node in result.graph.node if node.name == "n0")
    cast = writers[first.input[1]]
    assert (cast.op_type, cast.attribute[0].i) == ("Cast", TensorProto.FLOAT16)
    assert writers[cast.input[0]].op_type == "Mul"
    assert {scale.data_type for _, scale in stored(result).values()} == {TensorProto.FLOAT}


def test_integer_kernels_stay_as_they_are() -> None:
    model = small_model(CHAIN)
    plain = compress(model, bits=8, activations=8, threads=1, force=True)
    halved = compress(model, bits=8, activations=8, float16=True, threads=1, force=True)
    first, second = (run(result.model, image(1, 3, 8, 8))[0] for result in (plain, halved))
    np.testing.assert_array_equal(first, second)


def test_branches_read_what_they_did() -> None:
    text = """g (float[N,4] x, bool c, float[4,4] W, float[4,4] U) => (float[N,4] y) {
        a = MatMul(x, W)
        y = If(c) <then_branch = t () => (float[N,4] p) { p = MatMul(a, U) },
                   else_branch = e () => (float[N,4] q) { q = Relu(a) }> }"""
    model = small_model(text)
    halved = to_float16(small_model(text), {})
    assert set(kinds(halved.model).values()) == {TensorProto.FLOAT16, TensorProto.FLOAT} or halved.nodes == set()
    for c in (True, False):
        near(model, halved.model, {**image(3, 4), "c": np.array(c)}, 2e-3)


def test_the_file_is_half_as_large() -> None:
    result = compress("models/digits_resnet_folded.onnx", float16=True, threads=1)
    assert result.report.after.bytes < 0.51 * result.report.before.bytes
    assert result.report.verdict == "good"
    assert {layer.form for layer in result.report.layers} <= {"float16", ""}


def test_a_budget_of_bytes_counts_halves() -> None:
    """Half of the bytes are saved without a channel: few must go."""
    model = "models/digits_resnet_folded.onnx"
    result = compress(model, float16=True, budget={"bytes": 0.45}, factor="off", images=8, threads=1)
    before, after = result.report.before, result.report.after
    assert 0.43 * before.bytes < after.bytes <= 0.451 * before.bytes
    assert after.parameters > 0.8 * before.parameters


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable", "tensorrt"])
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_what_is_said_of_memory_and_speed_is_that_of_float16(target: str, bits: int) -> None:
    text = CHAIN.replace("8,3,3,3] W1", "64,3,3,3] W1").replace("[8] B1", "[64] B1").replace("4,8,3,3", "4,64,3,3")
    asked: dict[str, Any] = {"float16": True, "target": target, "method": "none", "threads": 1, "force": True}
    whole, result = (compress(small_model(text), bits=b, **asked) for b in (32, bits))
    graph = loaded_graph(result.model, level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
    held = [t for t in graph.initializer if len(t.dims) == 4]
    assert len(held) == 2
    assert sum(len(t.raw_data) for t in held) == result.report.runtime.weight_memory
    same = loaded(result.model) == loaded(whole.model)
    notes = " ".join(result.report.runtime.notes)
    assert ("small, memory and speed are those of float16" in notes) == (same and bits < 32)
    assert ("slower than the float original" in notes) == (not same)
    assert "the original's" not in notes
    assert ("processors widen it" in notes) == (target in ("cpu", "portable"))


def test_weights_before_a_logarithm_become_codes_of_16_bits() -> None:
    """A float16 would leave 11 bits of them, and be heard in silence."""
    model = spectrum()
    result = compress(model, float16=True, target="cuda", images=8).model
    codes = {name: codes.data_type for name, (codes, _) in stored(result).items()}
    assert (codes["C"], codes["S"]) == (onnx.TensorProto.INT16, onnx.TensorProto.INT16)
    assert model_bytes(result) < 0.54 * model_bytes(model)
    assert floor(model) < -120.0
    assert floor(result) < -107.0  # of float16 -92
