"""Which tensors of a network are samples one after another, each made of the same sample of the inputs alone.

What lies between two layers can then be run on some of the samples at a time. Exported networks take their samples
through reshapes and transpositions whose shapes are computed from the number of samples; so it is followed which small
vectors hold that number, and where. What no rule speaks of is taken for mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.model.graph import BROADCASTING, BY_VALUE, standard
from onnx_udfc.model.protos import attribute, reads
from onnx_udfc.model.values import values

ROWS = "rows"  # an entry of a shape: the number of samples
Array = NDArray[Any]
Entry = int | float | str | None  # None: the same for any number of samples, but nobody knows how much
_SMALL = 64  # entries of a constant that may be a shape
_END = 1 << 29  # a slice that ends there, or beyond, ends nowhere


@dataclass(frozen=True)
class Kind:
    """What is known of a tensor.

    Attributes:
        rank: its axes.
        apart: the first axis is that of the samples, and none knows of another; else all is the same for any of them.
        shape: its sizes, or those of each sample, where they are known.
        entries: values of a vector, or of a scalar, of whole numbers; None where they are unknown.
    """

    rank: int
    apart: bool = False
    shape: tuple[int, ...] | None = None
    entries: tuple[Entry, ...] | None = None

    @property
    def counts(self) -> bool:
        """Whether the number of samples is among its values."""
        return self.entries is not None and ROWS in self.entries


EACH_A_SAMPLE = Kind(2, apart=True)
_NOTHING = Kind(0, shape=())  # an operand that is left out
Given = Sequence[Kind | None]
Rule = Callable[[onnx.NodeProto, Given], Kind | None]


def kinds_of(model: onnx.ModelProto, fed: Mapping[str, tuple[int, ...]], layers: set[str]) -> dict[str, Kind]:
    """Kinds of the tensors of which they are certain.

    `fed` is graph input whose first axis is that of the samples → sizes of a sample; `layers` are names of nodes that
    keep the rows of their first input apart: the caller computes them.
    """
    found = {name: Kind(1 + len(shape), apart=True, shape=shape) for name, shape in fed.items()}
    found |= {tensor.name: _constant(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        given = [found.get(name) if name else _NOTHING for name in node.input]
        if node.name in layers:
            made = _by_row(node, given[:1])
        else:
            rule = _RULES.get(node.op_type) if standard(node.domain) and given else None
            made = None if rule is None or len(reads(node)) > len(node.input) else rule(node, given)
        if made is not None:
            found |= dict.fromkeys(node.output if node.op_type == "Split" else node.output[:1], made)
    return found


def rows_apart(inputs: Mapping[str, Any], outputs: Sequence[str], kinds: Mapping[str, Kind]) -> int:
    """Samples that a part of a network may be run on some at a time; 0 where that is not certain."""
    if not all(name in kinds for name in (*inputs, *outputs)):
        return 0
    lengths = {len(value) for name, value in inputs.items() if kinds[name].apart}
    return lengths.pop() if len(lengths) == 1 else 0


def part_of(value: Array, kind: Kind, start: int, length: int) -> Array:
    """What a tensor is where there are only so many samples, from one on."""
    return value[start : start + length] if kind.apart else counted(value, kind, length)


def counted(value: Array, kind: Kind, rows: int) -> Array:
    """What is no sample, for another number of them."""
    if not kind.counts:
        return value
    changed = value.copy()
    changed.reshape(-1)[[entry == ROWS for entry in kind.entries or ()]] = rows
    return changed


def _constant(tensor: onnx.TensorProto) -> Kind:
    shape = tuple(tensor.dims)
    small = len(shape) <= 1 and int(np.prod(shape)) <= _SMALL
    numbers = small and tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT)
    entries = tuple(values(tensor).reshape(-1).tolist()) if numbers else None
    return Kind(len(shape), shape=shape, entries=entries)


def _fixed(given: Given) -> bool:
    """Whether all is the same for any number of samples."""
    return all(kind is not None and not kind.apart and not kind.counts for kind in given)


def _of(rank: int) -> Kind:
    """Samples of sizes that nobody knows."""
    return Kind(rank, apart=True)


def _of_samples(rule: Callable[[onnx.NodeProto, Kind, Given], Kind | None]) -> Rule:
    """A rule that is asked only where the first operand is samples; it gets that, and the other operands."""

    def asked(node: onnx.NodeProto, given: Given) -> Kind | None:
        kind = given[0]
        return rule(node, kind, given[1:]) if kind is not None and kind.apart else None

    return asked


@_of_samples
def _by_row(_node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    """Operators that make of a tensor one of as many axes, and of each sample one, by parameters that are fixed."""
    return _of(kind.rank) if kind.rank > 1 and _fixed(others) else None


def _known(kind: Kind | None) -> tuple[int, ...] | None:
    """The values of a constant vector."""
    if kind is None or kind.entries is None or not all(isinstance(v, int) for v in kind.entries):
        return None
    return tuple(v for v in kind.entries if isinstance(v, int))


def _axes(node: onnx.NodeProto, others: Given, rank: int) -> tuple[int, ...] | None:
    """The axes that a node names, in an attribute or in its second input, from the front; None if it names none."""
    named = attribute(node, "axes")
    found = tuple(named) if isinstance(named, list) else _known(others[0]) if others else None
    return None if found is None else tuple(axis % rank if rank else axis for axis in found)


def _axis(node: onnx.NodeProto, default: int, rank: int) -> int:
    """The one axis that a node names, counted from the front."""
    named = attribute(node, "axis")
    return (named if isinstance(named, int) else default) % rank


def _each_value(_node: onnx.NodeProto, given: Given) -> Kind | None:
    """Operators of several operands, value by value."""
    known = [kind for kind in given if kind is not None and kind is not _NOTHING]
    rank = max(kind.rank for kind in known) if known and None not in given else 0
    aligned = all(kind.rank == rank if kind.apart else _spreads(kind, rank) for kind in known)
    if not (rank and aligned and any(kind.apart for kind in known)):
        return None
    samples = [kind.shape if kind.apart or kind.shape is None else kind.shape[kind.rank == rank :] for kind in known]
    return Kind(rank, apart=True, shape=_broadcast(samples))


def _broadcast(shapes: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The sizes of what several operands make, where those of all are known."""
    known = [shape for shape in shapes if shape is not None]
    try:
        return np.broadcast_shapes(*known) if len(known) == len(shapes) else None
    except ValueError:  # it will not run
        return None


def _spreads(kind: Kind, rank: int) -> bool:
    """Whether what is no sample is the same for all of those that it meets."""
    return not kind.counts and kind.shape is not None and (kind.rank < rank or kind.shape[:1] == (1,))


def _alike(node: onnx.NodeProto, given: Given) -> Kind | None:
    """Operators of one operand, value by value."""
    kind = given[0]
    return kind if kind is None or kind.apart or node.op_type in ("Cast", "Identity") else None


def _norm(node: onnx.NodeProto, given: Given) -> Kind | None:
    return None if attribute(node, "training_mode") else _by_row(node, given)


@_of_samples
def _pad(_node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    pads = _known(others[0]) if others else None
    if pads is None or not _fixed(others) or len(pads) != 2 * kind.rank:
        return None
    return _of(kind.rank) if pads[0] == pads[kind.rank] == 0 else None


@_of_samples
def _resize(node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    _, scales, sizes = (*others, _NOTHING, _NOTHING, _NOTHING)[:3]
    if attribute(node, "axes") is not None:
        return None
    first = [found.entries[0] for found in (scales, sizes) if found is not None and found.entries]
    return _of(kind.rank) if first in ([1], [ROWS]) else None


@_of_samples
def _shape(node: onnx.NodeProto, kind: Kind, _others: Given) -> Kind | None:
    return None if node.attribute else Kind(1, shape=(kind.rank,), entries=(ROWS, *[None] * (kind.rank - 1)))


def _concat(node: onnx.NodeProto, given: Given) -> Kind | None:
    known = [kind for kind in given if kind is not None]
    if len(known) < len(given):
        return None
    if all(kind.apart for kind in known):
        alike = len({kind.rank for kind in known}) == 1 and _axis(node, 0, known[0].rank) > 0
        return _of(known[0].rank) if alike else None
    if any(kind.entries is None or kind.rank != 1 for kind in known):
        return None
    joined = tuple(entry for kind in known for entry in kind.entries or ())
    return Kind(1, shape=(len(joined),), entries=joined)


def _gather(node: onnx.NodeProto, given: Given) -> Kind | None:
    kind, indices = given[:2]
    if kind is None or indices is None:
        return None
    axis, rank = _axis(node, 0, max(1, kind.rank)), kind.rank - 1 + indices.rank
    if kind.entries is not None and kind.rank == 1:
        places = _known(indices)
        if places is None or any(not -len(kind.entries) <= place < len(kind.entries) for place in places):
            return None
        shape = () if indices.rank == 0 else (len(places),)
        return Kind(len(shape), shape=shape, entries=tuple(kind.entries[place] for place in places))
    if kind.apart:
        return Kind(rank, apart=True) if axis > 0 and not indices.apart and not indices.counts else None
    return Kind(rank, apart=True) if axis == 0 and indices.apart and not kind.counts else None


def _slice(_node: onnx.NodeProto, given: Given) -> Kind | None:
    kind, told = given[0], [_known(k) for k in given[1:] if k is not _NOTHING]
    if kind is None or len(told) < len(given) - 1 or any(found is None for found in told):
        return None
    starts, ends, axes, steps = [*(found or () for found in told), (), ()][:4]
    named = [axis % kind.rank for axis in axes or range(len(starts))]
    spans = dict(zip(named, zip(starts, ends, steps or [1] * len(starts), strict=True), strict=True))
    if kind.apart:
        start, end, step = spans.get(0, (0, _END, 1))
        return _of(kind.rank) if start == 0 and end >= _END and step == 1 else None
    if kind.entries is None or kind.rank != 1:
        return None
    entries = kind.entries[slice(*spans[0])] if 0 in spans else kind.entries
    return Kind(1, shape=(len(entries),), entries=entries)


@_of_samples
def _reshape(node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    shape = others[0]
    if shape is None or not shape.entries or attribute(node, "allowzero"):
        return None
    first, *rest = shape.entries
    sizes = tuple(size for size in rest if isinstance(size, int) and size > 0)
    known = sizes if len(sizes) == len(rest) else None
    if first == -1:  # as many as there were if each is as large as it was
        same = known is not None and kind.shape is not None and math.prod(known) == math.prod(kind.shape)
        return Kind(1 + len(rest), apart=True, shape=known) if same else None
    return Kind(1 + len(rest), apart=True, shape=known) if first in (ROWS, 0) and ROWS not in rest else None


@_of_samples
def _expand(_node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    shape = others[0]
    if shape is None or not shape.entries or len(shape.entries) > kind.rank:
        return None
    first, *rest = shape.entries
    if (len(rest) + 1 == kind.rank and first not in (ROWS, 1)) or ROWS in rest:
        return None
    sizes = tuple(size for size in (rest if len(rest) + 1 == kind.rank else shape.entries) if isinstance(size, int))
    told = len(sizes) == len(rest) + (len(rest) + 1 < kind.rank)
    return Kind(kind.rank, apart=True, shape=_broadcast([kind.shape, sizes if told else None]))


@_of_samples
def _squeeze(node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    axes = _axes(node, others, kind.rank)
    return None if axes is None or 0 in axes else _of(kind.rank - len(set(axes)))


def _unsqueeze(node: onnx.NodeProto, given: Given) -> Kind | None:
    kind = given[0]
    if kind is None:
        return None
    axes = _axes(node, given[1:], 0)
    if axes is None:
        return None
    rank = kind.rank + len(axes)
    if kind.entries is not None and kind.rank == 0:
        return Kind(1, shape=(1,), entries=kind.entries) if len(axes) == 1 else None
    return Kind(rank, apart=True) if kind.apart and 0 not in [axis % rank for axis in axes] else None


@_of_samples
def _transpose(node: onnx.NodeProto, kind: Kind, _others: Given) -> Kind | None:
    order = attribute(node, "perm")
    if not isinstance(order, list) or order[0] != 0:
        return None
    return Kind(
        kind.rank, apart=True, shape=None if kind.shape is None else tuple(kind.shape[i - 1] for i in order[1:])
    )


@_of_samples
def _reduce(node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
    axes = _axes(node, others, kind.rank)
    if not axes or 0 in axes:
        return None
    return _of(kind.rank if attribute(node, "keepdims") != 0 else kind.rank - len(set(axes)))


def _along(default: int) -> Rule:
    """Operators that mix what lies along one axis, or on it and behind it."""

    @_of_samples
    def rule(node: onnx.NodeProto, kind: Kind, others: Given) -> Kind | None:
        return _of(kind.rank) if _fixed(others) and _axis(node, default, kind.rank) > 0 else None

    return rule


@_of_samples
def _flatten(node: onnx.NodeProto, kind: Kind, _others: Given) -> Kind | None:
    return _of(2) if _axis(node, 1, kind.rank) == 1 else None


@_of_samples
def _matmul(_node: onnx.NodeProto, first: Kind, others: Given) -> Kind | None:
    second = others[0]
    if second is None or first.rank < 3:
        return None  # of two axes: the rows are those of one product, whose last digits hang on how many they are
    alike = second.rank == first.rank if second.apart else second.rank == 2
    return _of(first.rank) if alike and not second.counts else None


_RULES: dict[str, Rule] = {
    **dict.fromkeys((
        "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
        "InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth",
    ), _by_row),
    **dict.fromkeys((*BY_VALUE, "Identity"), _alike),
    **dict.fromkeys((*BROADCASTING, "Clip"), _each_value),
    **dict.fromkeys((
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    ), _reduce),
    "Shape": _shape, "Concat": _concat, "Gather": _gather, "Slice": _slice, "Reshape": _reshape, "Expand": _expand,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Softmax": _along(-1),
    "LogSoftmax": _along(-1), "LayerNormalization": _along(-1), "Flatten": _flatten, "MatMul": _matmul,
    "BatchNormalization": _norm, "Pad": _pad, "Resize": _resize, "Split": _along(0),
}  # fmt: skip
