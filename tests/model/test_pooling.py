"""A mean over space becomes a pooling, however it is spelled."""

from __future__ import annotations

import numpy as np
import pytest

from tests.as_read import assert_same, operators
from tests.small_graphs import small_model

MEANS = {
    "a = Constant<value = int64[2] {2, 3}>() y = ReduceMean<keepdims = 1>(h, a)": ["GlobalAveragePool"],
    "a = Constant<value = int64[2] {-1, -2}>() y = ReduceMean<keepdims = 1>(h, a)": ["GlobalAveragePool"],
    "a = Constant<value = int64[2] {2, 3}>() y = ReduceMean<keepdims = 0>(h, a)": ["GlobalAveragePool", "Flatten"],
    "a = Constant<value = int64[1] {3}>() b = Constant<value = int64[1] {2}>()"
    " m = ReduceMean<keepdims = 0>(h, a) y = ReduceMean<keepdims = 0>(m, b)": ["GlobalAveragePool", "Flatten"],
    "a = Constant<value = int64[1] {2}>() b = Constant<value = int64[1] {-1}>()"
    " m = ReduceMean<keepdims = 0>(h, a) y = ReduceMean<keepdims = 0>(m, b)": ["GlobalAveragePool", "Flatten"],
    "a = Constant<value = int64[1] {3}>() b = Constant<value = int64[1] {2}>()"
    " m = ReduceMean<keepdims = 1>(h, a) y = ReduceMean<keepdims = 1>(m, b)": ["GlobalAveragePool"],
    "a = Constant<value = int64[2] {1, 3}>() y = ReduceMean<keepdims = 1>(h, a)": ["ReduceMean"],
    "a = Constant<value = int64[1] {3}>() y = ReduceMean<keepdims = 1>(h, a)": ["ReduceMean"],
    "a = Constant<value = int64[1] {1}>() b = Constant<value = int64[1] {-1}>()"
    " m = ReduceMean<keepdims = 0>(h, a) y = ReduceMean<keepdims = 0>(m, b)": ["ReduceMean", "ReduceMean"],
    "a = Constant<value = int64[1] {3}>() b = Constant<value = int64[1] {2}>()"
    " m = ReduceMean<keepdims = 1>(h, a) n = ReduceMean<keepdims = 1>(m, b) y = Add(m, n)": [
        "ReduceMean", "ReduceMean", "Add",
    ],
}  # fmt: skip


@pytest.mark.parametrize("body", MEANS)
def test_means(body: str) -> None:
    model = small_model(f"g (float[2,3,4,6] x, float[5,3,1,1] W) => (float y) {{ c = Conv(x, W) h = Relu(c) {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert operators(model) == ["Conv", "Relu", *MEANS[body]]
    assert_same(model, np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32))


def test_of_three_axes_it_stays() -> None:
    model = small_model("""g (float[2,3,4] x, float[5,3,1] W) => (float[2,5,1] y) {
        h = Conv(x, W) a = Constant<value = int64[1] {2}>() y = ReduceMean(h, a) }""")
    assert operators(model) == ["Conv", "ReduceMean"]


def test_in_double_precision_it_stays() -> None:
    model = small_model("""g (double[2,3,4,4] x) => (double[2,3,1,1] y) {
        h = Neg(x) a = Constant<value = int64[2] {2, 3}>() y = ReduceMean(h, a) }""")
    assert operators(model) == ["Neg", "ReduceMean"]
