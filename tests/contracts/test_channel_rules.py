"""Every operator in CHANNEL_RULES: dead channels go without changing the output, or a reason says why not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.channels.rules.table import CHANNEL_RULES, ELEMENTWISE, PASSING, QUANTIZED, REDUCTION, RESIDUAL
from onnx_udfc.model.network import read
from tests.dead_channels import kill, largest, outputs, random_feeds
from tests.small_graphs import small_model


class Row(NamedTuple):
    """A body between `a`, 8 channels of 6 x 6 out of a convolution, and `b`, which another convolution reads.

    Attributes:
        op: the operator that it is about.
        body: its nodes.
        channels: of b.
        groups: number of groups of 2 channels or more that must be found before the last convolution.
        weights: further inputs of the graph.
        opset: of the standard domain.
        reason: a part of the reason that the first convolution is skipped for, if it is.
    """

    op: str
    body: str
    channels: int = 8
    groups: int = 1
    weights: str = ""
    opset: int = 21
    reason: str = ""


UNARY_ON_BOOL = {"BitwiseNot", "Not", "IsInf", "IsNaN", "CastLike", "Cast", "Swish"}
LOGIC = {"And", "Or", "Xor"}
BITS = {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
COMPARE = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
TAKEN_OUT = ("Dropout", "Identity", "Sum")  # on reading
TO_POSITIVE = "p = Sigmoid(a)"
TO_BOOL = "zero = Constant<value_float = 0.0>() p = Greater(a, zero)"
TO_INT = "p = Cast<to = 6>(a)"
FROM_ANY = "b = Cast<to = 1>(q)"
SQUEEZE = "s = GlobalAveragePool(a) u = Conv(s, W3) t = Relu(u) v = Conv(t, W4) w = Sigmoid(v)"
SQUEEZE_WEIGHTS = "float[4,8,1,1] W3, float[8,4,1,1] W4"
BRANCHES = "s = Constant<value_ints = [1, 2, 4, 6, 6]>() p = Reshape(a, s)"  # four channels in each of two
SUMMED = "k = Constant<value_ints = [1]>() b = ReduceSum<keepdims = 0>(w, k)"
GATE = "l = GlobalAveragePool(a) f = Flatten(l) v = MatMul(f, W3) w = Sigmoid(v)"
SCORES = (  # what two heads of four channels look at
    "c3 = Conv(x, W3) s = Constant<value_ints = [1, 2, 4, 36]>() r = Constant<value_ints = [1, 8, 6, 6]>()"
    " q0 = Reshape(c3, s) q = Transpose<perm = [0, 1, 3, 2]>(q0) w0 = MatMul(q, q0) e = Softmax(w0)"
)
ROWS_OF_POINTS = (
    "c3 = Conv(x, W3) s = Constant<value_ints = [1, 8, 36]>() r = Constant<value_ints = [1, 8, 6, 6]>()"
    " k0 = Reshape(c3, s) k = Transpose<perm = [0, 2, 1]>(k0) v0 = Reshape(a, s) v = Transpose<perm = [0, 2, 1]>(v0)"
)

ROWS = [
    *(Row(op, f"p = Sigmoid(a) b = {op}(p)") for op in sorted(PASSING) if op not in UNARY_ON_BOOL | {"Acosh"}),
    Row("Acosh", "one = Constant<value_float = 1.5>() p = Exp(a) r = Add(p, one) b = Acosh(r)"),
    Row("Not", f"{TO_BOOL} q = Not(p) {FROM_ANY}"),
    Row("BitwiseNot", f"{TO_INT} q = BitwiseNot(p) {FROM_ANY}"),
    Row("IsInf", f"q = IsInf(a) {FROM_ANY}"),
    Row("IsNaN", f"q = IsNaN(a) {FROM_ANY}"),
    Row("Cast", f"q = Cast<to = 11>(a) {FROM_ANY}"),
    Row("CastLike", "one = Constant<value_float = 1.0>() q = Cast<to = 11>(a) b = CastLike(q, one)"),
    Row("Clip", "lo = Constant<value_float = 0.0>() hi = Constant<value_float = 6.0>() b = Clip(a, lo, hi)"),
    *(
        Row(op, f"{TO_POSITIVE} b = {op}(p, S)", weights="float[8,1,1] S")
        for op in sorted((*ELEMENTWISE, *RESIDUAL))
        if op not in LOGIC | BITS | COMPARE | {"Where", "Mod", "Sum", "Mean"}
    ),
    *(Row(op, f"{TO_POSITIVE} b = {op}(p, a, S)", weights="float[1,8,1,1] S") for op in ("Sum", "Mean", "Max", "Min")),
    *(Row(op, f"{TO_BOOL} r = Less(a, S) q = {op}(p, r) {FROM_ANY}", weights="float[8,1,1] S") for op in sorted(LOGIC)),
    *(Row(op, f"{TO_INT} two = Abs(p) q = {op}(p, two) {FROM_ANY}") for op in sorted(BITS)),
    *(Row(op, f"q = {op}(a, S) {FROM_ANY}", weights="float[8,1,1] S") for op in sorted(COMPARE)),
    Row("Mod", "b = Mod<fmod = 1>(a, S)", weights="float[8,1,1] S"),
    Row("Where", f"{TO_BOOL} b = Where(p, a, S)", weights="float[8,1,1] S"),
    Row("Mul", f"{SQUEEZE} b = Mul(a, w)", weights=SQUEEZE_WEIGHTS, groups=2),
    Row("Add", "c = Conv(x, W3) r = Relu(c) b = Add(a, r)", weights="float[8,3,3,3] W3"),
    Row("Sub", "b = Sub(a, m)", weights="float[1,1,6,6] m"),
    Row("Add", "b = Add(a, m)", 8, 0, "float[1,8,6,6] m", reason="combined with a tensor"),
    Row("Swish", "b = Swish(a)", opset=24),
    *(
        Row(op, f"p = Abs(a) axes = Constant<value_ints = [3]>() b = {op}(p, axes)")
        for op in sorted(REDUCTION)
        if op != "ReduceSum"
    ),
    Row("ReduceSum", "axes = Constant<value_ints = [-1]>() b = ReduceSum(a, axes)"),
    Row("ReduceSum", "axes = Constant<value_ints = [1]>() b = ReduceSum(a, axes)", 1, 0, reason="reduces over"),
    Row("ReduceMax", "b = ReduceMax(a)", 1, 0, reason="reduces over"),
    Row("ArgMax", f"q = ArgMax<axis = 3>(a) {FROM_ANY}"),
    Row("ArgMin", f"q = ArgMin<axis = 1>(a) {FROM_ANY}", 1, 0, reason="reduces over"),
    *(Row(op, f"b = {op}<kernel_shape = [2, 2], strides = [2, 2]>(a)") for op in ("AveragePool", "LpPool", "MaxPool")),
    *(Row(op, f"b = {op}(a)") for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")),
    *(Row(op, f"b = {op}<axis = 2>(a)") for op in ("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")),
    *(
        Row(op, f"b = {op}<axis = 1>(a)", 8, 0, reason="runs over its channels")
        for op in ("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")
    ),
    Row("Softmax", f"{BRANCHES} e = Softmax<axis = 1>(p) w = Mul(e, p) {SUMMED}", 4),
    Row("ReduceMax", f"{BRANCHES} k = Constant<value_ints = [1]>() b = ReduceMax<keepdims = 0>(p, k)", 4),
    Row("ArgMax", f"{BRANCHES} q = ArgMax<axis = 1, keepdims = 0>(p) {FROM_ANY}", 4),
    Row("LayerNormalization", "t = Transpose<perm = [0, 2, 3, 1]>(a) s = Constant<value_ints = [1, 6, 6, 4, 2]>()"
        " p = Reshape(t, s) n = LayerNormalization(p, S) k = Constant<value_ints = [1, 6, 6, 8]>() m = Reshape(n, k)"
        " b = Transpose<perm = [0, 3, 1, 2]>(m)", weights="float[2] S"),
    Row("Softmax", "g = GlobalAveragePool(a) s = Constant<value_ints = [1, 1, 2, 4]>() p = Reshape(g, s)"
        " t = Transpose<perm = [0, 2, 1, 3]>(p) e = Softmax<axis = 1>(t) k = Constant<value_ints = [1, 8]>()"
        " f = Reshape(e, k) l = Constant<value_ints = [1, 8, 1, 1]>() h = Reshape(f, l) b = Mul(a, h)"),
    Row("TopK", "k = Constant<value_ints = [3]>() b, i = TopK<axis = 3>(a, k)"),
    Row("TopK", "k = Constant<value_ints = [3]>() b, i = TopK<axis = 1>(a, k)", 3, 0, reason="runs over its channels"),
    Row("CumSum", "k = Constant<value_int = 2>() b = CumSum(a, k)"),
    Row("CumSum", "k = Constant<value_int = 1>() b = CumSum(a, k)", 8, 0, reason="runs over its channels"),
    Row("Conv", "b = Conv<group = 8, pads = [1, 1, 1, 1]>(a, W3, B3)", weights="float[8,1,3,3] W3, float[8] B3"),
    Row("Conv", "b = Conv<group = 8>(a, W3)", 16, weights="float[16,1,3,3] W3"),
    Row("Conv", "b = Conv<group = 2>(a, W3, B3)", 12, 2, "float[12,4,3,3] W3, float[12] B3"),
    Row("Conv", "b = Conv(a, w)", 4, 0, "float[4,8,1,1] w", reason="not a plain constant"),
    Row("ConvTranspose", "b = ConvTranspose<strides = [2, 2]>(a, W3, B3)", 6, 2, "float[8,6,2,2] W3, float[6] B3"),
    Row("ConvTranspose", "b = ConvTranspose<group = 2>(a, W3)", 12, 2, "float[8,6,2,2] W3"),
    Row("ConvTranspose", "b = ConvTranspose<group = 8>(a, W3)", 8, 1, "float[8,1,2,2] W3"),
    Row("Gemm", "f = Flatten(a) h = Gemm<transB = 1>(f, W3, B3) s = Constant<value_ints = [1, 10, 1, 1]>()"
        " b = Reshape(h, s)", 10, 2, "float[10,288] W3, float[10] B3"),
    Row("MatMul", "f = Flatten(a) h = MatMul(f, W3) s = Constant<value_ints = [1, 10, 1, 1]>() b = Reshape(h, s)",
        10, 2, "float[288,10] W3"),
    Row("MatMul", "t = Transpose<perm = [0, 2, 3, 1]>(a) h = MatMul(t, W3) i = Add(h, B3)"
        " j = Relu(i) b = Transpose<perm = [0, 3, 1, 2]>(j)", 10, 2, "float[8,10] W3, float[10] B3"),
    Row("MatMul", "t = Transpose<perm = [0, 1, 3, 2]>(a) b = MatMul(a, t)"),  # each channel by itself
    Row("MatMul", "t = Transpose<perm = [0, 2, 3, 1]>(a) k = Transpose<perm = [0, 2, 1, 3]>(a) b = MatMul(t, k)", 6, 0,
        reason="sums over its channels"),
    Row("MatMul", "t = Transpose<perm = [0, 2, 3, 1]>(a) k = Transpose<perm = [0, 2, 1, 3]>(m) b = MatMul(t, k)", 6, 0,
        "float[1,8,6,6] m", reason="sums over its channels"),
    Row("MatMul", f"{SCORES} v = Reshape(a, s) o = MatMul(v, e) b = Reshape(o, r)", weights="float[8,3,3,3] W3"),
    Row("MatMul", f"c = Conv(a, W4) {SCORES} d = Concat<axis = 1>(c, c) z = Constant<value_ints = [1, 2, 8, 36]>()"
        " f = Reshape(d, z) g, v = Split<axis = 2, num_outputs = 2>(f) o = MatMul(v, e) b = Reshape(o, r)",
        weights="float[8,3,3,3] W3, float[8,8,1,1] W4", groups=3),
    Row("Einsum", f"{GATE} b = Einsum<equation = \"nchw,nc->nchw\">(a, w)", weights="float[8,8] W3"),
    Row("Einsum", f"{GATE} b = Einsum<equation = \"nchw,nc->nwch\">(a, w)", 6, 0, "float[8,8] W3", reason="axis"),
    Row("Einsum", f"{GATE} q = Einsum<equation = \"nchw,nc->nhw\">(a, w) k = Constant<value_ints = [1]>()"
        " b = Unsqueeze(q, k)", 1, 0, "float[8,8] W3", reason="sums over its channels"),
    Row("Einsum", "b = Einsum<equation = \"...\">(a)", 8, 0, reason="cannot be followed"),
    Row("Attention", f"{SCORES} v = Reshape(a, s) k = Transpose<perm = [0, 1, 3, 2]>(v) o = Attention(q, q, k)"
        " t = Transpose<perm = [0, 1, 3, 2]>(o) b = Reshape(t, r)", weights="float[8,3,3,3] W3", opset=23),
    Row("Attention", f"{ROWS_OF_POINTS} u = Attention<q_num_heads = 2, kv_num_heads = 2>(k, k, v)"
        " t = Transpose<perm = [0, 2, 1]>(u) b = Reshape(t, r)", weights="float[8,3,3,3] W3", opset=23),
    Row("Attention", f"{ROWS_OF_POINTS} u = Attention<q_num_heads = 2, kv_num_heads = 2>(v, k, v)"
        " t = Transpose<perm = [0, 2, 1]>(u) b = Reshape(t, r)", 8, 0, "float[8,3,3,3] W3", 23, "compares them"),
    Row("BatchNormalization", "p = Relu(a) b = BatchNormalization(p, S, B3, M, V)",
        weights="float[8] S, float[8] B3, float[8] M, float[8] V"),
    Row("InstanceNormalization", "b = InstanceNormalization(a, S, B3)", weights="float[8] S, float[8] B3"),
    Row("GroupNormalization", "b = GroupNormalization<num_groups = 4>(a, S, B3)", weights="float[8] S, float[8] B3"),
    Row("LayerNormalization", "b = LayerNormalization<axis = 2>(a, S)", weights="float[6,6] S"),
    Row("LayerNormalization", "b = LayerNormalization<axis = 1>(a, S)", 8, 0, "float[8,6,6] S", reason="together"),
    Row("MeanVarianceNormalization", "b = MeanVarianceNormalization(a)"),
    Row("MeanVarianceNormalization", "b = MeanVarianceNormalization<axes = [1]>(a)", 8, 0, reason="over its channels"),
    Row("LRN", "b = LRN<size = 1>(a)"),
    Row("Concat", "c = Conv(x, W3) d = Relu(a) b = Concat<axis = 1>(d, c)", 13, 2, "float[5,3,3,3] W3"),
    Row("Concat", "c = Conv(x, W3) b = Concat<axis = 2>(a, c)", 8, 1, "float[8,3,3,3] W3"),
    Row("Concat", "b = Concat<axis = 1>(a, m)", 10, 1, "float[1,2,6,6] m"),
    Row("Concat", "b = Concat<axis = -1>(a, m)", 8, 0, "float[1,8,6,2] m", reason="joined with"),
    Row("Split", "p, q = Split<axis = 1, num_outputs = 2>(a) r = Sigmoid(p) b = Mul(q, r)", 4),
    Row("Split", "n = Constant<value_ints = [2, 6]>() p, q = Split<axis = 1>(a, n) r = Conv(p, W3)"
        " t = Conv(q, W4) b = Add(r, t)", 4, 3, "float[4,2,1,1] W3, float[4,6,1,1] W4"),
    Row("Split", "p, q = Split<axis = 2, num_outputs = 2>(a) b = Add(p, q)"),
    Row("Slice", "s = Constant<value_ints = [2]>() e = Constant<value_ints = [1000]>() k = Constant<value_ints = [1]>()"
        " p = Slice(a, s, e, k) b = Relu(p)", 6, 2),
    Row("Slice", "s = Constant<value_ints = [0, 1]>() e = Constant<value_ints = [5, 8]>()"
        " k = Constant<value_ints = [2, 1]>() b = Slice(a, s, e, k)", 7, 1),
    Row("Gather", "i = Constant<value_ints = [6, 1, 0, 5, 3]>() b = Gather<axis = 1>(a, i)", 5, 2),
    Row("Gather", "i = Constant<value_ints = [2, 4]>() b = Gather<axis = 2>(a, i)"),
    Row("Gather", "i = Constant<value_int = 3>() j = Constant<value_ints = [1]>() p = Gather<axis = 1>(a, i)"
        " b = Unsqueeze(p, j)", 1),
    Row("Slice", "s = Constant<value_ints = [0]>() e = Constant<value_ints = [8]>() k = Constant<value_ints = [1]>()"
        " t = Constant<value_ints = [2]>() b = Slice(a, s, e, k, t)", 4, 2),
    Row("Slice", "s = Constant<value_ints = [-1]>() e = Constant<value_ints = [-9223372036854775807]>()"
        " k = Constant<value_ints = [1]>() t = Constant<value_ints = [-1]>() b = Slice(a, s, e, k, t)", 8),
    Row("Slice", "s = Constant<value_ints = [1, 0]>() e = Constant<value_ints = [8, 5]>()"
        " k = Constant<value_ints = [1, 3]>() t = Constant<value_ints = [3, 2]>() b = Slice(a, s, e, k, t)", 3, 2),
    Row("Slice", "b = Slice<axes = [1, 2], starts = [3, 0], ends = [1000, 4]>(a)", 5, 2, opset=9),
    Row("Slice", "n = Shape(a) i = Constant<value_ints = [1]>() c = Gather(n, i) t = Constant<value_ints = [2]>()"
        " h = Div(c, t) o = Constant<value_ints = [0]>() p = Slice(a, o, h, i) q = Slice(a, h, c, i)"
        " r = Sigmoid(q) b = Mul(p, r)", 4),
    Row("Pad", "b = Pad<pads = [0, 2, 0, 0, 0, 1, 0, 0]>(a)", 11, 1, opset=10),
    Row("Transpose", "p = Transpose<perm = [0, 2, 3, 1]>(a) r = Add(p, S) q = CastLike(r, r)"
        " b = Transpose<perm = [0, 3, 1, 2]>(q)", weights="float[8] S"),
    Row("Reshape", "s = Constant<value_ints = [0, 4, 2, 6, 6]>() t = Constant<value_ints = [0, -1, 6, 6]>()"
        " p = Reshape(a, s) q = Transpose<perm = [0, 2, 1, 3, 4]>(p) b = Reshape(q, t)", 8),
    Row("Reshape", "s = Constant<value_ints = [1, 2, 4, 6, 6]>() t = Constant<value_ints = [1, 8, 6, 6]>()"
        " p = Reshape(a, s) q = Transpose<perm = [0, 2, 1, 3, 4]>(p) b = Reshape(q, t)", 8),
    Row("Reshape", "n = Shape(a) i = Constant<value_ints = [0]>() j = Gather(n, i)"
        " c = Constant<value_ints = [8]>() d = Constant<value_ints = [36, 1]>() s = Concat<axis = 0>(j, c, d)"
        " b = Reshape(a, s)", 8),
    Row("Flatten", "f = Flatten(a) s = Constant<value_ints = [1, 288, 1, 1]>() b = Reshape(f, s)", 288),
    Row("Squeeze", "p = GlobalMaxPool(a) k = Constant<value_ints = [2, 3]>() q = Squeeze(p, k) r = CastLike(q, q)"
        " b = Unsqueeze(r, k)"),
    Row("Unsqueeze", "k = Constant<value_ints = [0]>() p = Unsqueeze(a, k) r = Relu(p) b = Squeeze(r, k)"),
    Row("Expand", "p = GlobalMaxPool(a) s = Constant<value_ints = [1, 8, 5, 5]>() b = Expand(p, s)"),
    Row("Expand", "p = GlobalMaxPool(a) s = Shape(a) b = Expand(p, s)"),
    Row("Tile", "s = Constant<value_ints = [1, 1, 2, 2]>() b = Tile(a, s)"),
    Row("Tile", "s = Constant<value_ints = [1, 2, 1, 1]>() b = Tile(a, s)", 16, 0, reason="repeated by Tile"),
    Row("Pad", "s = Constant<value_ints = [0, 0, 1, 1, 0, 0, 1, 1]>() b = Pad<mode = \"reflect\">(a, s)"),
    Row("Pad", "s = Constant<value_ints = [0, 1, 0, 0, 0, 3, 0, 0]>() c = Conv(x, W3) p = Pad(a, s) b = Add(p, c)",
        12, 2, "float[12,3,3,3] W3"),
    Row("Resize", "s = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() b = Resize(a, , s)"),
    Row("Resize", "s = Constant<value_ints = [1, 8, 9, 9]>() b = Resize(a, , , s)"),
    Row("Upsample", "s = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() b = Upsample(a, s)", opset=9),
    Row("DepthToSpace", "b = DepthToSpace<blocksize = 2>(a)", 2),
    Row("DepthToSpace", "b = DepthToSpace<blocksize = 2, mode = \"CRD\">(a)", 2),
    Row("SpaceToDepth", "b = SpaceToDepth<blocksize = 2>(a)", 32),
    Row("Shape", "s = Shape(a) b = Reshape(a, s)"),
    Row("Shape", "s = Shape(a) i = Constant<value_int = 1>() n = Gather(s, i) c = Cast<to = 1>(n) b = Div(a, c)", 8, 0,
        reason="number of its channels"),
    Row("Size", "n = Size(a) c = Cast<to = 1>(n) b = Div(a, c)", 8, 0, reason="number of its channels"),
    Row("QuantizeLinear", "s = Constant<value_float = 0.1>() q = QuantizeLinear(a, s) b = DequantizeLinear(q, s)", 8, 0,
        reason="already quantized"),
    Row("DequantizeLinear", "s = Constant<value_float = 0.1>() q = Cast<to = 3>(a) b = DequantizeLinear(q, s)", 8, 0,
        reason="already quantized"),
    Row("Crop", "b = Crop<border = [1, 1, 1, 1]>(a)", opset=7),
    Row("Affine", "b = Affine<alpha = 2.0, beta = 1.0>(a)", opset=7),
]  # fmt: skip
COUNTING = {"Shape", "Size"}  # they have no rule: what comes out is numbers
NOT_RUN = set(QUANTIZED) - {"QuantizeLinear", "DequantizeLinear"}


def test_every_rule_has_a_row() -> None:
    assert {row.op for row in ROWS} | NOT_RUN == set(CHANNEL_RULES) | COUNTING


@pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{row.op}" for i, row in enumerate(ROWS)])
@pytest.mark.parametrize("ratio", [0.5, 0.95])
def test_dead_channels_go_without_a_change(row: Row, ratio: float) -> None:
    weights = f", {row.weights}" if row.weights else ""
    model = small_model(
        f"""g (float[1,3,8,8] x, float[8,3,3,3] W1, float[8] B1, float[2,{row.channels},1,1] W2{weights})
            => (float[a,b,c,d] y) {{ a = Conv(x, W1, B1) {row.body} y = Conv(b, W2) }}""",
        row.opset,
    )
    network = read(model)
    assert row.op in TAKEN_OUT or any(node.op == row.op for node in network.graph.nodes)
    channels = find_groups(network)
    assert len(channels.groups) == row.groups, [(g.name, g.channels) for g in channels.groups]
    reasons = {skip.node: skip.reason for skip in channels.skips}
    assert row.reason in reasons.get("n0", "") if row.reason else "n0" not in reasons
    keep = {group.name: largest(network, group, ratio) for group in channels.groups}
    dead = kill(network, channels, keep)
    pruned = prune(dead, channels, keep)
    for group in channels.groups:
        for layer in group.producers:
            assert len(pruned.kept_out[layer]) < network.layers[layer].out_channels
    feeds = random_feeds(dead.to_model(), channels.shapes.sizes)
    (before,), (after,) = outputs(dead.to_model(), feeds), outputs(pruned.network.to_model(), feeds)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
