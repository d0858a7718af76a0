"""Sums of tensors become Adds."""

from __future__ import annotations

import numpy as np
import pytest

from tests.as_read import assert_same, operators
from tests.small_graphs import small_model

AXIS = "i = Constant<value = int64[1] {1}>() p = Unsqueeze(a, i) q = Unsqueeze(x, i) c = Concat<axis = 1>(p, q)"
SUMS = {
    "y = Sum(a, x)": ["Add"],
    "b = Neg(a) y = Sum(a, x, b)": ["Neg", "Add", "Add"],
    "none = Constant<value = float[1,1,1] {0.0}>() y = Sum(a, none, x)": ["Add"],
    f"{AXIS} y = ReduceSum<keepdims = 0>(c, i)": ["Add"],
    f"{AXIS} s = ReduceSum<keepdims = 1>(c, i) y = Squeeze(s, i)": [
        "Unsqueeze", "Unsqueeze", "Concat", "ReduceSum", "Squeeze",
    ],
    "i = Constant<value = int64[1] {1}>() c = Concat<axis = 1>(a, x) s = ReduceSum<keepdims = 1>(c, i) y = Add(s, a)": [
        "Concat", "ReduceSum", "Add",
    ],
}  # fmt: skip


@pytest.mark.parametrize("body", SUMS)
def test_sums(body: str) -> None:
    model = small_model(f"g (float[2,3,4] x) => (float[2,3,4] y) {{ a = Relu(x) {body} }}")
    assert operators(model) == ["Relu", *SUMS[body]]
    assert_same(model, np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
