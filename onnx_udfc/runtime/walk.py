"""Runs a network piece by piece through onnxruntime, stopping at the nodes that the caller computes itself.

The caller's stops are the layers that are refitted and the batch norms that are matched. Between two stops everything
runs as one onnxruntime session; a tensor lives until its last user has run. A network of a fixed batch may name it
inside, too (Reshape to 1 x 256), and a scalar has one value in a run: then the samples go through each session run
after run (see `runs`). The caller always sees the runs' values one after another.

Parts that compute the same share a session, whatever their names: networks repeat their blocks, and a compressed one is
run like its original. They are told apart by what is in them, with tensors numbered as they appear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.model.protos import attribute, dense, reads
from onnx_udfc.model.values import values
from onnx_udfc.numerics.activation_grids import OnGrid
from onnx_udfc.numerics.products import each
from onnx_udfc.runtime.joined import Joined, JoinedRuns, Room
from onnx_udfc.runtime.machine import make_room, release
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.rows import EACH_A_SAMPLE, Kind, kinds_of, part_of, rows_apart
from onnx_udfc.runtime.runs import cut, model_specs, outputs_of
from onnx_udfc.runtime.sessions import open_session, packed

Value = NDArray[Any]
Held = NDArray[Any] | OnGrid

SMALL = 1 << 19  # values of all inputs, and of outputs of known sizes, below which rows are not shared out
PARTS = 16  # of the rows: as many threads can be at work
_LAYERS = frozenset({"Conv", "ConvTranspose", "BatchNormalization"})
BY_ROW = _LAYERS | {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus",
    "Mish", "Erf", "Gelu", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "InstanceNormalization", "DepthToSpace", "SpaceToDepth", "Identity",
}  # fmt: skip

LARGEST = 1 << 20  # bytes of a part that is remembered
MOST = 64  # sessions that are remembered


@dataclass(frozen=True)
class _Lengths:
    """How a tensor's values lie over the runs, one after another.

    Attributes:
        rows: of each run.
        scalar: each run has a scalar.
        parts: the values of the runs where these do not fit one another; the first run's stands for all then.
    """

    rows: tuple[int, ...]
    scalar: bool = False
    parts: tuple[Value, ...] = ()


class Walk:
    """One pass over a network.

    `get` computes a tensor from what is there; `put` gives the output of a stop. Each node runs once.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Mapping[str, Value],
        stops: Sequence[str],
        watched: Mapping[str, Callable[[Value], Held]] | None = None,
        pieces: Pieces | None = None,
        *,
        in_place: bool = False,
    ) -> None:
        """Start a pass.

        Args:
            model: the whole network; nodes in topological order, names unique.
            feeds: graph input name → value.
            stops: names of the nodes whose first output the caller puts.
            watched: tensor → function that sees its value and gives what the users of the tensor see.
            pieces: sessions that are open already, of a network with the same blocks.
            in_place: a result may take the memory of a value that it was the last to need: neither the caller nor a
                watcher keeps what it got, or what it has put, beyond that.
        """
        self._watched = watched or {}
        self._given = frozenset(feeds) if in_place else None
        self.pieces = pieces or Pieces()
        self.values: dict[str, Held] = {}
        self._model = model
        self._runs = cut(model_specs(model, list(feeds)), feeds)
        self._lengths: dict[str, _Lengths] = {}
        if len(self._runs.feeds) > 1 or self._runs.samples < self._runs.size:
            for name in feeds:
                self._enter(name, [run[name] for run in self._runs.feeds])
        else:
            self.values |= {name: self._seen(name, value) for name, value in self._runs.feeds[0].items()}
        self._stopped = set(stops)
        self._nodes = list(model.graph.node)
        self._stops = {i for i, n in enumerate(self._nodes) if n.name in self._stopped}
        self._index = {n.name: i for i, n in enumerate(self._nodes)}
        self._constants = {t.name: t for t in model.graph.initializer}
        self._constants |= {s.values.name: dense(s) for s in model.graph.sparse_initializer}
        self._reads = [sorted({*reads(n)} - {""}) for n in self._nodes]
        self._writer = {name: i for i, n in enumerate(self._nodes) for name in n.output if name}
        self._users: dict[str, set[int]] = {}
        for i, names in enumerate(self._reads):
            for name in names:
                self._users.setdefault(name, set()).add(i)

    def get(self, name: str) -> Value:
        """Value of a tensor; runs the nodes that lead to it.

        Raises:
            KeyError: it depends on a stop that has not been put, or on an input that was not fed.
        """
        if name not in self.values and name in self._constants:
            return np.asarray(values(self._constants[name]))
        self.run_to(name)
        return _plain(self.values[name])

    def run_to(self, name: str) -> None:
        """Run the nodes that lead to a tensor which is no constant; errors as of `get`."""
        if name not in self.values:
            self._run(sorted(self._needed(name)), name)

    def available(self, name: str) -> bool:
        """Whether `get` would succeed now."""
        try:
            return name in self.values or name in self._constants or bool(self._needed(name))
        except KeyError:
            return False

    def put(self, node: str, value: Value) -> None:
        """Give the first output of a stop and free what only it needed."""
        index = self._index[node]
        name = self._nodes[index].output[0]
        self.values[name] = self._seen(name, value)
        lengths = self._lengths.get(self._nodes[index].input[0])
        if lengths is not None and not lengths.parts:  # a layer or a norm has as many rows as its input
            self._lengths[name] = lengths
        self._done([index])

    def change(self, constant: str, value: Value) -> None:
        """Give a constant another value of the same shape, for the nodes that have not run."""
        self._constants[constant] = numpy_helper.from_array(np.ascontiguousarray(value), constant)

    @cached_property
    def _kinds(self) -> dict[str, Kind]:
        """What is known of the tensors; nothing where not every input has the samples along its first axis."""
        fed, samples = self._runs.feeds[0], self._runs.samples
        if not all(isinstance(value, np.ndarray) and value.ndim and len(value) == samples for value in fed.values()):
            return {}
        return kinds_of(self._model, {name: value.shape[1:] for name, value in fed.items()}, self._stopped)

    def _seen(self, name: str, value: Value) -> Held:
        """The value as the tensor's users see it."""
        return self._watched[name](value) if name in self._watched else value

    def _needed(self, name: str) -> set[int]:
        """Indices of the nodes that must run before `name` is there."""
        needed: set[int] = set()
        pending = [name]
        while pending:
            tensor = pending.pop()
            if tensor in self.values or tensor in self._constants:
                continue
            index = self._writer[tensor]
            if index in self._stops:
                raise KeyError(tensor)
            if index not in needed:
                needed.add(index)
                pending += self._reads[index]
        return needed

    def _run(self, indices: list[int], wanted: str) -> None:
        inside = set(indices)
        nodes = [self._nodes[i] for i in indices]
        read = {name for i in indices for name in self._reads[i]}
        inputs = {name: self.values[name] for name in sorted(read) if name in self.values}
        written = [name for node in nodes for name in node.output if name]
        outputs = [n for n in written if n == wanted or n in self._watched or self._users.get(n, set()) - inside]
        constants = [self._constants[name] for name in sorted(read) if name in self._constants and name not in inputs]
        release()
        self._compute(nodes, inputs, outputs, constants, self._spent(inputs, inside, wanted))
        self._done(indices, keep=wanted)

    def _spent(self, inputs: Mapping[str, Held], inside: set[int], keep: str) -> list[Value]:
        """Those of the values that nothing else waits for, where they may be written over."""
        if self._given is None:
            return []
        last = [name for name in inputs if name != keep and name not in self._given and self._users[name] <= inside]
        return [value for name in last if isinstance(value := self.values[name], np.ndarray)]

    def _compute(
        self,
        nodes: list[onnx.NodeProto],
        inputs: dict[str, Held],
        outputs: list[str],
        constants: list[onnx.TensorProto],
        spent: list[Value],
    ) -> None:
        """Run the nodes on all samples; run after run where what they read differs from run to run."""
        if not any(name in self._lengths for name in inputs):
            found = run_nodes(self._model, nodes, inputs, outputs, constants, self.pieces, spent, self._kinds)
            for name in outputs:  # of a watched tensor what it was goes before the next one is changed
                self.values[name] = self._seen(name, found.pop(name))
            return
        first = {name: self._part(name, value, 0) for name, value in inputs.items()}
        segment = _opened(self.pieces, self._model, nodes, first, outputs, constants)

        def one(number: int) -> list[Value]:
            found = outputs_of(segment, outputs, {name: self._part(name, v, number) for name, v in inputs.items()})
            return [joined[name].take(number, value) for name, value in zip(outputs, found, strict=True)]

        count = len(self._runs.feeds)
        apart = {
            id(v)
            for n, v in inputs.items()
            if n in self._lengths and self._lengths[n].rows == (self._runs.size,) * count
        }
        room = Room([value for value in spent if id(value) in apart])
        joined = {name: JoinedRuns(count, self._runs.size, room) for name in outputs}
        parts = each(one, range(count))
        for i, name in enumerate(outputs):
            self._enter(name, [part[i] for part in parts], joined.pop(name))

    def _enter(self, name: str, parts: list[Value], joined: JoinedRuns | None = None) -> None:
        """Take the value of a tensor from all runs; what is the same in all (a shape) is held once."""
        first = parts[0]
        if not isinstance(first, np.ndarray):  # a sequence
            self.values[name], self._lengths[name] = first, _Lengths((), parts=tuple(parts))
            return
        per_sample = first.ndim > 0 and len(first) == self._runs.size
        alike = all(part.shape[1:] == first.shape[1:] and part.ndim == first.ndim for part in parts)
        same = not (per_sample and first.ndim > 1) and all(np.array_equal(first, part) for part in parts)
        if same or not alike:
            self.values[name] = self._seen(name, first)
            if not same:
                self._lengths[name] = _Lengths((), parts=tuple(parts))
            return
        lengths = tuple(1 if first.ndim == 0 else len(part) for part in parts)
        whole = (joined or JoinedRuns(len(parts), self._runs.size, Room([]))).whole(parts)
        self._lengths[name] = _Lengths(lengths, first.ndim == 0)
        self.values[name] = self._seen(name, whole[: self._runs.samples] if per_sample else whole)

    def _part(self, name: str, value: Held, number: int) -> Value:
        """What a tensor is in one run."""
        lengths = self._lengths.get(name)
        if lengths is None:
            return _plain(value)
        if lengths.parts:
            return lengths.parts[number]
        if lengths.scalar:
            return np.asarray(value[number])
        start = sum(lengths.rows[:number])
        end = start + lengths.rows[number]
        return value[start:end] if end <= len(value) else value[np.minimum(np.arange(start, end), len(value) - 1)]

    def _done(self, indices: list[int], keep: str = "") -> None:
        """Forget that these nodes wait; free the values that nobody waits for any more."""
        for index in indices:
            for name in self._reads[index]:
                users = self._users[name]
                users.discard(index)
                if not users and name != keep:
                    self._free(name)
            for name in self._nodes[index].output:
                if name != keep and not self._users.get(name):
                    self._free(name)

    def _free(self, name: str) -> None:
        self.values.pop(name, None)
        self._lengths.pop(name, None)


def run_nodes(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Held],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto],
    pieces: Pieces | None = None,
    spent: Sequence[Value] = (),
    kinds: Mapping[str, Kind] | None = None,
) -> dict[str, Value]:
    """Run some nodes of a model on values, output name → value.

    A session has one thread: how several of them divide a convolution changes its last digits. Where every row of the
    inputs is a sample of its own, rows are shared out instead, in parts that do not depend on how many threads work;
    then outputs may take the memory of inputs that are `spent`, for a part is written when it was read.
    """
    segment = _opened(pieces or Pieces(), model, nodes, inputs, outputs, constants)
    rows, known, read = 0, kinds or {}, [value for value in inputs.values() if not isinstance(value, list)]
    longest = max((len(value) for value in read if value.ndim), default=0)
    made = longest * sum(math.prod(known[name].shape or (0,)) for name in outputs if name in known)
    if max(made, sum(value.size for value in read)) >= SMALL:
        rows = _rows(nodes, inputs, constants)
        if rows:
            known = dict.fromkeys((*inputs, *outputs), EACH_A_SAMPLE)
        else:
            rows = rows_apart(inputs, outputs, known)
    if rows < 2:
        whole = {name: _plain(value) for name, value in inputs.items()}
        return dict(zip(outputs, outputs_of(segment, outputs, whole), strict=True))
    make_room(4 * made)
    step, joined = -(-rows // PARTS), Joined(rows, spent)

    def part(start: int) -> None:
        length = min(step, rows - start)
        cut = {name: _rows_of(value, known[name], start, length) for name, value in inputs.items()}
        joined.take(start, outputs, outputs_of(segment, outputs, cut), known)
        release()  # what parts leave lies between those that are at work

    each(part, range(0, rows, step))
    make_room(sum(value.nbytes for value in joined.values.values()))  # what comes next is most likely as large
    return joined.values


def _plain(value: Held) -> Value:
    return value[...] if isinstance(value, OnGrid) else value


def _rows_of(value: Held, kind: Kind, start: int, length: int) -> Value:
    if isinstance(value, OnGrid) and kind.apart:
        return value[start : start + length]
    return part_of(_plain(value), kind, start, length)


def _rows(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Held], constants: Sequence[onnx.TensorProto]) -> int:
    """Rows of all inputs where each is computed for itself; 0 where that is not certain."""
    if any(isinstance(value, list) for value in inputs.values()):  # a sequence
        return 0
    shapes = {(value.ndim, len(value) if value.ndim else 0) for value in inputs.values()}
    if len(shapes) != 1 or not all(_by_row(node) for node in nodes):
        return 0
    ((rank, rows),) = shapes
    known = {c.name: c for c in constants}
    parameters = {name for node in nodes if node.op_type in _LAYERS for name in node.input[1:] if name}
    if rank < 2 or not parameters <= known.keys():
        return 0
    added = [c for name, c in known.items() if name not in parameters]
    return 0 if any(len(c.dims) >= rank and c.dims[0] != 1 for c in added) else rows


def _by_row(node: onnx.NodeProto) -> bool:
    """Whether a node makes each row of its output of the same row of its inputs."""
    if node.op_type == "Concat":
        return bool(attribute(node, "axis", 0) > 0)
    return node.op_type in BY_ROW and not node.domain


def _opened(
    pieces: Pieces,
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Held],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto],
) -> Piece:
    """Some nodes of a model, open; where onnxruntime needs to know how long lists of sizes are, it is told.

    It takes the part of a list of unknown length for an empty one, and no list of sizes fits then.
    """
    try:
        return pieces.piece(_segment(model, nodes, inputs, outputs, constants))
    except ModelError:
        sizes = {name: len(v) for name, v in inputs.items() if isinstance(v, np.ndarray) and v.ndim == 1}
        if not sizes:
            raise
        told = _segment(model, nodes, inputs, outputs, constants)
        for info in told.graph.input:
            if info.name in sizes:
                info.type.tensor_type.shape.dim[0].dim_value = sizes[info.name]
        return pieces.piece(told)


def _segment(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Held],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """Some nodes of a model as a model of their own."""
    declared = [_declared(name, value) for name, value in inputs.items()]
    segment = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = segment.graph
    graph.name = "segment"
    graph.node.extend(nodes)
    graph.input.extend(declared)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
    graph.initializer.extend(constants)  # the only copy of the weights: make_graph and make_model would each add one
    return segment


def _declared(name: str, value: Any) -> onnx.ValueInfoProto:
    """A value as an input of a model; a sequence has the type of its first tensor, an empty one is float."""
    if isinstance(value, np.ndarray | OnGrid):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
    element = helper.np_dtype_to_tensor_dtype(np.asarray(value[0]).dtype) if value else onnx.TensorProto.FLOAT
    return helper.make_tensor_sequence_value_info(name, element, None)


class Piece:
    """An open part of a network under the names of its first user, and what they are called by the others."""

    def __init__(self, session: Any, names: Mapping[str, str]) -> None:
        """Args: the session, and name of a tensor → its name in the session."""
        self._session, self._names = session, names

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """The outputs for some inputs, as a session gives them."""
        fed = {self._names.get(name, name): value for name, value in inputs.items()}
        return list(self._session.run([self._names.get(name, name) for name in outputs], fed))


class Pieces:
    """The sessions that are open."""

    def __init__(self, provider: Provider = CPU) -> None:
        """Start with none; args: what runs them."""
        self._provider = provider
        self._open: dict[bytes, Any] = {}

    def piece(self, part: onnx.ModelProto) -> Piece:
        """An open part; the model may be changed.

        Raises:
            RequestError: the provider does not load, or does not take it.
            ModelError: onnxruntime does not load it.
        """
        tensors, attributes = part.graph.initializer, [a for node in part.graph.node for a in node.attribute]
        large = sum(tensor.ByteSize() for tensor in tensors) > LARGEST or any(t.external_data for t in tensors)
        if large or len(self._open) >= MOST or any(a.HasField("g") or a.graphs for a in attributes):
            return Piece(open_session(packed(part), self._provider, 1), {})
        names = _number(part.graph)
        key = part.SerializeToString(deterministic=True)
        if key not in self._open:
            self._open[key] = open_session(key, self._provider, 1)
        return Piece(self._open[key], names)


def _number(graph: onnx.GraphProto) -> dict[str, str]:
    """Call the tensors of a graph by their numbers; gives their names before → after."""
    names: dict[str, str] = {}
    for i, node in enumerate(graph.node):
        node.name, node.doc_string = f"n{i}", ""
        for side in (node.input, node.output):
            for at, name in enumerate(side):
                if name:
                    side[at] = names.setdefault(name, f"t{len(names)}")
    for tensors in (graph.input, graph.output, graph.initializer):
        for value in tensors:
            value.name = names.setdefault(value.name, f"t{len(names)}")
    for kept in (graph.input, graph.initializer):
        ordered = sorted(kept, key=lambda value: int(value.name[1:]))
        del kept[:]
        kept.extend(ordered)
    return names
