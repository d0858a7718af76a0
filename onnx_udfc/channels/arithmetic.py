"""Arithmetic on shapes: the numbers at hand, and which of them hold a count of channels.

A network computes sizes from sizes: Shape, Gather, Mul, Concat, and a Resize goes to what comes of it. Where channels
go, such a number follows by itself if it lands where the channels lie, and does harm anywhere else. So every number is
known with its marks: a set of bits, one for each tensor whose channels were counted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]

OPEN, UNKNOWN = 1, 2  # marks: another input may give another number; the value means nothing
FIRST = 2  # the first bit that stands for a tensor
LARGEST = 1024  # elements; more are data


@dataclass(frozen=True, eq=False)
class Numbers:
    """A small tensor that is computed from shapes.

    Attributes:
        values: as the network computes them, for inputs of the sizes that are assumed.
        marks: (same shape) object array of whole numbers: bits OPEN, UNKNOWN, and one for each counted tensor.
    """

    values: Array
    marks: NDArray[np.object_]


def plain(values: Array) -> Numbers:
    """Constants: nothing was counted for them."""
    return Numbers(np.asarray(values), _marked(np.shape(values), 0))


def unknown(shape: tuple[int, ...]) -> Numbers:
    """Numbers of which only the shape is known."""
    return Numbers(np.zeros(shape, np.int64), _marked(shape, OPEN | UNKNOWN))


def _marked(shape: tuple[int, ...], mark: int) -> NDArray[np.object_]:
    marks = np.empty(shape, object)
    marks.fill(mark)
    return marks


def tensor_mark(number: int) -> int:
    """The mark of numbers that a tensor was counted for."""
    return 1 << (number + FIRST)


def counted(mark: int) -> list[int]:
    """Which tensors, by number, were counted for a mark."""
    return [bit for bit in range(int(mark).bit_length() - FIRST) if int(mark) >> (bit + FIRST) & 1]


Attributes = Mapping[str, Any]
Rule = Callable[[Sequence[Numbers | None], Attributes], Numbers]


def calculate(op: str, given: Sequence[Numbers | None], attributes: Attributes) -> Numbers | None:
    """The result of an operator on numbers, or None if it is none that is known, or these do not fit it.

    The operator has one output; None stands for an input that is left out.
    """
    if op not in ARITHMETIC or not given or given[0] is None:
        return None
    try:
        with np.errstate(all="ignore"):
            result = ARITHMETIC[op](given, attributes)
    except (ValueError, IndexError, TypeError, OverflowError):  # the model breaks the standard here: no numbers
        return None
    return result if result.values.size <= LARGEST and result.marks.shape == result.values.shape else None


def _first(given: Sequence[Numbers | None]) -> Numbers:
    assert given[0] is not None
    return given[0]


def _list(given: Sequence[Numbers | None], index: int) -> list[int] | None:
    """The whole numbers of an input that must be the same whatever channels there are; None if it is left out."""
    numbers = given[index] if index < len(given) else None
    if numbers is None:
        return None
    if any(numbers.marks.ravel()):
        raise ValueError("where it is cut depends on sizes")
    return [int(v) for v in numbers.values.ravel()]


def _moved(move: Callable[[Array], Array], numbers: Numbers) -> Numbers:
    """The numbers and their marks, both moved alike."""
    return Numbers(np.asarray(move(numbers.values)), np.asarray(move(numbers.marks), object))


def _gather(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    indices = given[1] if len(given) > 1 else None
    if indices is None or any(indices.marks.ravel()):
        raise ValueError("its indices depend on sizes")
    picked = indices.values.astype(np.int64)
    return _moved(lambda a: np.take(a, picked, int(attributes.get("axis", 0))), _first(given))


def _slice(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    """A Slice by constants, or, before opset 10, by attributes."""
    starts, ends = (_list(given, i) or [int(v) for v in attributes.get(k, ())] for i, k in ((1, "starts"), (2, "ends")))
    axes = _list(given, 3) or [int(v) for v in attributes.get("axes", range(len(starts)))]
    steps = _list(given, 4) or [1] * len(starts)
    numbers = _first(given)
    where = [slice(None)] * numbers.values.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where[axis] = cut(start, end, step, numbers.values.shape[axis])
    return _moved(lambda a: a[tuple(where)], numbers)


def cut(start: int, end: int, step: int, length: int) -> slice:
    """The slice that ONNX means: with a negative step, an end before the beginning takes the first index in."""
    if step < 0 and end < -length:
        return slice(start, None, step)
    return slice(start, end, step)


def _squeeze(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    axes = _list(given, 1) or [int(v) for v in attributes.get("axes", ())]
    return _moved(lambda a: np.squeeze(a, tuple(axes) or None), _first(given))


def _unsqueeze(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    axes = _list(given, 1) or [int(v) for v in attributes["axes"]]
    return _moved(lambda a: np.expand_dims(a, tuple(axes)), _first(given))


def _reshape(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    shape = _list(given, 1) or []
    if attributes.get("allowzero", 0) == 0:
        shape = [n or _first(given).values.shape[i] for i, n in enumerate(shape)]
    return _moved(lambda a: a.reshape(shape), _first(given))


def _concat(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    parts = [numbers for numbers in given if numbers is not None]
    axis = int(attributes["axis"])
    return Numbers(np.concatenate([p.values for p in parts], axis), np.concatenate([p.marks for p in parts], axis))


def _cast(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    kind = attributes["to"]
    dtype = helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else np.dtype(kind)
    return Numbers(_first(given).values.astype(dtype), _first(given).marks)


def _filled(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
    """ConstantOfShape; `value` is a tensor of one element."""
    shape = _list(given, 0) or []
    if np.prod(shape, dtype=np.float64) > LARGEST:
        raise ValueError("too large")
    value = attributes.get("value")
    held = np.zeros(1, np.float32) if value is None else np.asarray(getattr(value, "values", value))
    return plain(np.full(shape, held.reshape(-1)[0]))


def _by_value(function: Callable[..., Array]) -> Rule:
    """An operator that works value by value, with broadcasting: what was counted for either was for the result."""

    def rule(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
        if attributes.get("fmod", 0):
            raise ValueError("fmod")
        parts = [numbers for numbers in given if numbers is not None]
        values = np.asarray(function(*(p.values for p in parts)))
        marks = _marked(values.shape, 0)
        for part in parts:
            marks = np.asarray(marks | np.broadcast_to(part.marks, values.shape), object)
        return Numbers(values, marks)

    return rule


def _reduced(function: Callable[..., Array]) -> Rule:
    """A reduction over all axes."""

    def rule(given: Sequence[Numbers | None], attributes: Attributes) -> Numbers:
        numbers = _first(given)
        axes = _list(given, 1) or [int(v) for v in attributes.get("axes", ())] or list(range(numbers.values.ndim))
        if {axis % numbers.values.ndim for axis in axes} != set(range(numbers.values.ndim)):
            raise ValueError("only some of its axes")
        values = np.asarray(function(numbers.values, keepdims=bool(attributes.get("keepdims", 1))))
        mark = reduce(or_, (int(m) for m in numbers.marks.ravel()), 0)
        return Numbers(values.astype(numbers.values.dtype), _marked(values.shape, mark))

    return rule


def _divided(a: Array, b: Array) -> Array:
    """Division of whole numbers goes toward zero."""
    if a.dtype.kind in "iu":
        if not np.all(b):
            raise ValueError("division by zero")
        return np.asarray(np.trunc(a / b)).astype(a.dtype)
    return np.asarray(a / b)


ARITHMETIC: dict[str, Rule] = {
    "Abs": _by_value(np.abs),
    "Add": _by_value(np.add),
    "And": _by_value(np.logical_and),
    "Cast": _cast,
    "Ceil": _by_value(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _by_value(_divided),
    "Equal": _by_value(np.equal),
    "Floor": _by_value(np.floor),
    "Gather": _gather,
    "Greater": _by_value(np.greater),
    "GreaterOrEqual": _by_value(np.greater_equal),
    "Identity": lambda given, _: _first(given),
    "Less": _by_value(np.less),
    "LessOrEqual": _by_value(np.less_equal),
    "Max": _by_value(lambda *arrays: reduce(np.maximum, arrays)),
    "Min": _by_value(lambda *arrays: reduce(np.minimum, arrays)),
    "Mod": _by_value(np.mod),
    "Mul": _by_value(np.multiply),
    "Neg": _by_value(np.negative),
    "Not": _by_value(np.logical_not),
    "Or": _by_value(np.logical_or),
    "Reciprocal": _by_value(np.reciprocal),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Reshape": _reshape,
    "Round": _by_value(np.round),
    "Slice": _slice,
    "Sqrt": _by_value(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _by_value(np.subtract),
    "Unsqueeze": _unsqueeze,
    "Where": _by_value(np.where),
}
