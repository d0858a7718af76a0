"""Unseen weights: of recurrent layers, tables of Gather nodes, and whatever stands in branches and loop bodies.

No run shows what they are multiplied with. A weight may lie in the graph that reads it, in one around it, and may pass
nodes that only move it (Slice, Concat, Unsqueeze …) on its way to the node that computes with it: exporters store the
gates of an LSTM in another order than ONNX has. What is stored is what becomes codes, so that all of that stays as it
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_udfc.model.graph import FLOATS, MOVES, is_dense, peek, standard
from onnx_udfc.model.lossless import Stored
from onnx_udfc.model.named import Origins, layers_meant
from onnx_udfc.model.names import matches
from onnx_udfc.model.protos import constants, inner_reads, subgraphs
from onnx_udfc.model.values import all_finite

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Array
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.grids import QuantParams

LEAST = 1024  # values from which on a weight is worth the nodes that give it back
LEAST_TABLE = 4096  # the same of a table
NARROW = 32  # values below which a scale for them would outweigh what their codes save
RECURRENT = ("LSTM", "GRU", "RNN")
TABLES = ("Gather",)
# The inputs of an operator that are weights where they are constant, and the operators that only move values.
SLOTS = dict.fromkeys(RECURRENT, (1, 2)) | dict.fromkeys(("Gemm", "MatMul"), (0, 1)) | dict.fromkeys(
    ("Conv", "ConvTranspose"), (1,)) | {"Gather": (0,)}  # fmt: skip

_PRECISIONS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

Path = tuple[tuple[str | int, str], ...]  # node (by name in the network's own graph, by place below), attribute


class Reader(NamedTuple):
    """A node that computes with a weight: its name and operator, and the node of the network's own graph it is in."""

    name: str
    op: str
    within: str


@dataclass(frozen=True, eq=False)
class Unseen:
    """A weight whose inputs nobody sees.

    Attributes:
        constant: its values, by the name that it has in the graph that holds it.
        path: from the network's graph to that graph; () is the network's own.
        readers: the nodes that compute with it.
        slot: the node of the network's own graph that reads it, and the input that it is there; None elsewhere.
        label: the name of the initializer that it was read from.
    """

    constant: gs.Constant
    path: Path
    readers: tuple[Reader, ...]
    slot: tuple[str, int] | None
    label: str

    @property
    def is_table(self) -> bool:
        """Whether it is the table of a Gather in the network's own graph."""
        return self.slot is not None and self.readers[0].op in TABLES

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which scales run.

        The squared error of nearest codes grows with that of their step, and the step with the largest value that
        shares it: of the axes whose scales do not outweigh the codes, those with the least sum of squared steps.
        Of a table the rows, whose sizes differ most, or the columns where rows are narrow: it need not be read. Of a
        recurrent layer the rows, unless they are narrow: what each is multiplied with can be seen.
        """
        if self.is_table:
            return (0,) if self.constant.shape[1] >= NARROW else (1,)
        if self.slot is not None and self.readers[0].op in RECURRENT and self.constant.shape[-1] >= NARROW:
            return tuple(range(len(self.constant.shape) - 1))
        largest = np.abs(np.asarray(peek(self.constant), np.float64))
        shape, every = largest.shape, tuple(range(largest.ndim))
        ways: list[tuple[int, ...]] = [(axis,) for axis in every] + ([(0, 1)] if len(every) > 2 else [])
        fit = [way for way in ways if largest.size >= NARROW * np.prod([shape[a] for a in way])]
        costs = {way: float(np.square(largest.max(axis=tuple(a for a in every if a not in way))).mean()) for way in fit}
        return min(costs, key=lambda way: (costs[way], len(way))) if costs else (int(np.argmin(shape)),)

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.constant.shape)) * int(np.dtype(self.constant.dtype).itemsize)

    @property
    def text(self) -> str:
        """The weight in words: name and shape."""
        return f"{self.label} ({' x '.join(str(int(n)) for n in self.constant.shape)})"

    def matrix(self, axes: tuple[int, ...]) -> NDArray[np.float64]:
        """The weight (1, n, d) with what shares a scale, one for each index along the axes, in a row."""
        values = np.asarray(peek(self.constant), np.float64)
        return np.moveaxis(values, axes, range(len(axes))).reshape(1, *self.sizes(axes))

    def sizes(self, axes: tuple[int, ...]) -> tuple[int, int]:
        """Number of scales, and of the values of each."""
        rows = int(np.prod([self.constant.shape[a] for a in axes]))
        return rows, int(np.prod(self.constant.shape)) // rows

    def layout(self, matrix: Array, axes: tuple[int, ...]) -> Array:
        """The inverse of `matrix()`: (1, n, d) to the weight's own shape."""
        shape = tuple(int(n) for n in self.constant.shape)
        moved = [shape[a] for a in axes] + [n for a, n in enumerate(shape) if a not in axes]
        laid: Array = np.moveaxis(matrix.reshape(moved), range(len(axes)), axes)
        return laid


@dataclass(frozen=True)
class RoundedUnseen:
    """An unseen weight with its codes and scales, as of `Unseen.matrix`."""

    weight: Unseen
    params: QuantParams


def find_unseen(network: Network, skip: Sequence[str]) -> dict[str, Unseen]:
    """A key of its own → each unseen weight: those that the network's own nodes read, then those inside of nodes.

    A weight that something needs in float, too, is none: codes beside it would only be more.
    `skip` are patterns of names of nodes and tensors that are left alone.
    """
    found = {one.constant.name: one for one in _own(network, skip)}
    for one in inner_weights(network.origin.model.graph, list(network.origin.nodes)):
        names = {one.constant.name, *(r.name for r in one.readers), *(r.within for r in one.readers)}
        if not any(matches(name, skip) for name in names):
            found["/".join([*(f"{node}.{attribute}" for node, attribute in one.path), one.constant.name])] = one
    return {key: one for key, one in found.items() if all_finite(peek(one.constant))}


def _own(network: Network, skip: Sequence[str]) -> Iterator[Unseen]:
    """The weights of recurrent layers and the tables of Gather nodes in the network's own graph."""
    shared = network.origin.shared
    needed = {t.name for t in network.graph.outputs}
    inside = inner_reads(network.origin.model.graph)
    taken, meant = list[Unseen](), layers_meant(skip, network)
    origins = Origins(network.origin.model.graph if skip else onnx.GraphProto())  # nobody asks without patterns
    for node in network.graph.nodes:
        unseen = (node.op in RECURRENT and not node.domain) or _reads_table(node)
        left = node.name in meant or not (unseen or node.name in network.layers) or _is_left(node, skip, origins)
        for slot, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant):
                continue
            label = shared.get(tensor.name, tensor.name)
            if left or any(matches(name, skip) for name in {label} | origins.names([label])):
                needed.add(label)
            elif unseen and slot in SLOTS[node.op] and is_dense(tensor) and np.prod(tensor.shape) >= LEAST:
                reader = Reader(node.name, node.op, node.name)
                taken.append(Unseen(tensor, (), (reader,), (node.name, slot), label))
    yield from (one for one in taken if one.label not in needed and not (one.is_table and one.label in inside))


def _is_left(node: gs.Node, skip: Sequence[str], origins: Origins) -> bool:
    """Whether a node is meant by its name, by what it gives, or by constants of it but its weights, a bias say."""
    weights = SLOTS.get(node.op, ())
    others = [t.name for slot, t in enumerate(node.inputs) if slot not in weights]
    return any(matches(name, skip) for name in (node.name, *(t.name for t in node.outputs), *origins.names(others)))


def _reads_table(node: gs.Node) -> bool:
    """Whether the node picks rows of a constant matrix that is large enough to matter."""
    if node.op not in TABLES or node.domain or not is_dense(node.inputs[0]):
        return False
    shape = tuple(node.inputs[0].shape)
    return len(shape) == 2 and node.attrs.get("axis", 0) in (0, -2) and int(np.prod(shape)) >= LEAST_TABLE


@dataclass
class _Scope:
    """A graph, and where it stands.

    `stored` is name → float tensor that it holds; `own` are all names that it defines; `uses` is name → the nodes, with
    the input, that read the tensor of this scope from here or from inside; `bodies` place of a Loop → its body.
    """

    graph: onnx.GraphProto
    path: Path
    outer: _Scope | None
    stored: dict[str, TensorProto]
    own: set[str]
    uses: dict[str, list[_Use]] = field(default_factory=dict)
    bodies: dict[int, _Scope] = field(default_factory=dict)

    def defines(self, name: str) -> _Scope | None:
        """The scope in which a name is defined that is read here."""
        scope: _Scope | None = self
        while scope is not None and name not in scope.own:
            scope = scope.outer
        return scope


@dataclass(frozen=True)
class _Use:
    """Who reads a tensor.

    The node is None where the tensor is an output of the graph, whose name it is then; `slot` is the input, or the
    output, that it is, `place` the node's among those of its graph.
    """

    scope: _Scope
    node: onnx.NodeProto | None
    name: str
    slot: int
    place: int = 0


def inner_weights(graph: onnx.GraphProto, names: list[str]) -> Iterator[Unseen]:
    """The weights that nodes with graphs inside hold, or read from around them."""
    if not any(subgraphs(node) for node in graph.node):
        return
    scopes = _scopes(graph, names)
    for scope in scopes:
        _note_uses(scope, names if not scope.path else [])
    outside = inner_reads(graph) | carried_into_loops(graph.node)
    for scope in scopes:
        for name, tensor in scope.stored.items():
            if scope.path or name in outside:
                readers = _readers(scope, name)
                if readers:
                    yield Unseen(gs.Constant(name, Stored(_named(tensor, name))), scope.path, readers, None, name)


def carried_into_loops(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The names of tensors that loops begin with: state, and weights that some exporters hand from step to step."""
    return {name for node in nodes if node.op_type == "Loop" for name in list(node.input)[2:] if name}


def _named(tensor: TensorProto, name: str) -> TensorProto:
    """The tensor of a Constant node by the name of what it gives."""
    if tensor.name == name:
        return tensor
    named = TensorProto()
    named.CopyFrom(tensor)
    named.name = name
    return named


def _scopes(graph: onnx.GraphProto, names: list[str]) -> list[_Scope]:
    """The graph and those inside of its nodes, each after the one around it."""
    found = [_scope(graph, (), None)]
    for outer in found:
        for i, node in enumerate(outer.graph.node):
            step = i if outer.path else names[i]
            inner = [_scope(a.g, (*outer.path, (step, a.name)), outer) for a in node.attribute if a.HasField("g")]
            found += inner
            if node.op_type == "Loop" and inner:
                outer.bodies[i] = inner[0]
    return found


def _scope(graph: onnx.GraphProto, path: Path, outer: _Scope | None) -> _Scope:
    inputs = {i.name for i in graph.input}
    held = {name: tensor for name, tensor in constants(graph).items() if name not in inputs}
    own = inputs | held.keys() | {name for node in graph.node for name in node.output if name}
    return _Scope(graph, path, outer, {name: tensor for name, tensor in held.items() if _large(tensor)}, own)


def _large(tensor: TensorProto) -> bool:
    known = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in FLOATS if kind != "bfloat16"}
    kinds = known | {int(TensorProto.BFLOAT16)}
    return tensor.data_type in kinds and len(tensor.dims) > 1 and int(np.prod(tensor.dims)) >= LEAST


def _note_uses(scope: _Scope, names: list[str]) -> None:
    """Tell the scopes around what this one reads of theirs."""
    read = [
        _Use(scope, node, names[i] if names else node.name or next(iter(node.output), ""), slot, i)
        for i, node in enumerate(scope.graph.node)
        for slot in range(len(node.input))
    ]
    for use in chain(read, (_Use(scope, None, o.name, slot) for slot, o in enumerate(scope.graph.output))):
        name = use.name if use.node is None else use.node.input[use.slot]
        home = scope.defines(name) if name else None
        if home is not None:
            home.uses.setdefault(name, []).append(use)


def _readers(scope: _Scope, name: str) -> tuple[Reader, ...]:
    """The nodes inside of others that compute with a stored tensor; none where something else needs it.

    What the nodes of the network's own graph need is known when they are written.
    """
    found: dict[Reader, None] = {}
    pending, seen = [_Held(scope, name)], {(id(scope), name)}
    while pending:
        held = pending.pop()
        for use in held.scope.uses.get(held.name, []):
            op = "" if use.node is None else use.node.op_type
            if use.node is None:
                if use.scope is not held.scope or use.slot != held.returned:
                    return ()
                continue
            if op == "Loop" and use.slot > 1 and use.place in use.scope.bodies:
                following = [_begun(use)]
            elif not use.scope.path:
                continue
            elif not standard(use.node.domain):
                return ()
            elif use.slot in SLOTS.get(op, ()):
                found[Reader(use.name, op, str(use.scope.path[0][0]))] = None
                continue
            elif (op in MOVES and (use.slot == 0 or op == "Concat")) or _widens(use.node):
                kept = held.returned if op == "Identity" and use.scope is held.scope else -1
                following = [_Held(use.scope, out, kept) for out in use.node.output]
            else:
                return ()
            for one in following:
                if one is None:
                    return ()
                if (id(one.scope), one.name) not in seen:
                    seen.add((id(one.scope), one.name))
                    pending.append(one)
    return tuple(found)


class _Held(NamedTuple):
    """A tensor with the values of a weight; `returned` is the output by which a loop's body hands it on."""

    scope: _Scope
    name: str
    returned: int = -1


def _begun(use: _Use) -> _Held | None:
    """What a loop's body calls a tensor that it begins with; None where something reads it when the loop has ended."""
    assert use.node is not None
    ended = use.node.output[use.slot - 2] if use.slot - 2 < len(use.node.output) else ""
    body = use.scope.bodies[use.place]
    if (ended and use.scope.uses.get(ended)) or use.slot >= len(body.graph.input):
        return None
    name = body.graph.input[use.slot].name
    handed = body.graph.output[use.slot - 1].name
    if not _same_as(body.graph, handed, name):
        return None
    return _Held(body, name, use.slot - 1)


def _same_as(graph: onnx.GraphProto, name: str, other: str) -> bool:
    """Whether a tensor is another one, but for nodes that give what they read."""
    given = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    seen = set[str]()
    while name != other and name in given and name not in seen:
        seen.add(name)
        name = given[name]
    return name == other


def _widens(node: onnx.NodeProto) -> bool:
    """Whether a node gives the numbers that it reads in another precision."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i in _PRECISIONS for a in node.attribute)


def unseen_lines(unseen: dict[str, Unseen], total: int) -> tuple[str, ...]:
    """A line for each table and each kind of other reader, with their share of the file's `total` bytes."""
    kinds: dict[str, list[Unseen]] = {}
    tables = {one.label: one for one in unseen.values() if one.is_table}
    for one in (one for one in unseen.values() if not one.is_table):
        kinds.setdefault(one.readers[0].op, []).append(one)
    return tuple(
        f"table of a Gather: {one.text}, {one.bytes} bytes, {100 * one.bytes / max(total, 1):.0f} % of the"
        " file's; --bits makes it smaller"
        for one in tables.values()
    ) + tuple(
        f"weights of {op}{'' if all(not one.path and one.slot for one in rows) else ' inside of branches or loops'}:"
        f" {', '.join(dict.fromkeys(one.text for one in rows))}, {sum(one.bytes for one in rows)} bytes,"
        f" {100 * sum(one.bytes for one in rows) / max(total, 1):.0f} % of the file's; --bits makes them smaller"
        for op, rows in kinds.items()
    )
