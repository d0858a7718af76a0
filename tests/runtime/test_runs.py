"""Declared inputs, and arrays cut into runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc.runtime.runs import InputSpec, cut, sample_count, samples_first, specs, split
from onnx_udfc.runtime.walk import Walk
from tests.small_graphs import small_model

F32 = np.dtype(np.float32)


def declared(**shapes: tuple[int | str | None, ...]) -> tuple[InputSpec, ...]:
    return specs([(name, shape, F32) for name, shape in shapes.items()])


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ({"x": ("N", 3, 8, 8)}, [0]),
        ({"x": (1, 3, 8, 8)}, [0]),
        ({"input": ("batch", "length"), "state": (2, "batch", 128), "sr": ()}, [0, 1, None]),
        ({"state": (2, "batch", 128), "input": ("batch", "length")}, [1, 0]),
        ({"state": (2, None, 128), "input": (None, None)}, [1, 0]),
        ({"x": ("seq", "batch", 80), "h": (2, "batch", 64), "lengths": ("batch",)}, [1, 1, 0]),
        ({"x": ("T", "N", 80)}, [1]),
        ({"x": ("batch_seq", "batch", 80), "z": ("points", "n", 3), "e": ("N", "T", 80)}, [0, 0, 0]),
        ({"x": ("N", 3, 8, 8), "t": (1,), "mask": (1, "L")}, [0, None, None]),
        ({"x": (4, 3, 8, 8), "z": (4, 5), "table": (7, 2), "t": (1,)}, [0, 0, None, None]),
        ({"h": (2, 1, 64), "x": (1, 3, 8, 8), "flag": ()}, [None, 0, None]),
    ],
)
def test_samples_lie_along_the_axis_that_says_so(
    shapes: dict[str, tuple[int | str | None, ...]], axes: list[int | None]
) -> None:
    assert [s.axis for s in declared(**shapes)] == axes


def test_runs_have_the_fixed_batch_and_drop_what_does_not_fill_one() -> None:
    values = {"x": np.arange(7, dtype=np.float32)[:, None]}
    assert [len(f["x"]) for f in split(declared(x=(2, 1)), values)] == [2, 2, 2]
    assert [len(f["x"]) for f in split(declared(x=("N", 1)), values, batch=3)] == [3, 3, 1]
    filled = cut(declared(x=(2, 1)), values)
    assert filled.samples == 7
    assert [f["x"].ravel().tolist() for f in filled.feeds] == [[0, 1], [2, 3], [4, 5], [6, 6]]


def test_what_belongs_to_a_run_is_the_same_in_all_or_another_in_each() -> None:
    given = declared(x=("N", 1), table=(3,), scalar=(), state=(2, "N", 4))
    values: dict[str, Any] = {
        "x": np.arange(6.0)[:, None], "table": np.arange(3.0), "scalar": np.array([5.0, 7.0]),
        "state": np.arange(6.0)[None, :, None] * np.ones((2, 1, 4)),
    }  # fmt: skip
    runs = list(split(given, values, batch=16))
    assert [r["x"].ravel().tolist() for r in runs] == [[0, 1, 2], [3, 4, 5]]
    assert [r["scalar"].tolist() for r in runs] == [5, 7]
    assert all(r["scalar"].shape == () and r["table"].tolist() == [0, 1, 2] for r in runs)
    assert [r["state"][1, :, 3].tolist() for r in runs] == [[0, 1, 2], [3, 4, 5]]
    assert sample_count(given, values) == 6


@pytest.mark.parametrize(
    ("shape", "sizes", "later"),
    [
        ((31, 4, 9), (31, "n", 9), True),
        ((31, 4, 9), (None, None, 9), True),
        ((4, 4, 9), (4, "n", 9), True),  # as many steps as samples
        ((4, 4, 9), ("seq", "batch", 9), True),
        ((4, 4, 9), ("n", 4, 9), False),
        ((8, 31, 9), (None, None, 9), False),  # rows whose number depends on values
        ((31, 4), (31, "n"), False),
        ((2, 4, 3, 3), (2, "n", 3, 3), False),
    ],
)
def test_samples_of_an_output_come_first(
    shape: tuple[int, ...], sizes: tuple[int | str | None, ...], later: bool
) -> None:
    y = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(samples_first(y, 4, sizes), y.swapaxes(0, 1) if later else y)


def onnx_int(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


SCALED = """g (float[N,4] x, float s, float[1] t, float[4,4] W1, float[1,4] W2) => (float[N,4] y) {
    a = Mul(x, s) b = MatMul(a, W1) r = Relu(b) c = Unsqueeze(t, k) d = MatMul(c, W2) e = Add(r, d)
    y = Mul(e, s) }"""


def test_a_walk_gives_every_run_its_own_scalar() -> None:
    """A layer that sees samples, one that sees only what belongs to the run, and a stop on the way."""
    model = small_model(SCALED)
    model.graph.initializer.append(onnx_int("k", [0]))
    x = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    s, t = np.array([0.5, 1, 2, 3], np.float32), np.array([[1], [2], [-3], [0]], np.float32)
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    each = np.minimum(np.arange(10) // 3, 3)  # runs of 3, 3, 3 and 1 samples
    a = x * s[each, None]
    b = a @ weights["W1"]
    expected = (np.maximum(b, 0) + (t @ weights["W2"])[each]) * s[each, None]
    walk = Walk(model, {"x": x, "s": s, "t": t}, ["n1", "n4"])
    np.testing.assert_allclose(walk.get("a"), a, rtol=1e-6)
    walk.put("n1", b)
    np.testing.assert_array_equal(walk.get("c"), t)
    walk.put("n4", t @ weights["W2"])
    np.testing.assert_allclose(walk.get("y"), expected, rtol=1e-5)


def test_a_walk_cuts_a_state_along_its_own_axis() -> None:
    text = """g (float[N,4] x, float[2,N,4] h, float s) => (float[N,4] y) {
        f = Gather<axis = 0>(h, i) a = Add(x, f) y = Mul(a, s) }"""
    model = small_model(text)
    model.graph.initializer.append(onnx_int("i", 1))
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((2, 5, 4)).astype(np.float32)
    s = np.array([2, -1], np.float32)
    each = np.arange(5) // 3
    walk = Walk(model, {"x": x, "h": h, "s": s}, [])
    np.testing.assert_allclose(walk.get("y"), (x + h[1]) * s[each, None], rtol=1e-6)
