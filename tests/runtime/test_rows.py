"""Which tensors are samples one after another, and that a network runs the same on some of them at a time."""

import numpy as np
import onnx
import pytest
from onnx import parser

from onnx_udfc.runtime import walk as walking
from onnx_udfc.runtime.rows import ROWS, counted, kinds_of, rows_apart
from onnx_udfc.runtime.runs import outputs_of
from onnx_udfc.runtime.walk import Walk
from tests.small_graphs import small_model

HEAD = '<ir_version: 10, opset_import: ["": 21]>'
COUNTED = """
    agraph (float[n, 6] x) => (float[n, m] y, float[n, k] z)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] back = {-1},
     int64[1] end = {9223372036854775807}, float[1, 3, 1] shift = {1, 2, 3}> {
        shape = Shape(x)
        count = Slice(shape, zero, one, zero)
        wanted = Concat<axis = 0>(count, three, two)
        cut = Reshape(x, wanted)
        moved = Add(cut, shift)
        sums = ReduceSum<keepdims = 0>(moved, two)
        again = Concat<axis = 0>(count, three, one)
        wide = Reshape(sums, again)
        spread = Expand(wide, wanted)
        turned = Transpose<perm = [0, 2, 1]>(spread)
        all = Slice(turned, zero, end, zero)
        flat = Flatten<axis = 1>(all)
        y = Tanh(flat)
        thin = Unsqueeze(sums, back)
        z = Squeeze(thin, back)
    }"""


def _model(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + text)


def test_samples_are_followed_through_reshapes_whose_shapes_are_computed() -> None:
    kinds = kinds_of(_model(COUNTED), {"x": (6,)}, set())
    assert kinds["wanted"].entries == (ROWS, 3, 2)
    assert kinds["wanted"].counts
    assert {name: kinds[name].rank for name in ("cut", "sums", "spread", "all", "y", "z")} == {
        "cut": 3, "sums": 2, "spread": 3, "all": 3, "y": 2, "z": 2,
    }  # fmt: skip
    assert all(kinds[name].apart for name in ("cut", "sums", "spread", "all", "y", "z"))
    assert counted(np.array([7, 3, 2]), kinds["wanted"], 4).tolist() == [4, 3, 2]
    assert rows_apart({"x": np.zeros((7, 6))}, ["y", "wanted"], kinds) == 7


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Softmax<axis = 0>(x)",
        "y = ReduceSum<keepdims = 1>(x, zero)",
        "y = ReduceSum<keepdims = 1>(x)",
        "y = Transpose<perm = [1, 0]>(x)",
        "y = Reshape(x, pairs)",  # (-1, 2): three times as many rows
        "r = Relu(x) s = Slice(r, six, six, one) y = Reshape(s, turned)",  # of a size that nobody knows
        "y = Reshape(x, fixed)",
        "y = Concat<axis = 0>(x, x)",
        "y = Slice(x, zero, six, zero)",
        "s = Unsqueeze(x, zero) y = Squeeze(s, zero)",
        "t = Transpose<perm = [1, 0]>(x) y = Add(x, t)",
        "r = ReduceMean<keepdims = 0>(x, one) y = Add(x, r)",  # (n,) stands along the other axis
        "y = Add(x, square)",
        "y = CumSum(x, first)",
        "y = MatMul(x, square)",
        "y = BatchNormalization<training_mode = 1>(x, v, v, v, v)",
    ],
)
def test_what_may_mix_samples_is_not_taken_apart(nodes: str) -> None:
    text = f"""
        agraph (float[n, 6] x) => (float[a, b] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] six = {{6}}, int64 first = {{0}},
         int64[2] turned = {{-1, 6}}, int64[2] pairs = {{-1, 2}}, int64[2] fixed = {{6, 6}},
         float[6, 6] square = {{{", ".join(["1"] * 36)}}},
         float[6] v = {{1, 1, 1, 1, 1, 1}}> {{ {nodes} }}"""
    kinds = kinds_of(_model(text), {"x": (6,)}, set())
    assert rows_apart({"x": np.zeros((6, 6))}, ["y"], kinds) == 0


def test_a_shape_of_minus_one_keeps_the_samples_where_each_is_as_large_as_before() -> None:
    text = """
        agraph (float[n, 6] x) => (float[a, 2, 3] y) <int64[3] three = {-1, 3, 2}> {
            r = Reshape(x, three)
            y = Transpose<perm = [0, 2, 1]>(r)
        }"""
    assert kinds_of(_model(text), {"x": (6,)}, set())["y"].shape == (2, 3)


def test_unknown_axes_of_a_slice_may_be_that_of_the_samples() -> None:
    text = """
        agraph (float[n, 6] x) => (float[a, b] y) <int64[1] zero = {0}, int64[1] one = {1}> {
            s = Shape(x)
            t = Sub(s, s)
            axis = Slice(t, zero, one)
            y = Slice(x, zero, one, axis)
        }"""
    assert "y" not in kinds_of(_model(text), {"x": (6,)}, set())


def test_a_part_of_many_samples_runs_on_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _model(COUNTED), np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)
    whole = Walk(model, {"x": x}, [])
    expected = {name: whole.get(name) for name in ("y", "z")}
    monkeypatch.setattr(walking, "SMALL", 0)
    seen = []
    run = outputs_of

    def counting(segment: object, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(max(map(len, inputs.values())))
        return run(segment, outputs, inputs)

    monkeypatch.setattr(walking, "outputs_of", counting)
    walk = Walk(model, {"x": x}, [])
    assert np.array_equal(walk.get("wanted"), [37, 3, 2])
    assert np.array_equal(walk.get("y"), expected["y"])
    assert max(seen) == 3
    assert np.array_equal(walk.get("z"), expected["z"])


def test_sizes_of_a_sample_are_followed_through_a_one_hot_code() -> None:
    text = """agraph (int64[n, 20, 1] x) => (float[n, 20, 7] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[2] rest = {20, 1}, int64[1, 1, 7] all = {0, 1, 2, 3, 4, 5, 6}> {
        shape = Shape(x)
        count = Slice(shape, zero, one, zero)
        wanted = Concat<axis = 0>(count, rest)
        spread = Expand(x, wanted)
        same = Equal(spread, all)
        y = Cast<to = 1>(same)
    }"""
    kinds = kinds_of(_model(text), {"x": (20, 1)}, set())
    assert [kinds[name].shape for name in ("spread", "same", "y")] == [(20, 1), (20, 7), (20, 7)]


def test_a_part_whose_outputs_are_large_runs_on_some_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("g (float[N,4,1] x, float[1,1,9000] W) => (float[N,4,9000] y) { y = Add(x, W) }")
    x = np.random.default_rng(0).normal(size=(32, 4, 1)).astype(np.float32)
    seen = []

    def counting(segment: object, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(len(inputs["x"]))
        return outputs_of(segment, outputs, inputs)

    monkeypatch.setattr(walking, "outputs_of", counting)
    y = Walk(model, {"x": x}, []).get("y")
    assert seen == [2] * 16
    np.testing.assert_array_equal(y, x + onnx.numpy_helper.to_array(model.graph.initializer[0]))
