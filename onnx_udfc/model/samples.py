"""Networks that take one picture or sound without an axis of samples, and give it one themselves (an Unsqueeze).

All else here takes samples along an axis. So such a network is given one while it is worked on: its inputs and outputs
get a first axis of one sample, which is taken off again behind an input and put on before an output. What is written
takes and gives what the file does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.model.files import LoadedModel, load, read_model
from onnx_udfc.model.graph import BY_VALUE, standard
from onnx_udfc.model.inference import inferred
from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.names import Taken, names_in, unique_name
from onnx_udfc.model.protos import attribute, constants, opset_of, skeleton, subgraphs
from onnx_udfc.model.values import values

Source = str | Path | bytes | onnx.ModelProto
_AXES = "onnx_udfc.first_axis"
NEW = -1  # an axis that the graph adds
MOST_AXES = 3  # of a picture without samples
SHAPES = 1 << 14  # initializers of more bytes hold no shapes
AXES_AS_INPUT = 13  # the opset from which on the axes of Squeeze and Unsqueeze are an input

_SAME_AXES = frozenset((
    *BY_VALUE, "Identity", "Pow", "Pad", "Slice", "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear",
    "BatchNormalization", "InstanceNormalization", "Dropout", "Concat", "Split", "ReverseSequence", "CastLike",
))  # fmt: skip
_TWO_OPERANDS = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min"))


def with_samples(source: Source, like: Source | None = None) -> Source:
    """The source itself, or a model whose inputs and outputs have an axis of samples, where it lacks one.

    `like` is another network of the same inputs, whose lack tells.

    Raises:
        ModelError: it cannot be read.
    """
    told = read_model(source if like is None else like)
    found = _without_samples(told)
    if not found:
        return source
    outputs = _outputs_without(told)
    model = onnx.ModelProto()
    model.CopyFrom(told if like is None else read_model(source))
    writer = _Writer(model)
    for info in model.graph.input:
        if info.name in found:
            writer.enter(info)
    for info in model.graph.output:
        if info.name in outputs:
            writer.leave(info)
    return model


def as_given(model: onnx.ModelProto, source: Source) -> onnx.ModelProto:
    """The model with the inputs and outputs of the source, from which `with_samples` made what became the model."""
    given = read_model(source).graph
    result = onnx.ModelProto()
    result.CopyFrom(model)
    writer = _Writer(result)
    ends = ((result.graph.input, given.input, writer.entered), (result.graph.output, given.output, writer.left))
    for infos, those, take_off in ends:
        old = {info.name: info for info in those}
        for info in infos:
            if info.name in old and _rank(info) != _rank(old[info.name]):
                take_off(info.name)
                info.CopyFrom(old[info.name])
    writer.clear()
    return result


def load_with_samples(source: Source) -> tuple[LoadedModel, onnx.ModelProto | None]:
    """The source, loaded with an axis of samples; and what is run in its place where it lacks one.

    Raises:
        ModelError: it cannot be loaded.
    """
    apart = with_samples(source)
    if apart is source or not isinstance(apart, onnx.ModelProto):
        return load(source), None
    loaded, more = load(apart), apart.ByteSize() - read_model(source).ByteSize()
    path = Path(source) if isinstance(source, str | Path) else None
    return replace(loaded, path=path, bytes=loaded.bytes - more), apart


def _rank(info: onnx.ValueInfoProto) -> int | None:
    tensor = info.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _without_samples(model: onnx.ModelProto) -> set[str]:
    """The inputs that the graph gives an axis of samples before a convolution reads them."""
    graph = model.graph
    ranks = {info.name: _rank(info) for info in graph.input}
    known = constants(graph)
    small = {n: t for n, t in known.items() if math.prod(t.dims) <= SHAPES}
    asked = [n for n, rank in ranks.items() if n not in known and rank in range(1, MOST_AXES + 1)]
    if any(rank is not None and rank > MOST_AXES for rank in ranks.values()):
        return set()
    return {name for name in asked if _gets_samples(graph, name, ranks[name] or 0, small)}


def _gets_samples(graph: onnx.GraphProto, name: str, rank: int, known: Mapping[str, TensorProto]) -> bool:
    """Whether the axis of samples of a convolution that reads an input is one that the graph adds."""
    axes: dict[str, tuple[int, ...]] = {name: tuple(range(rank))}
    for node in graph.node:
        found = axes.get(node.input[0]) if node.input else None
        if found is None and node.op_type in _TWO_OPERANDS and len(node.input) > 1:
            found = axes.get(node.input[1])
        if found is None or not standard(node.domain):
            continue
        if kind_of(node.op_type).convolves or node.op_type == "STFT":
            return found[:1] == (NEW,)
        after = _after(node, found, known)
        if after is not None:
            axes |= dict.fromkeys(node.output, after)
    return False


def _after(node: onnx.NodeProto, axes: tuple[int, ...], known: Mapping[str, TensorProto]) -> tuple[int, ...] | None:
    """The axes of what a node makes of a tensor; None where no rule tells."""
    if node.op_type in _SAME_AXES:
        return axes
    if node.op_type in _TWO_OPERANDS:
        ranks = [len(known[n].dims) for n in node.input if n in known]
        return (NEW,) * (max([len(axes), *ranks]) - len(axes)) + axes
    if node.op_type == "Transpose":
        order = attribute(node, "perm") or range(len(axes))[::-1]
        return tuple(axes[i] for i in order) if sorted(order) == list(range(len(axes))) else None
    told = attribute(node, "axes") if attribute(node, "axes") is not None else _ints(known, node.input[1:2])
    if told is None or not axes:
        return None
    if node.op_type == "Unsqueeze":
        result, rest = [NEW] * (len(axes) + len(told)), iter(axes)
        places = {i % len(result) for i in told}
        return tuple(NEW if i in places else next(rest) for i in range(len(result)))
    if node.op_type == "Squeeze":
        gone = {i % len(axes) for i in told}
        return tuple(axis for i, axis in enumerate(axes) if i not in gone)
    if node.op_type == "Reshape" and len(told) == len(axes) + 1 and 1 in (told[0], told[-1]):
        return (NEW, *axes) if told[0] == 1 else (*axes, NEW)
    return None


def _ints(known: Mapping[str, TensorProto], names: Sequence[str]) -> list[int] | None:
    found = values(known[names[0]]) if names and names[0] in known else None
    return None if found is None or found.dtype.kind not in "iu" else [int(i) for i in found.reshape(-1)]


def _outputs_without(model: onnx.ModelProto) -> set[str]:
    """The outputs that have no axis of samples: those whose first one is not 1."""
    copy = skeleton(model, SHAPES)
    for info in copy.graph.output:  # what is declared may be a name
        info.type.tensor_type.ClearField("shape")
    ranked = {info.name: info for info in model.graph.output if _rank(info) is not None}
    known = ranked | {info.name: info for info in inferred(copy).graph.output if _rank(info) is not None}
    dims = {name: known[name].type.tensor_type.shape.dim for name in ranked}
    return {name for name, found in dims.items() if not found or found[0].dim_value != 1}


class _Writer:
    """Puts axes on and takes them off."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._version = opset_of(model) or AXES_AS_INPUT
        self._taken = Taken(names_in(model.graph))
        self._axes: str = ""

    def enter(self, info: onnx.ValueInfoProto) -> None:
        """Give an input a first axis, which is taken off before it is read."""
        inner = self._renamed(info.name)
        self._graph.node.insert(0, self._node("Squeeze", info.name, inner))
        _give_axis(info)

    def leave(self, info: onnx.ValueInfoProto) -> None:
        """Give an output a first axis, which is put on behind what gives it."""
        self._graph.node.append(self._node("Unsqueeze", self._renamed(info.name), info.name))
        _give_axis(info)

    def entered(self, name: str) -> None:
        """Take an input's first axis off, with the nodes that do so; it is put on for those that read it."""
        readers = [node for node in self._graph.node if name in node.input]
        inner = [node.output[0] for node in readers if node.op_type == "Squeeze" and self._first(node)]
        if len(inner) == len(readers) and not {info.name for info in self._graph.output} & set(inner):
            for node in readers:
                self._graph.node.remove(node)
            _rename(self._graph, dict.fromkeys(inner, name))
        else:
            self._graph.node.insert(0, self._node("Unsqueeze", name, self._renamed(name)))

    def left(self, name: str) -> None:
        """Take an output's first axis off, with the node that puts it on; or behind the one that gives it whole."""
        (last,) = (node for node in self._graph.node if name in node.output)
        ends = {info.name for info in [*self._graph.input, *self._graph.output, *self._graph.initializer]}
        if last.op_type == "Unsqueeze" and self._first(last) and last.input[0] not in ends:
            inner = last.input[0]
            self._graph.node.remove(last)
            _rename(self._graph, {name: self._fresh(name)})  # who reads it with its axis
            _rename(self._graph, {inner: name})
        else:
            self._graph.node.append(self._node("Squeeze", self._renamed(name), name))

    def clear(self) -> None:
        """Drop the constants of the nodes that are gone."""
        read = {name for node in self._graph.node for name in _all_reads(node)}
        unread = [t for t in self._graph.initializer if t.name not in read and t.name.startswith(_AXES)]
        for tensor in unread:
            self._graph.initializer.remove(tensor)

    def _renamed(self, name: str) -> str:
        inner = self._fresh(name)
        _rename(self._graph, {name: inner})
        return inner

    def _fresh(self, name: str) -> str:
        return unique_name(f"{name}.alone", self._taken)

    def _first(self, node: onnx.NodeProto) -> bool:
        """Whether the one axis that a node names is the first."""
        named = attribute(node, "axes") or _ints(constants(self._graph), node.input[1:2])
        return list(named or ()) == [0]

    def _node(self, op: str, source: str, target: str) -> onnx.NodeProto:
        name = unique_name(f"{target}.{op.lower()}", self._taken)
        if self._version < AXES_AS_INPUT:
            return helper.make_node(op, [source], [target], name, axes=[0])
        if not self._axes:
            self._axes = unique_name(_AXES, self._taken)
            self._graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), self._axes))
        return helper.make_node(op, [source, self._axes], [target], name)


def _give_axis(info: onnx.ValueInfoProto) -> None:
    dims = list(info.type.tensor_type.shape.dim)
    del info.type.tensor_type.shape.dim[:]
    info.type.tensor_type.shape.dim.add(dim_value=1)
    info.type.tensor_type.shape.dim.extend(dims)


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    """Rename tensors wherever nodes read or write them, in subgraphs, too; in place."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name in new:
                    names[i] = new[name]
        for inner in subgraphs(node):
            _rename(inner, new)
            for info in inner.output:
                info.name = new.get(info.name, info.name)
    kept = [info for info in graph.value_info if info.name not in new and info.name not in new.values()]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _all_reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for inner in subgraphs(node):
        for each in inner.node:
            yield from _all_reads(each)
