"""Gradients of what is computed value by value, of sums and products, norms and softmax, as nodes of a graph.

A rule gives for a node and the gradients at its outputs those at its inputs, by the input's number; one that is not in
it has none (shapes, indices). None in place of all: the rule does not know this form of the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx

from onnx_udfc.model.protos import attribute
from onnx_udfc.runtime.tape import Tape

Given = Sequence[str | None]
Slopes = dict[int, str] | None
Rule = Callable[[Tape, onnx.NodeProto, Given], Slopes]


def _by_value(slope: Callable[[Tape, onnx.NodeProto], str]) -> Rule:
    """The rule of a function of each value; `slope` writes its derivative."""

    def rule(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
        return {0: tape.op("Mul", str(given[0]), slope(tape, node))}

    return rule


def _passes(tape: Tape, condition: str) -> str:
    return tape.op("Cast", condition, to=onnx.TensorProto.FLOAT)


def _relu(tape: Tape, node: onnx.NodeProto) -> str:
    return _passes(tape, tape.op("Greater", node.output[0], tape.number(0)))


def _clip(tape: Tape, node: onnx.NodeProto) -> str:
    return _passes(tape, tape.op("Equal", node.input[0], node.output[0]))


def _leaky(tape: Tape, node: onnx.NodeProto) -> str:
    positive, slope = tape.op("Greater", node.input[0], tape.number(0)), tape.number(attribute(node, "alpha", 0.01))
    return tape.op("Where", positive, tape.number(1), slope)


def _prelu(tape: Tape, node: onnx.NodeProto) -> str:
    return tape.op("Where", tape.op("Greater", node.input[0], tape.number(0)), tape.number(1), node.input[1])


def _sigmoid(tape: Tape, node: onnx.NodeProto) -> str:
    y = node.output[0]
    return tape.op("Mul", y, tape.op("Sub", tape.number(1), y))


def _tanh(tape: Tape, node: onnx.NodeProto) -> str:
    y = node.output[0]
    return tape.op("Sub", tape.number(1), tape.op("Mul", y, y))


def _hard_sigmoid(tape: Tape, node: onnx.NodeProto) -> str:
    y = node.output[0]
    inside = tape.op("And", tape.op("Greater", y, tape.number(0)), tape.op("Less", y, tape.number(1)))
    return tape.op("Mul", _passes(tape, inside), tape.number(attribute(node, "alpha", 0.2)))


def _hard_swish(tape: Tape, node: onnx.NodeProto) -> str:
    x = node.input[0]
    between = tape.op("Add", tape.op("Mul", x, tape.number(1 / 3)), tape.number(0.5))
    upper = tape.op("Where", tape.op("Less", x, tape.number(3)), between, tape.number(1))
    return tape.op("Where", tape.op("Greater", x, tape.number(-3)), upper, tape.number(0))


def _elu(tape: Tape, node: onnx.NodeProto) -> str:
    below = tape.op("Add", node.output[0], tape.number(attribute(node, "alpha", 1.0)))
    return tape.op("Where", tape.op("Greater", node.input[0], tape.number(0)), tape.number(1), below)


def _normal_density(tape: Tape, x: str) -> str:
    """exp(−x² / 2) / √(2 π)."""
    power = tape.op("Mul", tape.op("Mul", x, x), tape.number(-0.5))
    return tape.op("Mul", tape.op("Exp", power), tape.number(1 / math.sqrt(2 * math.pi)))


def _erf(tape: Tape, node: onnx.NodeProto) -> str:
    x = tape.op("Mul", node.input[0], tape.number(math.sqrt(2)))
    return tape.op("Mul", _normal_density(tape, x), tape.number(2 * math.sqrt(2)))


def _gelu(tape: Tape, node: onnx.NodeProto) -> str:
    """Φ(x) + x φ(x); of its form by tanh, too, from which it differs by a thousandth."""
    x = node.input[0]
    erf = tape.op("Erf", tape.op("Mul", x, tape.number(math.sqrt(0.5))))
    below = tape.op("Mul", tape.op("Add", erf, tape.number(1)), tape.number(0.5))
    return tape.op("Add", below, tape.op("Mul", x, _normal_density(tape, x)))


def _mish(tape: Tape, node: onnx.NodeProto) -> str:
    x = node.input[0]
    t = tape.op("Tanh", tape.op("Softplus", x))
    rest = tape.op("Mul", tape.op("Sub", tape.number(1), tape.op("Mul", t, t)), tape.op("Sigmoid", x))
    return tape.op("Add", t, tape.op("Mul", x, rest))


def _half_over(tape: Tape, node: onnx.NodeProto) -> str:
    return tape.op("Div", tape.number(0.5), node.output[0])


def _minus_square(tape: Tape, node: onnx.NodeProto) -> str:
    return tape.op("Neg", tape.op("Mul", node.output[0], node.output[0]))


def _broadcast(tape: Tape, node: onnx.NodeProto, given: str, number: int) -> str | None:
    """The gradient at an operand that may have been repeated."""
    tensor, result = node.input[number], node.output[0]
    if tensor not in tape.sizes or result not in tape.sizes:
        return None
    return tape.summed_to(given, tape.sizes[result], tensor)


def _operands(tape: Tape, node: onnx.NodeProto, values: Sequence[str]) -> Slopes:
    """Gradients at operands, each still in the shape of the result."""
    found: dict[int, str] = {}
    for number, value in enumerate(values):
        if node.input[number] in tape.constants:
            continue
        summed = _broadcast(tape, node, value, number)
        if summed is None:
            return None
        found[number] = summed
    return found


def _sum(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    return _operands(tape, node, [str(given[0])] * len(node.input))


def _difference(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    return _operands(tape, node, [str(given[0]), tape.op("Neg", str(given[0]))])


def _product(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    return _operands(tape, node, [tape.op("Mul", str(given[0]), node.input[1 - i]) for i in range(2)])


def _quotient(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    above = tape.op("Div", str(given[0]), node.input[1])
    return _operands(tape, node, [above, tape.op("Neg", tape.op("Mul", above, node.output[0]))])


def _power(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    if node.input[1] not in tape.constants:
        return None
    one = tape.op("CastLike", tape.number(1), node.input[1])
    power = tape.op("Pow", node.input[0], tape.op("Sub", node.input[1], one))
    factor = tape.op("Mul", power, tape.op("CastLike", node.input[1], power))
    return {0: tape.op("Mul", str(given[0]), factor)}


def _chosen(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """Where: each value comes from one of two."""
    d, zero, found = str(given[0]), tape.number(0), dict[int, str]()
    for number, pair in ((1, (d, zero)), (2, (zero, d))):
        if node.input[number] in tape.constants:
            continue
        summed = _broadcast(tape, node, tape.op("Where", node.input[0], *pair), number)
        if summed is None:
            return None
        found[number] = summed
    return found


def _matrix_product(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    d, (a, b) = str(given[0]), node.input[:2]
    ranks = (tape.rank(a), tape.rank(b))
    if min(ranks) < 2:
        return None
    left = tape.op("MatMul", d, _turned(tape, b, ranks[1]))
    values = {0: left}
    if b not in tape.constants:
        values[1] = tape.op("MatMul", _turned(tape, a, ranks[0]), d)
    found: dict[int, str] = {}
    for number, value in values.items():
        tensor = node.input[number]
        ahead = tuple(tape.sizes[node.output[0]][:-2])
        found[number] = tape.summed_to(value, (*ahead, *tape.sizes[tensor][-2:]), tensor)
    return found


def _turned(tape: Tape, tensor: str, rank: int) -> str:
    return tape.op("Transpose", tensor, perm=[*range(rank - 2), rank - 1, rank - 2])


def _gemm(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    if attribute(node, "transA", 0):
        return None
    turned = int(not attribute(node, "transB", 0))
    return {0: tape.op("Gemm", str(given[0]), node.input[1], transB=turned, alpha=attribute(node, "alpha", 1.0))}


def _batch_norm(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    """The stored statistics do not move."""
    rank = tape.rank(node.input[0])
    if rank < 2 or attribute(node, "training_mode", 0):
        return None
    floor = tape.number(attribute(node, "epsilon", 1e-5))
    gain = tape.op("Div", node.input[1], tape.op("Sqrt", tape.op("Add", node.input[4], floor)))
    return {0: tape.op("Mul", str(given[0]), _along_channels(tape, gain, rank))}


def _along_channels(tape: Tape, values: str, rank: int) -> str:
    return tape.op("Reshape", values, tape.integers([1, -1, *[1] * (rank - 2)]))


def _normalized(tape: Tape, node: onnx.NodeProto, given: str, axes: list[int]) -> str:
    """The gradient through (x − mean) / deviation over some axes; `given` has the scale in it already."""
    x, over = node.input[0], tape.integers(axes)
    centred = tape.op("Sub", x, tape.op("ReduceMean", x, over, keepdims=1))
    variance = tape.op("ReduceMean", tape.op("Mul", centred, centred), over, keepdims=1)
    floor = tape.number(attribute(node, "epsilon", 1e-5))
    deviation = tape.op("Sqrt", tape.op("Add", variance, floor))
    unit = tape.op("Div", centred, deviation)
    level = tape.op("ReduceMean", given, over, keepdims=1)
    along = tape.op("Mul", unit, tape.op("ReduceMean", tape.op("Mul", given, unit), over, keepdims=1))
    return tape.op("Div", tape.op("Sub", tape.op("Sub", given, level), along), deviation)


def _instance_norm(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    rank = tape.rank(node.input[0])
    if rank < 3:
        return None
    scaled = tape.op("Mul", str(given[0]), _along_channels(tape, node.input[1], rank))
    return {0: _normalized(tape, node, scaled, list(range(2, rank)))}


def _layer_norm(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    rank = tape.rank(node.input[0])
    if rank < 1:
        return None
    axis = attribute(node, "axis", -1) % rank
    scaled = tape.op("Mul", str(given[0]), node.input[1])
    return {0: _normalized(tape, node, scaled, list(range(axis, rank)))}


def _softmax(tape: Tape, node: onnx.NodeProto, given: Given) -> Slopes:
    d, y, axis = str(given[0]), node.output[0], tape.integers([attribute(node, "axis", -1)])
    inner = tape.op("ReduceSum", tape.op("Mul", d, y), axis, keepdims=1)
    return {0: tape.op("Mul", y, tape.op("Sub", d, inner))}


def _same(_tape: Tape, _node: onnx.NodeProto, given: Given) -> Slopes:
    return {0: str(given[0])}


def _negative(tape: Tape, _node: onnx.NodeProto, given: Given) -> Slopes:
    return {0: tape.op("Neg", str(given[0]))}


BY_VALUE: dict[str, Rule] = {
    "Relu": _by_value(_relu), "Clip": _by_value(_clip), "LeakyRelu": _by_value(_leaky), "PRelu": _by_value(_prelu),
    "Sigmoid": _by_value(_sigmoid), "Tanh": _by_value(_tanh), "HardSigmoid": _by_value(_hard_sigmoid),
    "HardSwish": _by_value(_hard_swish), "Elu": _by_value(_elu), "Erf": _by_value(_erf), "Gelu": _by_value(_gelu),
    "Mish": _by_value(_mish), "Softplus": _by_value(lambda tape, node: tape.op("Sigmoid", node.input[0])),
    "Exp": _by_value(lambda _tape, node: node.output[0]), "Sqrt": _by_value(_half_over),
    "Log": _by_value(lambda tape, node: tape.op("Reciprocal", node.input[0])),
    "Reciprocal": _by_value(_minus_square), "Abs": _by_value(lambda tape, node: tape.op("Sign", node.input[0])),
    "Neg": _negative, "Identity": _same, "Dropout": _same,
    "Add": _sum, "Sum": _sum, "Sub": _difference, "Mul": _product, "Div": _quotient, "Pow": _power, "Where": _chosen,
    "MatMul": _matrix_product, "Gemm": _gemm, "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm, "Softmax": _softmax,
}  # fmt: skip
