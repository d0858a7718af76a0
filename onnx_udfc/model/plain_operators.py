"""Operators that constants of exported files are made with, in numpy.

Exporters leave shapes and pads as expressions of a dozen operators. onnx's reference implementations take a fifth of a
second to import; these give the same arrays, and leave to those what they do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Attributes = dict[str, Any]

AXES_OPSET = 13  # from here on Squeeze and Unsqueeze take axes as an input
CASTS = frozenset(["float16", "float32", "float64", "int32", "int64", "bool"])


def computed(node: onnx.NodeProto, opset: int, arrays: list[Array | None]) -> list[Array] | None:
    """The outputs of a node, or None where it is not one of these.

    Of the standard domain; None stands for an input that is left out.

    Raises:
        Exception: whatever numpy raises for values that do not fit.
    """
    operator = OPERATORS.get(node.op_type)
    if operator is None or len(node.output) != 1 or any(a is None or a.dtype.kind not in "iufb" for a in arrays):
        return None
    if node.op_type in ("Squeeze", "Unsqueeze") and opset < AXES_OPSET:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    with np.errstate(all="ignore"):
        result = operator([a for a in arrays if a is not None], attributes)
    return None if result is None else [np.asarray(result)]


def _shape(given: list[Array], attributes: Attributes) -> Array:
    return np.array(given[0].shape[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _cast(given: list[Array], attributes: Attributes) -> Array | None:
    wanted = np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    whole = wanted.kind == "i" and given[0].dtype.kind == "f"
    if wanted.name not in CASTS or given[0].dtype.name not in CASTS or (whole and np.any(np.abs(given[0]) >= 2.0**31)):
        return None
    return None if whole and not np.all(np.isfinite(given[0])) else given[0].astype(wanted)


def _constant_of_shape(given: list[Array], attributes: Attributes) -> Array:
    tensor = attributes.get("value")
    value = np.zeros(1, np.float32) if tensor is None else numpy_helper.to_array(tensor)
    return np.full(tuple(int(n) for n in given[0]), value.reshape(-1)[0], value.dtype)


def _reshape(given: list[Array], attributes: Attributes) -> Array:
    values, shape = given
    copied = not attributes.get("allowzero", 0)
    return values.reshape([values.shape[i] if n == 0 and copied else int(n) for i, n in enumerate(shape)])


def _slice(given: list[Array], _: Attributes) -> Array | None:
    if len(given) < 3:  # of an old opset
        return None
    values, starts, ends = given[:3]
    axes = given[3] if len(given) > 3 else np.arange(len(starts))
    steps = given[4] if len(given) > 4 else np.ones(len(starts), np.int64)
    picked = [slice(None)] * values.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        picked[int(axis)] = slice(int(start), int(end), int(step))
    return values[tuple(picked)]


def _unsqueeze(given: list[Array], _: Attributes) -> Array:
    return np.expand_dims(given[0], tuple(int(axis) for axis in given[1]))


def _squeeze(given: list[Array], _: Attributes) -> Array:
    return given[0].squeeze(tuple(int(axis) for axis in given[1]) if len(given) > 1 else None)


OPERATORS: dict[str, Callable[[list[Array], Attributes], Array | None]] = {
    "Add": lambda given, _: np.add(*given),
    "Cast": _cast,
    "Concat": lambda given, attributes: np.concatenate(given, attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Gather": lambda given, attributes: np.take(given[0], given[1], attributes.get("axis", 0)),
    "Mul": lambda given, _: np.multiply(*given),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": lambda given, _: np.subtract(*given),
    "Transpose": lambda given, attributes: np.transpose(given[0], attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
}
