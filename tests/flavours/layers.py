"""How convolutions, sums, pooling and dense layers are spelled."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from tests.flavours.editing import Array, Editor, Flavour, Rule, by

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


# convolutions
def _around(edit: Editor) -> None:
    """Transposes around every convolution that cancel each other."""
    x = edit.put("Transpose", [edit.put("Transpose", [edit.node.input[0]], perm=TO_LAST)], perm=TO_FIRST)
    y = edit.again([x, *edit.node.input[1:]])
    edit.last("Transpose", [edit.put("Transpose", [y], perm=TO_LAST)], perm=TO_FIRST)


def _pad_node(edit: Editor) -> None:
    pads = edit.attribute("pads", [0] * 4)
    if not any(pads):
        return
    n = len(pads) // 2
    wide = edit.ints(0, 0, *pads[:n], 0, 0, *pads[n:])
    edit.again(
        [edit.put("Pad", [edit.node.input[0], wide, edit.keep(np.float32(0))]), *edit.node.input[1:]],
        edit.node.output[0],
        pads=None,
    )


def _pad_computed(edit: Editor) -> None:
    """PyTorch's F.pad: the list is turned around in nodes."""
    pads = edit.attribute("pads", [0] * 4)
    if not any(pads):
        return
    n = len(pads) // 2
    order = [p for i in reversed(range(n)) for p in (pads[i], pads[i + n])]
    pairs = edit.put(
        "Reshape", [edit.put("Concat", [edit.ints(*order), edit.ints(0, 0, 0, 0)], axis=0), edit.ints(-1, 2)]
    )
    flipped = edit.put("Slice", [pairs, edit.ints(-1), edit.ints(-(2**63) + 1), edit.ints(0), edit.ints(-1)])
    wide = edit.put("Reshape", [edit.put("Transpose", [flipped], perm=[1, 0]), edit.ints(-1)])
    edit.again([edit.put("Pad", [edit.node.input[0], wide]), *edit.node.input[1:]], edit.node.output[0], pads=None)


def _pad_last(edit: Editor) -> None:
    """Padded while channels are last."""
    pads = edit.attribute("pads", [0] * 4)
    if not any(pads):
        return
    wide = edit.ints(0, *pads[:2], 0, 0, *pads[2:], 0)
    x = edit.put("Pad", [edit.put("Transpose", [edit.node.input[0]], perm=TO_LAST), wide])
    edit.again([edit.put("Transpose", [x], perm=TO_FIRST), *edit.node.input[1:]], edit.node.output[0], pads=None)


def _same(edit: Editor) -> None:
    pads, strides = edit.attribute("pads", [0] * 4), edit.attribute("strides", [1, 1])
    kernel = edit.value(edit.node.input[1]).shape[2:]
    sizes = edit.shapes[edit.node.input[0]][2:]
    want = []
    for n, k, s in zip(sizes, kernel, strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        want.append((total // 2, total - total // 2))
    upper = [w[0] for w in want] + [w[1] for w in want]
    lower = [w[1] for w in want] + [w[0] for w in want]
    if pads not in (upper, lower):
        return
    edit.again(
        list(edit.node.input), edit.node.output[0], pads=None, auto_pad="SAME_UPPER" if pads == upper else "SAME_LOWER"
    )


def _valid(edit: Editor) -> None:
    if any(edit.attribute("pads", [0] * 4)):
        return
    edit.again(list(edit.node.input), edit.node.output[0], pads=None, auto_pad="VALID")


def _bare(edit: Editor) -> None:
    """Without what is the default or follows from the weight."""
    defaults = {"dilations": [1, 1], "strides": [1, 1], "pads": [0] * 4, "group": 1, "auto_pad": b"NOTSET"}
    drop = {k: None for k, v in defaults.items() if edit.attribute(k) == v}
    edit.again(list(edit.node.input), edit.node.output[0], kernel_shape=None, **drop)


def _halves(edit: Editor) -> None:
    """Two convolutions of half of the channels each, and Concat."""
    W = edit.value(edit.node.input[1])
    if edit.attribute("group", 1) != 1 or len(W) < 4:
        return
    n = len(W) // 2
    parts = []
    for s in (slice(None, n), slice(n, None)):
        bias = [edit.keep(edit.value(b)[s]) for b in edit.node.input[2:3]]
        parts.append(edit.again([edit.node.input[0], edit.keep(W[s]), *bias]))
    edit.last("Concat", parts, axis=1)


def _pointwise(edit: Editor) -> None:
    """1 x 1 convolutions as MatMul, channels last."""
    W = edit.value(edit.node.input[1])
    if W.shape[2:] != (1, 1) or edit.attribute("group", 1) != 1 or any(edit.attribute("pads", [0] * 4)):
        return
    x, (s, t) = edit.node.input[0], edit.attribute("strides", [1, 1])
    if (s, t) != (1, 1):
        x = edit.put("Slice", [x, edit.ints(0, 0), edit.ints(2**31, 2**31), edit.ints(2, 3), edit.ints(s, t)])
    y = edit.put("MatMul", [edit.put("Transpose", [x], perm=TO_LAST), edit.keep(W[:, :, 0, 0].T)])
    if len(edit.node.input) > 2:
        y = edit.put("Add", [y, edit.node.input[2]])
    edit.last("Transpose", [y], perm=TO_FIRST)


def _volume(edit: Editor) -> None:
    """As a convolution over three axes."""
    W = edit.value(edit.node.input[1])
    x = edit.put("Unsqueeze", [edit.node.input[0], edit.ints(2)])
    pads = edit.attribute("pads", [0] * 4)
    y = edit.again(
        [x, edit.keep(W[:, :, None]), *edit.node.input[2:]], kernel_shape=[1, *W.shape[2:]],
        pads=[0, *pads[:2], 0, *pads[2:]], strides=[1, *edit.attribute("strides", [1, 1])],
        dilations=[1, *edit.attribute("dilations", [1, 1])],
    )  # fmt: skip
    edit.last("Squeeze", [y, edit.ints(2)])


# sums
def _sum(edit: Editor) -> None:
    edit.last("Sum", list(edit.node.input))


def _swapped(edit: Editor) -> None:
    edit.last("Add", list(edit.node.input)[::-1])


def _minus(edit: Editor) -> None:
    edit.last("Sub", [edit.node.input[0], edit.put("Neg", [edit.node.input[1]])])


def _identity(edit: Editor) -> None:
    edit.last("Add", [edit.put("Identity", [n]) for n in edit.node.input])


def _times_one(edit: Editor) -> None:
    edit.last("Add", [edit.node.input[0], edit.put("Mul", [edit.node.input[1], edit.keep(np.float32(1))])])


def _times_one_first(edit: Editor) -> None:
    edit.last("Add", [edit.put("Mul", [edit.keep(np.float32(1)), edit.node.input[0]]), edit.node.input[1]])


def _plus_zero(edit: Editor) -> None:
    edit.last("Sum", [*edit.node.input, edit.keep(np.zeros((1, 1, 1, 1)))])


def _mean2(edit: Editor) -> None:
    edit.last("Mul", [edit.put("Mean", list(edit.node.input)), edit.keep(np.float32(2))])


def _stacked(edit: Editor) -> None:
    """torch.stack(...).sum(0)."""
    both = edit.put("Concat", [edit.put("Unsqueeze", [n, edit.ints(0)]) for n in edit.node.input], axis=0)
    edit.last("ReduceSum", [both, edit.ints(0)], keepdims=0)


def _last_sum(edit: Editor) -> None:
    """Summed with channels last."""
    both = [edit.put("Transpose", [n], perm=TO_LAST) for n in edit.node.input]
    edit.last("Transpose", [edit.put("Add", both)], perm=TO_FIRST)


# pooling over everything
def _mean(axes: list[int], keep: bool, edit: Editor) -> None:
    if keep:
        edit.last("ReduceMean", [edit.node.input[0]], axes=axes, keepdims=1)
    else:
        edit.last("Unsqueeze", [edit.put("ReduceMean", [edit.node.input[0]], axes=axes, keepdims=0), edit.ints(2, 3)])


def _mean_twice(edit: Editor) -> None:
    x = edit.put("ReduceMean", [edit.node.input[0]], axes=[3], keepdims=1)
    edit.last("ReduceMean", [x], axes=[2], keepdims=1)


def _mean_flat(edit: Editor) -> None:
    x = edit.put("Reshape", [edit.node.input[0], edit.ints(0, 0, -1)])
    edit.last("Unsqueeze", [edit.put("ReduceMean", [x], axes=[2], keepdims=0), edit.ints(2, 3)])


def _mean_flat_computed(edit: Editor) -> None:
    size = edit.put("Shape", [edit.node.input[0]])
    first = edit.put("Slice", [size, edit.ints(0), edit.ints(2), edit.ints(0)])
    x = edit.put("Reshape", [edit.node.input[0], edit.put("Concat", [first, edit.ints(-1)], axis=0)])
    edit.last("Unsqueeze", [edit.put("ReduceMean", [x], axes=[-1], keepdims=1), edit.ints(3)])


def _whole_pool(edit: Editor) -> None:
    edit.last("AveragePool", [edit.node.input[0]], kernel_shape=edit.shapes[edit.node.input[0]][2:])


def _sum_over(edit: Editor) -> None:
    h, w = edit.shapes[edit.node.input[0]][2:]
    total = edit.put("ReduceSum", [edit.node.input[0], edit.ints(2, 3)], keepdims=1)
    edit.last("Div", [total, edit.keep(np.float32(h * w))])


def _mean_last(edit: Editor) -> None:
    x = edit.put("ReduceMean", [edit.put("Transpose", [edit.node.input[0]], perm=TO_LAST)], axes=[1, 2], keepdims=0)
    edit.last("Unsqueeze", [x, edit.ints(2, 3)])


def _ones_matmul(edit: Editor) -> None:
    """Mean as a product with a column of 1/n."""
    h, w = edit.shapes[edit.node.input[0]][2:]
    x = edit.put(
        "MatMul",
        [edit.put("Reshape", [edit.node.input[0], edit.ints(0, 0, -1)]), edit.keep(np.full((h * w, 1), 1 / (h * w)))],
    )
    edit.last("Unsqueeze", [x, edit.ints(3)])


# flattening
def _flatten_computed(edit: Editor) -> None:
    batch = edit.put("Gather", [edit.put("Shape", [edit.node.input[0]]), edit.keep(0, np.int64)], axis=0)
    shape = edit.put("Concat", [edit.put("Unsqueeze", [batch, edit.ints(0)]), edit.ints(-1)], axis=0)
    edit.last("Reshape", [edit.node.input[0], shape])


def _flatten_counted(edit: Editor) -> None:
    x = edit.node.input[0]
    sizes = edit.put("Shape", [x])
    parts = [edit.put("Gather", [sizes, edit.ints(i)], axis=0) for i in range(4)]
    size = edit.put("Mul", [edit.put("Mul", [parts[1], parts[2]]), parts[3]])
    edit.last("Reshape", [x, edit.put("Concat", [parts[0], size], axis=0)])


def _flatten_keras(edit: Editor) -> None:
    """tf2onnx: Reshape to (-1, C)."""
    edit.last("Reshape", [edit.node.input[0], edit.ints(-1, int(np.prod(edit.shapes[edit.node.input[0]][1:])))])


def _flatten_squeeze(edit: Editor) -> None:
    edit.last("Squeeze", [edit.node.input[0], edit.ints(2, 3)])


def _flatten_squeezes(edit: Editor) -> None:
    edit.last("Squeeze", [edit.put("Squeeze", [edit.node.input[0], edit.ints(3)]), edit.ints(2)])


def _flatten_gather(edit: Editor) -> None:
    """x[:, :, 0, 0]."""
    x = edit.put("Gather", [edit.node.input[0], edit.keep(0, np.int64)], axis=3)
    edit.last("Gather", [x, edit.keep(0, np.int64)], axis=2)


def _flatten_last(edit: Editor) -> None:
    x = edit.put("Transpose", [edit.node.input[0]], perm=TO_LAST)
    edit.last("Reshape", [x, edit.ints(-1, edit.shapes[edit.node.input[0]][1])])


def _flatten_product(edit: Editor) -> None:
    """tf: the size as ReduceProd of a Slice of the shape, in int32."""
    sizes = edit.put("Cast", [edit.put("Shape", [edit.node.input[0]])], to=onnx.TensorProto.INT32)
    rest = edit.put("Slice", [sizes, edit.ints(1), edit.ints(4), edit.ints(0)])
    size = edit.put("ReduceProd", [rest], axes=[0], keepdims=1)
    shape = edit.put("Concat", [edit.keep([-1], np.int32), size], axis=0)
    edit.last("Reshape", [edit.node.input[0], edit.put("Cast", [shape], to=onnx.TensorProto.INT64)])


# dense layers
def _dense(edit: Editor) -> tuple[str, Array, Array]:
    """Input, weight (I, O) and bias."""
    W = edit.value(edit.node.input[1])
    W = W.T if edit.attribute("transB", 0) else W
    return edit.node.input[0], W, edit.value(edit.node.input[2])


def _matmul(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Add", [edit.put("MatMul", [x, edit.keep(W)]), edit.keep(b)])


def _matmul_first(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Add", [edit.keep(b[None]), edit.put("MatMul", [x, edit.keep(W)])])


def _matmul_transposed(edit: Editor) -> None:
    x, W, b = _dense(edit)
    w = edit.put("Transpose", [edit.keep(W.T)], perm=[1, 0])
    edit.last("Add", [edit.put("MatMul", [x, w]), edit.keep(b)])


def _matmul_left(edit: Editor) -> None:
    """W x^T."""
    x, W, b = _dense(edit)
    y = edit.put("MatMul", [edit.keep(W.T), edit.put("Transpose", [x], perm=[1, 0])])
    edit.last("Add", [edit.put("Transpose", [y], perm=[1, 0]), edit.keep(b)])


def _matmul_batched(edit: Editor) -> None:
    """x as (N, 1, I)."""
    x, W, b = _dense(edit)
    y = edit.put("Add", [edit.put("MatMul", [edit.put("Unsqueeze", [x, edit.ints(1)]), edit.keep(W)]), edit.keep(b)])
    edit.last("Squeeze", [y, edit.ints(1)])


def _matmul_3d(edit: Editor) -> None:
    """The weight as (1, I, O)."""
    x, W, b = _dense(edit)
    y = edit.put(
        "Add", [edit.put("MatMul", [edit.put("Unsqueeze", [x, edit.ints(1)]), edit.keep(W[None])]), edit.keep(b)]
    )
    edit.last("Squeeze", [y, edit.ints(1)])


def _einsum(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Add", [edit.put("Einsum", [x, edit.keep(W.T)], equation="bi,oi->bo"), edit.keep(b)])


def _gemm_plain(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Gemm", [x, edit.keep(W), edit.keep(b)])


def _gemm_scaled(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Gemm", [x, edit.keep(W * 2), edit.keep(b[None] * 4)], alpha=0.5, beta=0.25)


def _gemm_unbiased(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Add", [edit.put("Gemm", [x, edit.keep(W.T)], transB=1), edit.keep(b)])


def _gemm_zero(edit: Editor) -> None:
    """ONNX of old: the bias is 0 and stands behind."""
    x, W, b = _dense(edit)
    edit.last("Add", [edit.put("Gemm", [x, edit.keep(W.T), edit.keep(np.zeros(len(b)))], transB=1), edit.keep(b)])


def _gemm_trans_a(edit: Editor) -> None:
    x, W, b = _dense(edit)
    edit.last("Gemm", [edit.put("Transpose", [x], perm=[1, 0]), edit.keep(W), edit.keep(b)], transA=1)


def _dense_conv(edit: Editor) -> None:
    x, W, b = _dense(edit)
    y = edit.put("Conv", [edit.put("Unsqueeze", [x, edit.ints(2, 3)]), edit.keep(W.T[:, :, None, None]), edit.keep(b)])
    edit.last("Flatten", [y])


def _dense_scaled(edit: Editor) -> None:
    """Logits by a temperature."""
    x, W, b = _dense(edit)
    y = edit.put("Gemm", [x, edit.keep(W * 4), edit.keep(b * 4)])
    edit.last("Div", [y, edit.keep(np.float32(4))])


RULES: dict[str, dict[str, Rule]] = {
    "Conv": {
        "conv_around": _around,
        "conv_pad": _pad_node,
        "conv_pad_computed": _pad_computed,
        "conv_pad_last": _pad_last,
        "conv_same": _same,
        "conv_valid": _valid,
        "conv_bare": _bare,
        "conv_halves": _halves,
        "conv_pointwise": _pointwise,
        "conv_volume": _volume,
    },
    "Add": {
        "add_sum": _sum,
        "add_swapped": _swapped,
        "add_minus": _minus,
        "add_identity": _identity,
        "add_one": _times_one,
        "add_one_first": _times_one_first,
        "add_zero": _plus_zero,
        "add_mean": _mean2,
        "add_stacked": _stacked,
        "add_last": _last_sum,
    },
    "GlobalAveragePool": {
        "gap_mean": partial(_mean, [2, 3], True),
        "gap_mean_negative": partial(_mean, [-1, -2], True),
        "gap_mean_dropped": partial(_mean, [2, 3], False),
        "gap_mean_dropped_negative": partial(_mean, [-2, -1], False),
        "gap_twice": _mean_twice,
        "gap_flat": _mean_flat,
        "gap_flat_computed": _mean_flat_computed,
        "gap_pool": _whole_pool,
        "gap_sum": _sum_over,
        "gap_last": _mean_last,
        "gap_matmul": _ones_matmul,
    },
    "Flatten": {
        "flatten_computed": _flatten_computed,
        "flatten_counted": _flatten_counted,
        "flatten_keras": _flatten_keras,
        "flatten_squeeze": _flatten_squeeze,
        "flatten_squeezes": _flatten_squeezes,
        "flatten_gather": _flatten_gather,
        "flatten_last": _flatten_last,
        "flatten_product": _flatten_product,
    },
    "Gemm": {
        "dense_matmul": _matmul,
        "dense_matmul_first": _matmul_first,
        "dense_matmul_transposed": _matmul_transposed,
        "dense_left": _matmul_left,
        "dense_batched": _matmul_batched,
        "dense_3d": _matmul_3d,
        "dense_einsum": _einsum,
        "dense_gemm": _gemm_plain,
        "dense_alpha": _gemm_scaled,
        "dense_unbiased": _gemm_unbiased,
        "dense_zero": _gemm_zero,
        "dense_trans_a": _gemm_trans_a,
        "dense_conv": _dense_conv,
        "dense_scaled": _dense_scaled,
    },
}


SPELLINGS: dict[str, Flavour] = {
    name: partial(by, op, rule) for op, rules in RULES.items() for name, rule in rules.items()
}
