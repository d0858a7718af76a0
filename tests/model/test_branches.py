"""Convolutions side by side that are added up become one layer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.model.network import read
from tests.dead_channels import outputs
from tests.small_graphs import small_model

BATCH_NORM = "B, float[4] S, float[4] T, float[4] M"


def branched(body: str, weights: str) -> onnx.ModelProto:
    """`body` between `a`, 4 channels out of a convolution, and `b`, which another convolution reads."""
    model = small_model(
        f"""g (float[N,3,8,8] x, float[4,3,1,1] F, float[2,4,1,1] L, {weights}, float[4] V) => (float[N,2,h,w] y) {{
        c = Conv(x, F) a = Relu(c) {body} z = Relu(b) y = Conv(z, L) }}"""
    )
    for tensor in model.graph.initializer:
        if tensor.name == "V":  # a variance
            tensor.CopyFrom(numpy_helper.from_array(np.array([0.5, 1, 2, 3], np.float32), "V"))
    return model


JOINED = {
    "three by three, one by one and a batch norm": (
        "p = Conv<pads = [1, 1, 1, 1]>(a, K, B) q = Conv(a, P) r = BatchNormalization(a, S, T, M, V)"
        " s = Add(p, q) b = Add(s, r)",
        f"float[4,4,3,3] K, float[4,4,1,1] P, float[4] {BATCH_NORM}",
        3,
    ),
    "the small one first, strides": (
        "p = Conv<strides = [2, 2]>(a, P, B) q = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(a, K) b = Add(p, q)",
        "float[4,4,3,3] K, float[4,4,1,1] P, float[4] B",
        3,
    ),
    "depthwise, and a batch norm": (
        "p = Conv<pads = [1, 1, 1, 1], group = 4>(a, K) r = BatchNormalization(a, S, T, M, V) b = Add(r, p)",
        f"float[4,1,3,3] K, float[4] {BATCH_NORM}",
        3,
    ),
    "in two groups": (
        "p = Conv<pads = [1, 1, 1, 1], group = 2>(a, K) r = BatchNormalization(a, S, T, M, V) b = Add(r, p)",
        f"float[4,2,3,3] K, float[4] {BATCH_NORM}",
        3,
    ),
    "a row inside of a square": (
        "p = Conv<pads = [1, 1, 1, 1]>(a, K) q = Conv<pads = [0, 1, 0, 1]>(a, P) b = Add(p, q)",
        "float[4,4,3,3] K, float[4,4,1,3] P",
        3,
    ),
    "a row and a column": (
        "p = Conv<pads = [1, 0, 1, 0]>(a, K) q = Conv<pads = [0, 1, 0, 1]>(a, P) b = Add(p, q)",
        "float[4,4,3,1] K, float[4,4,1,3] P",
        4,
    ),
    "a residual stream": ("p = Conv<pads = [1, 1, 1, 1]>(a, K) b = Add(p, a)", "float[4,4,3,3] K", 3),
    "of two tensors": (
        "p = Conv<pads = [1, 1, 1, 1]>(a, K) q = Conv(c, P) b = Add(p, q)",
        "float[4,4,3,3] K, float[4,4,1,1] P",
        4,
    ),
    "one is read elsewhere": (
        "p = Conv<pads = [1, 1, 1, 1]>(a, K) q = Conv(a, P) s = Add(p, q) b = Mul(s, q)",
        "float[4,4,3,3] K, float[4,4,1,1] P",
        4,
    ),
    "other dilations": (
        "p = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(a, K) q = Conv(a, P) b = Add(p, q)",
        "float[4,4,3,3] K, float[4,4,1,1] P",
        4,
    ),
    "one weight of two layers": (
        "p = Conv(a, P) q = Conv(c, P) k = Conv(a, K) s = Add(p, k) b = Mul(s, q)",
        "float[4,4,1,1] K, float[4,4,1,1] P",
        5,
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_branches_are_joined_where_one_kernel_holds_the_other(name: str) -> None:
    body, weights, layers = JOINED[name]
    model = branched(body, weights)
    network = read(model)
    assert len(network.layers) == layers
    result = network.to_model()
    onnx.checker.check_model(result)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    (before,), (after,) = outputs(model, feeds), outputs(result, feeds)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


def test_a_block_with_three_branches_is_no_residual_stream() -> None:
    body, weights, _ = JOINED["three by three, one by one and a batch norm"]
    groups = find_groups(read(branched(body, weights))).groups
    assert [(group.kind, group.channels) for group in groups] == [("inner", 4), ("inner", 4)]
