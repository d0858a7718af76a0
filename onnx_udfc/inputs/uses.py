"""How a network uses an input: followed through the graph to the operators that say what it can hold.

A whole number that picks rows of a table (Gather), or is turned into a one-hot vector, may be any of these rows; one
that is compared with a list of constants may be any of them; what a Where or an If asks is a flag. On the way a number
may be cast, reshaped, cut, joined with others, or shifted by a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.inputs.carried import RECURRENT, carried
from onnx_udfc.model.graph import MOVES
from onnx_udfc.model.layers import kind_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

CARRIERS = frozenset((
    "Cast", "CastLike", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Transpose", "Slice",
    "Tile", "Concat", "Split", "Dropout", "Clip", "Max", "Min", "Abs", "Add", "Sub", "Pad",
))  # fmt: skip
PICKS = ("Gather", "GatherND", "GatherElements")  # of what they pick from, the values stay what they are
ARITHMETIC = frozenset((
    "Sub", "Add", "Mul", "Div", "Cast", "Identity", "Pad", "Clip", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Concat",
    "Neg",
))  # fmt: skip
_IN_PLACE = frozenset((
    "Cast", "Identity", "Dropout", "Clip", "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Sqrt", "Log", "Exp", "Pow",
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Softmax", "LayerNormalization", "Squeeze",
))  # fmt: skip
_KEEPING = frozenset(("Unsqueeze", "Squeeze", "Identity", "Cast", "Slice", "Dropout"))  # the columns of steps, mostly
_SPREADS = MOVES | {"Expand", "Tile", "Gather"}
_COMPARISONS = frozenset(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"))
_LOGIC = _COMPARISONS | {"Not", "And", "Or", "Xor"}
_EXTENTS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Resize": (2, 3), "ConstantOfShape": (0,), "Range": (0, 1, 2),
    "TopK": (1,), "Slice": (1, 2, 3, 4), "Loop": (0,), "Pad": (1,),
}  # fmt: skip
_LENGTHS = 4  # the input of a recurrent node that says how many steps each sample has
_VERY_SMALL = -1e3  # what is added to a score that is not to count
_LONGEST = 4096  # constants that a number is compared with; more are not a list of what it may be


@dataclass(frozen=True)
class Use:
    """What the graph does with an input.

    Attributes:
        rows: how many rows it can pick of the shortest table that it picks rows of; 0 where it picks none.
        first: the number that picks the first of them; above 0 where something is taken off before.
        choices: the constants that it is compared with, rising.
        flag: it decides what is computed, or which of two values is taken.
        mask: where it is 0, something is taken away: 1 - x is weighted, or a very small number is put in its place.
        hides: where it is 1, something is taken away, as the padding of a sequence is marked.
        extent: it says how large something is made (a Reshape, a Resize, a Range).
        steps: it says how many steps of each sample a recurrent layer reads.
        convolved: number of axes of the convolution that reads it, one for sound, two for images; 0 for none.
        channels: that this convolution expects; 0 where none reads it.
        channels_last: it is turned so that its last axis comes first after the samples.
        width: of its last axis, as a matrix product or a vector of constants that meets it expects; 0 where none does.
        carried: the output that is fed back to it in the next run (see `carried`); empty where none is.
    """

    rows: int = 0
    first: int = 0
    choices: tuple[float, ...] = ()
    flag: bool = False
    mask: bool = False
    hides: bool = False
    extent: bool = False
    steps: bool = False
    convolved: int = 0
    channels: int = 0
    channels_last: bool = False
    width: int = 0
    carried: str = ""


def use_of(network: Network, name: str) -> Use:
    """What becomes of a graph input."""
    tensor = next(t for t in network.graph.inputs if t.name == name)
    tables, first, choices, flag, mask, extent, steps = [], 0, set[float](), False, False, False, False
    for node, index, shift in _readers(tensor, CARRIERS):
        rows = _rows(node, index)
        if rows > shift:  # what is counted from the end goes past it on the other way, which is not taken
            tables.append(rows - max(shift, 0))
            first = max(first, -shift)
        elif node.op in _COMPARISONS:
            choices |= _compared(node, index)
        flag = flag or (node.op in ("Where", "If", "Not", "And", "Or") and index == 0)
        mask = mask or _masks(node, index)
        extent = extent or index in _EXTENTS.get(node.op, ())
        steps = steps or (node.op in RECURRENT and index == _LENGTHS)
    convolved, channels, last = _convolution(tensor)
    found = tuple(sorted(choices))
    width, away = _width(network, tensor), _taken_away(tensor)
    mask, hides = mask or (False, True) in away, bool(away) and all(value for value, _ in away)
    return Use(
        max(0, min(tables, default=0)), first, found, flag, mask, hides, extent, steps, convolved, channels, last,
        width, carried(network).get(name, ""),
    )  # fmt: skip


def _width(network: Network, tensor: gs.Tensor) -> int:
    """Numbers in the last axis of a tensor, from the first node that can take only so many; 0 where none tells."""
    for node, index, _ in _readers(tensor, _IN_PLACE):
        layer = network.layers.get(node.name)
        if layer is not None and index == 0 and not layer.kernel and not node.attrs.get("transA", 0):
            return layer.in_channels
        met = node.inputs[1 - index] if node.op in _IN_PLACE and index < 2 <= len(node.inputs) else None
        if isinstance(met, gs.Constant) and met.shape and int(met.shape[-1]) > 1:
            return int(met.shape[-1])
    return _columns(tensor)


def _columns(tensor: gs.Tensor) -> int:
    """Numbers in each step of a sequence that a recurrent layer reads, turned or not; 0 where none does."""
    for node in tensor.outputs:
        perm = list(node.attrs.get("perm") or ())
        moved = node.op in _KEEPING if node.op != "Transpose" else perm and perm[-1] == len(perm) - 1
        if node.op in RECURRENT and node.inputs[0] is tensor and node.inputs[1].shape is not None:
            return int(node.inputs[1].shape[-1])
        if moved and node.inputs[0] is tensor and (found := _columns(node.outputs[0])):
            return found
    return 0


def _readers(tensor: gs.Tensor, through: frozenset[str]) -> Iterator[tuple[gs.Node, int, int]]:
    """Nodes that read a tensor, directly or through such operators; which input it is, and what was added before."""
    pending, seen = [(tensor, 0)], {id(tensor)}
    while pending:
        current, shift = pending.pop()
        for node in current.outputs:
            index = next(i for i, t in enumerate(node.inputs) if t is current)
            yield node, index, shift
            carries = node.op in through and (index == 0 or node.op in ("Add", "Concat", "Max", "Min", "Mul"))
            carries = carries or (through is CARRIERS and node.op in PICKS and index == 0)
            carries = carries or (through is CARRIERS and _chooses(node, index))
            if not carries or any(id(t) in seen for t in node.outputs):
                continue
            seen.update(id(t) for t in node.outputs)
            pending += [(t, shift + _added(node, index)) for t in node.outputs]


def _chooses(node: gs.Node, index: int) -> bool:
    """Whether a node takes its input or leaves it: one of a Where's values, or times a flag."""
    if node.op == "Where":
        return index > 0
    other = node.inputs[1 - index] if node.op == "Mul" else None
    cast = other.inputs[0] if other is not None and other.inputs else None
    flag = cast.inputs[0] if cast is not None and cast.op == "Cast" and cast.inputs else None
    return flag is not None and bool(flag.inputs) and flag.inputs[0].op in _LOGIC


def _added(node: gs.Node, index: int) -> int:
    """The whole number that an Add or a Sub adds; 0 where it is none."""
    if node.op not in ("Add", "Sub") or not isinstance(node.inputs[1 - index], gs.Constant):
        return 0
    values = np.asarray(node.inputs[1 - index].values)
    if values.size != 1 or values.dtype.kind not in "iu":
        return 0
    return int(values.reshape(())) * (1 if node.op == "Add" else -1)


def _rows(node: gs.Node, index: int) -> int:
    """Rows of the table in which a node looks its input up, or 0."""
    if node.op == "Gather" and index == 1:
        shape = node.inputs[0].shape
        axis = int(node.attrs.get("axis", 0))
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else 0
        return int(size) if isinstance(size, int | np.integer) else 0
    if node.op == "OneHot" and index == 0 and isinstance(node.inputs[1], gs.Constant):
        return int(np.asarray(node.inputs[1].values).reshape(-1)[0])
    return 0


def _masks(node: gs.Node, index: int) -> bool:
    """Whether a node takes away what its input does not mark: 1 - x, or a choice of a very small number."""
    if node.op == "Sub" and index == 1:
        return _constants(node.inputs[0]) == {1.0}
    return (
        node.op == "Where"
        and index == 0
        and any(min(_constants(t), default=0.0) < _VERY_SMALL for t in node.inputs[1:])
    )


def _taken_away(tensor: gs.Tensor) -> set[tuple[bool, bool]]:
    """At which values of a mask something is taken away, and whether by a very small number in its place.

    A product takes away what is not marked; what is turned (a Not, 1 - x) marks the others.
    """
    pending, seen, away = [(tensor, True)], {id(tensor)}, set[tuple[bool, bool]]()
    while pending:
        current, marked = pending.pop()  # whether it is 1 where the mask is
        for node in current.outputs:
            index = next(i for i, t in enumerate(node.inputs) if t is current)
            turned = node.op == "Not" or (node.op == "Sub" and index == 1 and _constants(node.inputs[0]) == {1.0})
            if turned or node.op == "Cast" or (node.op in _SPREADS and index == 0):
                fresh = [t for t in node.outputs if id(t) not in seen]
                seen.update(map(id, fresh))
                pending += [(t, marked != turned) for t in fresh]
            elif node.op == "Where" and index == 0:
                small = [i for i in (1, 2) if min(_constants(node.inputs[i]), default=0.0) < _VERY_SMALL]
                away |= {(marked == (i == 1), True) for i in small}
            elif node.op == "Mul":
                small_one = min(_constants(node.inputs[1 - index]), default=0.0) < _VERY_SMALL
                away.add((marked == small_one, small_one))
    return away


def _constants(tensor: gs.Tensor) -> set[float]:
    """Values of a small constant."""
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) > _LONGEST:
        return set()
    return {float(v) for v in np.unique(np.asarray(tensor.values, np.float64))}


def _compared(node: gs.Node, index: int) -> set[float]:
    other = node.inputs[1 - index]
    if not isinstance(other, gs.Constant) or int(np.prod(other.shape)) > _LONGEST:
        return set()
    values = np.asarray(other.values, np.float64)
    return {float(v) for v in np.unique(values) if np.isfinite(v)}


def _convolution(tensor: gs.Tensor) -> tuple[int, int, bool]:
    """Axes and channels of the first convolution that reads a tensor, and whether its channels were last before."""
    last = False
    for node, index, _ in _readers(tensor, ARITHMETIC | {"Transpose"}):
        if node.op == "Transpose":
            rank = len(node.attrs.get("perm") or ())
            last = last or list(node.attrs.get("perm") or ()) == [0, rank - 1, *range(1, rank - 1)]
        elif kind_of(node.op).convolves and index == 0 and node.inputs[1].shape is not None:
            shape = node.inputs[1].shape
            return len(shape) - 2, int(shape[1]) * int(node.attrs.get("group", 1)), last
    return 0, 0, last
