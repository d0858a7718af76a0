"""What subgraphs of activations are recognized by: products with constants, sums with them, bounds.

Constants of one number count as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnx_udfc.model.graph import BROADCASTING, BY_VALUE, FLOATS

CLOSE = 1e-6  # relative: constants were rounded to float32
FARTHEST = 40  # nodes that a rank is followed through
SAME_RANK = (
    *BY_VALUE, "AveragePool", "BatchNormalization", "Concat", "Dropout", "GlobalAveragePool", "GlobalMaxPool",
    "Identity", "InstanceNormalization", "LayerNormalization", "MaxPool", "Pad", "Resize", "Slice", "Softmax",
)  # fmt: skip
SINCE = {  # operator → its first opset, of the form that is written here
    "Clip": 11, "HardSwish": 14, "HardSigmoid": 6, "Gelu": 20, "Mish": 18, "PRelu": 7, "LayerNormalization": 17,
}  # fmt: skip
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SAME_TYPE = frozenset((
    *WEIGHTED, *SAME_RANK, "Add", "Div", "Flatten", "Max", "Min", "Mul", "PRelu", "Reshape", "Squeeze", "Sub", "Sum",
    "Transpose", "Unsqueeze",
)) - {"IsInf", "IsNaN"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """An activation that was recognized.

    One node with these attributes, and these numbers (or arrays of them) as further inputs, takes the place of the
    inner ones, besides the last.
    """

    source: gs.Tensor
    inner: tuple[gs.Node, ...]
    attributes: Mapping[str, float] = field(default_factory=dict)
    numbers: tuple[float | NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class Scaled:
    """A tensor as a constant times another, and the nodes that multiply."""

    factor: float
    base: gs.Tensor
    nodes: tuple[gs.Node, ...]


def found_at(
    source: gs.Tensor, last: gs.Node, nodes: tuple[gs.Node, ...], attributes: Mapping[str, float] = {}
) -> Found:
    """What was recognized at its last node."""
    return Found(source, tuple(n for n in nodes if n is not last), attributes)


def products(node: gs.Node) -> Iterator[tuple[float, gs.Tensor, gs.Tensor, tuple[gs.Node, ...]]]:
    """The ways to see what a node gives as constant · a · b: the constant, a, b, and all the nodes on the way."""
    for outer in scalings(node.outputs[0]) if len(node.outputs) == 1 else ():
        mul = writer(outer.base, "Mul")
        if mul is None or len(mul.inputs) != 2 or any(isinstance(t, gs.Constant) for t in mul.inputs):
            continue
        for first, second in (mul.inputs, mul.inputs[::-1]):
            for one in scalings(first):
                for other in scalings(second):
                    factor = outer.factor * one.factor * other.factor
                    yield factor, one.base, other.base, (*outer.nodes, mul, *one.nodes, *other.nodes)


def scalings(tensor: gs.Tensor) -> list[Scaled]:
    """The ways to see a tensor as a constant times another: itself, then one product or quotient more each time."""
    found = [Scaled(1.0, tensor, ())]
    while True:
        last = found[-1]
        node = writer(last.base, "Mul") or writer(last.base, "Div")
        split = None if node is None else scalar_beside(node)
        if node is None or split is None or (node.op == "Div" and (node.inputs[0] is not split[0] or split[1] == 0)):
            return found
        factor = split[1] if node.op == "Mul" else 1 / split[1]
        found.append(Scaled(last.factor * factor, split[0], (*last.nodes, node)))


def shift_of(tensor: gs.Tensor) -> tuple[gs.Tensor, float, gs.Node] | None:
    """What a constant was added to, the constant, and the node."""
    node = writer(tensor, "Add")
    split = None if node is None else scalar_beside(node)
    return None if node is None or split is None else (*split, node)


def clipped(tensor: gs.Tensor) -> tuple[gs.Tensor, float, float, tuple[gs.Node, ...]] | None:
    """A tensor as clip(x + shift, 0, bound): x, the shift, the bound, and the nodes."""
    clip = writer(tensor, "Clip")
    bounds = None if clip is None else bounds_of(clip)
    shifted = None if clip is None else shift_of(clip.inputs[0])
    if clip is None or bounds is None or shifted is None or bounds[0] != 0 or not 0 < bounds[1] < math.inf:
        return None
    return shifted[0], shifted[1], bounds[1], (clip, shifted[2])


def bounds_of(clip: gs.Node) -> tuple[float, float] | None:
    """The bounds of a Clip, infinite where it has none; None where one is computed."""
    found = []
    for slot, key, none in ((1, "min", -math.inf), (2, "max", math.inf)):
        tensor = clip.inputs[slot] if len(clip.inputs) > slot else None
        value = clip.attrs.get(key, none) if tensor is None or tensor.is_empty() else scalar(tensor)
        if value is None:
            return None
        found.append(float(value))
    return found[0], found[1]


def type_of(tensor: gs.Tensor, steps: int = FARTHEST) -> int | None:
    """The number that ONNX has for a tensor's type, as it is stated or follows from what makes it; None if neither."""
    if tensor.dtype is not None:
        stated = tensor.dtype
        return stated if isinstance(stated, int) else int(helper.np_dtype_to_tensor_dtype(np.dtype(stated)))
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.domain or not steps or not node.inputs:
        return None
    if node.op == "Cast":
        return int(node.attrs["to"]) if "to" in node.attrs else None
    if node.op in SAME_TYPE and node.outputs[0] is tensor:
        weight = node.inputs[-1] if node.op in WEIGHTED else None
        return type_of(weight if isinstance(weight, gs.Constant) else node.inputs[0], steps - 1)
    return None


def scalar_beside(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """The tensor and the one number of a node with two inputs, in any order."""
    for tensor, constant in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        value = None if isinstance(tensor, gs.Constant) else scalar(constant, tensor)
        if value is not None:
            return tensor, value
    return None


def scalar(tensor: gs.Tensor, beside: gs.Tensor | None = None) -> float | None:
    """The value of a constant of one number that gives another tensor no more axes; None for any other."""
    if not isinstance(tensor, gs.Constant) or str(tensor.dtype) not in FLOATS or math.prod(tensor.shape) != 1:
        return None
    rank = None if beside is None or not tensor.shape else rank_of(beside)
    if len(tensor.shape) > (1 if rank is None else rank):
        return None
    return float(np.asarray(tensor.values, np.float64).reshape(()))


def rank_of(tensor: gs.Tensor, steps: int = FARTHEST, found: dict[int, int | None] | None = None) -> int | None:
    """The number of a tensor's axes, by its stated shape or by what it is made of; None where neither tells.

    `found` is what was found out on the way, by the id of a tensor: many ways may lead to one.
    """
    if tensor.shape is not None:
        return len(tensor.shape)
    found = {} if found is None else found
    if id(tensor) not in found:
        found[id(tensor)] = _rank(tensor, steps, found)
    return found[id(tensor)]


def _rank(tensor: gs.Tensor, steps: int, found: dict[int, int | None]) -> int | None:
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.domain or not steps or not node.inputs:
        return None
    rule = _RANKS.get(node.op)
    return None if rule is None else rule(node, lambda other: rank_of(other, steps - 1, found))


def _rank_of_weight(node: gs.Node, rank: Callable[[gs.Tensor], int | None]) -> int | None:
    weight = node.inputs[1]
    return len(weight.shape) if weight.shape is not None else rank(node.inputs[0])


def _rank_of_transpose(node: gs.Node, _: Callable[[gs.Tensor], int | None]) -> int | None:
    return len(node.attrs["perm"]) if "perm" in node.attrs else None


def _rank_of_reshape(node: gs.Node, rank: Callable[[gs.Tensor], int | None]) -> int | None:
    return _length(node.inputs[1], rank, FARTHEST)


def _length(tensor: gs.Tensor, rank: Callable[[gs.Tensor], int | None], steps: int) -> int | None:
    """How many numbers a list of sizes has, by its stated shape or by what it is made of."""
    if tensor.shape is not None and len(tensor.shape) == 1 and isinstance(tensor.shape[0], int):
        return tensor.shape[0]
    node = tensor.inputs[0] if tensor.inputs and steps else None
    if node is None or node.domain:
        return None
    if node.op == "Concat":
        lengths = [_length(part, rank, steps - 1) for part in node.inputs]
        return None if None in lengths else sum(one for one in lengths if one is not None)
    if node.op == "Cast":
        return _length(node.inputs[0], rank, steps - 1)
    if node.op == "Unsqueeze":  # what becomes a list by it was a number
        return 1
    return rank(node.inputs[0]) if node.op == "Shape" and not node.attrs else None


def _rank_moved(node: gs.Node, rank: Callable[[gs.Tensor], int | None]) -> int | None:
    axes, before = listed(node, "axes", 1), rank(node.inputs[0])
    return None if axes is None or before is None else before + len(axes) * (1 if node.op == "Unsqueeze" else -1)


def _largest_rank(node: gs.Node, rank: Callable[[gs.Tensor], int | None]) -> int | None:
    ranks = [rank(tensor) for tensor in node.inputs]
    return None if None in ranks else max(one for one in ranks if one is not None)


_RANKS: dict[str, Callable[[gs.Node, Callable[[gs.Tensor], int | None]], int | None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _rank_of_weight),
    **dict.fromkeys(("Gemm", "Flatten"), lambda *_: 2),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _rank_moved),
    **dict.fromkeys(SAME_RANK, lambda node, rank: rank(node.inputs[0])),
    **dict.fromkeys(BROADCASTING, _largest_rank),
    "Transpose": _rank_of_transpose,
    "Reshape": _rank_of_reshape,
}


def listed(node: gs.Node, attribute: str, slot: int) -> list[int] | None:
    """Whole numbers that a node has as an attribute or, since some opset, as a constant input; None if it has none."""
    values: Sequence[int] | None = node.attrs.get(attribute)
    if len(node.inputs) > slot and isinstance(node.inputs[slot], gs.Constant):
        values = node.inputs[slot].values.reshape(-1).tolist()
    return None if values is None else [int(value) for value in values]


def writer(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node of this kind that writes a tensor."""
    node = tensor.inputs[0] if not isinstance(tensor, gs.Constant) and tensor.inputs else None
    return node if node is not None and node.op == op and not node.domain else None


def near(value: float, wanted: float) -> bool:
    """Whether two numbers are equal but for rounding."""
    return math.isclose(value, wanted, rel_tol=CLOSE, abs_tol=CLOSE)
