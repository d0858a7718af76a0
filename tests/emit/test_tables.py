"""Tables of Gather nodes (embeddings): written as codes that onnxruntime folds at load."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.saving import model_bytes
from onnx_udfc.options import Options
from onnx_udfc.pipeline import Result
from tests.emit.test_notes_against_the_loaded_graph import loaded
from tests.quantized_graphs import run
from tests.small_graphs import small_model
from tests.stored_codes import stored

TEXT = """g (int64[N,6] ids, float[1000,64] E, float[64,16] W, float[16] B) => (float[N,16] y)
    <int64[1] axes = {1}> {
    rows = Gather(E, ids) m = ReduceMean<keepdims = 0>(rows, axes) y = Gemm(m, W, B) }"""
IDS = {"ids": np.random.default_rng(1).integers(0, 1000, (200, 6))}


def model_with_table() -> onnx.ModelProto:
    """A network whose rows differ in size, as those of frequent and rare words do."""
    model = small_model(TEXT)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 64)) * rng.uniform(0.02, 2.0, (1000, 1))
    _put(model, "E", values.astype(np.float32))
    return model


def _put(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _values(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def sqnr(before: np.ndarray, after: np.ndarray) -> float:
    return float(10 * np.log10(np.square(before).sum() / np.square(before - after).sum()))


def squeezed(model: onnx.ModelProto, bits: int, **others: object) -> Result:
    return compress(model, Options(bits=bits, method="none", **others))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
@pytest.mark.parametrize(("bits", "share", "least"), [(8, 0.30, 38.0), (6, 0.25, 26.0), (4, 0.18, 14.0)])
def test_a_table_takes_as_many_bits_as_asked(bits: int, share: float, least: float, target: str) -> None:
    model = model_with_table()
    result = squeezed(model, bits, target=target)
    if (bits, target) == (6, "cuda") or (bits, target) == (6, "portable"):
        share = 0.30  # no words there: ONNX has no type of 6 bits
    assert model_bytes(result.model) <= share * model_bytes(model)
    before, after = run(model, IDS)[0], run(result.model, IDS)[0]
    assert sqnr(before, after) > least
    if target != "portable":  # onnxruntime quantizes the inputs of Gemm there
        np.testing.assert_allclose(after, run(result.model, IDS, optimize=False)[0], rtol=1e-5, atol=1e-5)
    assert any(note.startswith(f"tables of Gather nodes, {bits} bits: E (1000 x 64) as ") for note in notes(result))


@pytest.mark.parametrize("opset", [21, 13])
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_a_table_is_folded_at_load(bits: int, opset: int) -> None:
    text = "g (int64[N] ids, float[1000,64] E) => (float[N,64] y) { r = Gather(E, ids) y = Relu(r) }"
    result = squeezed(small_model(text, opset), bits)
    assert loaded(result.model) == {"Gather": 1, "Relu": 1}


def notes(result: Result) -> tuple[str, ...]:
    return result.report.runtime.notes


def test_the_codes_are_those_of_the_nearest_grid_points_row_by_row() -> None:
    model = model_with_table()
    table = _values(model, "E")
    codes, scale = map(numpy_helper.to_array, stored(squeezed(model, 8).model)["E"])
    assert codes.dtype == np.int8
    assert codes.shape == (1000, 64)
    assert scale.shape == (1000, 1)
    clipped = np.abs(table) > 127.5 * scale
    assert np.abs(codes * scale - table)[~clipped].max() <= 0.5001 * scale.max()
    assert clipped.mean() < 0.02
    assert sqnr(table, codes * scale) > 40.0


def test_a_narrow_table_has_a_scale_for_each_column() -> None:
    model = small_model(
        "g (int64[N] ids, float[3000,4] E, float[4,8] W) => (float[N,8] y) { r = Gather(E, ids) y = MatMul(r, W) }"
    )
    result = squeezed(model, 8)
    _, scale = stored(result.model)["E"]
    assert tuple(scale.dims) == (1, 4)
    assert model_bytes(result.model) < 0.30 * model_bytes(model)


def test_tensorrt_keeps_tables_in_float_and_says_so() -> None:
    result = squeezed(model_with_table(), 8, target="tensorrt")
    assert "tables of Gather nodes stay in float for --target tensorrt: E (1000 x 64)" in notes(result)
    assert {t.name: t.data_type for t in result.model.graph.initializer}["E"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("skip", ["E", "n0"])
def test_a_table_that_is_to_be_skipped_is_left_alone(skip: str) -> None:
    model = model_with_table()
    result = squeezed(model, 8, skip=(skip,))
    assert np.array_equal(_values(result.model, "E"), _values(model, "E"))
    assert not any(note.startswith("tables of Gather nodes") for note in notes(result))


TIED = """g (int64[N,6] ids, float[1000,64] E) => (float[N,1000] y)
    <int64[1] axes = {1}> {
    rows = Gather(E, ids) m = ReduceMean<keepdims = 0>(rows, axes) BODY }"""
TIES = {"gemm": "y = Gemm<transB = 1>(m, E)", "matmul": "t = Transpose(E) y = MatMul(m, t)"}


@pytest.mark.parametrize("method", ["none", "moments"])
@pytest.mark.parametrize("kind", TIES)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_that_a_layer_shares_stays_right(bits: int, kind: str, method: str) -> None:
    model = small_model(TIED.replace("BODY", TIES[kind]))
    result = compress(model, Options(bits=bits, method=method))
    before, after = run(model, IDS)[0], run(result.model, IDS)[0]
    assert sqnr(before, after) > (38.0 if bits == 8 else 14.0)
    codes = {codes.name for codes, _ in stored(result.model).values()}
    once = kind == "gemm" and method == "none"  # codes and scales are the same, row by row
    assert len(codes) == (1 if once else 2)
    assert model_bytes(result.model) < (0.30 if once else 0.60) * model_bytes(model)


def test_two_gathers_of_one_table_read_one_set_of_codes() -> None:
    model = small_model("""g (int64[N] a, int64[N] b, float[1000,64] E) => (float[N,64] y) {
        p = Gather(E, a) q = Gather(E, b) y = Add(p, q) }""")
    result = squeezed(model, 8)
    assert len(stored(result.model)) == 1
    assert model_bytes(result.model) < 0.30 * model_bytes(model)
    assert not any("nothing was quantized" in warning for warning in result.report.warnings)


@pytest.mark.parametrize("user", ["y = Add(s, E)", "y = Identity(E)"])
def test_a_table_that_is_needed_in_float_gets_no_codes_beside_it(user: str) -> None:
    text = "g (int64[1000] ids, float[1000,64] E) => (float[1000,64] z, float[1000,64] y)"
    text += "{ s = Gather(E, ids) z = Relu(s) USER }"
    result = squeezed(small_model(text.replace("USER", user)), 8)
    assert not stored(result.model)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_its_own_file_is_inspected_and_compressed_again(bits: int) -> None:
    first = squeezed(model_with_table(), bits).model
    rows = {layer.name: layer for layer in inspect_model(first).layers}
    assert (rows["n0"].op_type, rows["n0"].parameters_before, rows["n0"].bits) == ("Gather", 64000, bits)
    assert rows["n0"].form
    again = squeezed(first, 8)
    assert np.array_equal(run(first, IDS)[0], run(again.model, IDS)[0])
    assert model_bytes(again.model) <= 1.02 * model_bytes(first)


def test_inspect_lists_tables() -> None:
    model = model_with_table()
    share = round(100 * 256000 / model_bytes(model))
    line = f"table of a Gather: E (1000 x 64), 256000 bytes, {share} % of the file's; --bits makes it smaller"
    assert line in inspect_model(model).notes
    assert line not in inspect_model(model, skip=("E",)).notes


def test_a_table_of_16_bit_floats_stays_of_that_type() -> None:
    model = small_model("""g (int64[N] ids, float16[1000,64] E, float16[64,16] W) => (float16[N,16] y) {
        r = Gather(E, ids) y = MatMul(r, W) }""")
    result = squeezed(model, 8)
    ids = {"ids": IDS["ids"][:, 0]}
    before, after = run(model, ids)[0], run(result.model, ids)[0]
    assert after.dtype == np.float16
    assert sqnr(before.astype(np.float64), after.astype(np.float64)) > 35.0
    assert model_bytes(result.model) < 0.58 * model_bytes(model)


def test_a_table_with_infinite_values_stays_as_it_is() -> None:
    model = model_with_table()
    values = _values(model, "E").copy()
    values[3, 5] = -np.inf
    _put(model, "E", values)
    assert np.array_equal(_values(squeezed(model, 8, force=True).model, "E"), values)
