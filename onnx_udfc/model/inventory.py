"""What a file keeps its weights in: which node reads them, in which form and how many bits, what cannot be smaller.

A weight may reach its node through nodes that compute it from constants (Cast → Mul, DequantizeLinear, words that are
taken apart). Whatever depends on constants only is followed back to the initializers, so that every form there is, ours
or another tool's, is found.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_udfc.errors import ModelError
from onnx_udfc.escapes import some
from onnx_udfc.model.protos import all_tensors, attribute, constants, subgraphs, tensor_bytes
from onnx_udfc.model.unseen import RECURRENT, TABLES, Path, inner_weights
from onnx_udfc.model.values import values

MATMULS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
INTEGER_OPS = (
    "QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4", "QAttention", "GatherBlockQuantized", "DynamicQuantizeLSTM",
)  # fmt: skip
BIAS_SLOTS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8, "QGemm": 6}
_KNOWN = dict(TensorProto.DataType.items())  # those of two bits came with onnx 1.20
CODE_BITS: Mapping[int, int] = {
    _KNOWN[name]: bits
    for bits, names in {
        16: ("INT16", "UINT16"),
        8: ("INT8", "UINT8", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        2: ("INT2", "UINT2"),
    }.items()
    for name in names
    if name in _KNOWN
}
FLOAT_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
}  # fmt: skip
SIGNED = tuple(_KNOWN[name] for name in ("INT8", "INT4", "INT2") if name in _KNOWN)
Key = tuple[Path, str]  # a tensor: where its graph stands, its name
SMALL = 1024  # elements below which a constant of a node that is no layer is not a weight
MENTIONED = 0.01
MOST_READ = 1 << 26  # codes whose values are looked at


@dataclass(frozen=True)
class Holding:
    """The weights that one node reads.

    Attributes:
        node: its name, or that of its first output.
        op_type: its operator.
        weight: the tensor that it reads.
        bits: that one weight takes: those that its codes use, or of its float type.
        parameters: number of weights.
        bytes: what they take in the file, with their scales; 0 where another node's row has counted them.
        form: how they become the tensor, e.g. Cast(INT4→FLOAT)→Mul; empty where it is stored as it is.
        left: why they cannot be compressed; empty where they can, or are compressed already.
        biases: number of constant biases beside them.
    """

    node: str
    op_type: str
    weight: str
    bits: float
    parameters: int
    bytes: int
    form: str
    left: str = ""
    biases: int = 0

    @property
    def quantized(self) -> bool:
        """Whether the weights are there as codes."""
        return bool(self.form) and not self.left and self.bits < min(FLOAT_BITS.values())


def inventory(model: onnx.ModelProto) -> tuple[Holding, ...]:
    """The weights of a model, node by node; a constant that several nodes read is counted where it is read first.

    Nodes inside of others are among them, after the one that holds them.
    """
    steps = [str(i) for i in range(len(model.graph.node))]
    unseen = frozenset((one.path, one.constant.name) for one in inner_weights(model.graph, steps))
    functions = {(f.domain, f.name): f for f in model.functions}
    return tuple(_of_graph(_Constants(model.graph), functions, unseen, set()))


def _of_graph(
    graph: _Constants, functions: dict[tuple[str, str], onnx.FunctionProto], unseen: frozenset[Key], used: set[Key]
) -> Iterator[Holding]:
    """The rows of a graph and of those inside of its nodes.

    `functions` are those whose weights were not counted yet, `unseen` weights inside of nodes that can be compressed,
    `used` tensors that were counted.
    """
    for i, node in enumerate(graph.graph.node):
        function = functions.pop((node.domain, node.op_type), None)
        if function is not None:
            inside = [
                t for t in all_tensors(onnx.ModelProto(graph=onnx.GraphProto(node=function.node))) if _is_numbers(t)
            ]
            if any(math.prod(t.dims) >= SMALL for t in inside):
                yield _inner(node, inside)
        if node.output and not graph.is_constant(node.output[0]):
            yield from _read_by(node, graph, unseen, used)
        for held in node.attribute:
            if held.HasField("g"):
                step = (i if graph.place else str(i), held.name)
                inner = _Constants(held.g, graph, (*graph.place, step))
                yield from _of_graph(inner, functions, unseen, used)


def left_out(holdings: tuple[Holding, ...], total: int) -> tuple[str, ...]:
    """One line for each reason why weights are not compressed, with their share of the file's `total` bytes.

    What is less than MENTIONED of the file is not worth a line.
    """
    reasons: dict[str, list[Holding]] = {}
    for holding in holdings:
        if holding.left:
            reasons.setdefault(holding.left, []).append(holding)
    taken = {reason: sum(h.bytes for h in rows) for reason, rows in reasons.items()}
    return tuple(
        f"{reason}: {some([h.node for h in rows])} ({_share(taken[reason], total)} of the file's bytes)"
        for reason, rows in reasons.items()
        if taken[reason] >= MENTIONED * total
    )


def already_quantized(holdings: tuple[Holding, ...], total: int) -> tuple[str, ...]:
    """A line about the weights that are codes already."""
    rows = [h for h in holdings if h.quantized]
    if not rows:
        return ()
    share = _share(sum(h.bytes for h in rows), total)
    return (f"quantized already and left alone: the weights of {len(rows)} nodes, {share} of the file's bytes",)


def _share(part: int, total: int) -> str:
    return f"{100 * part / max(total, 1):.0f} %"


class _Constants:
    """The tensors of a graph that depend on nothing but constants, and of the graphs around it."""

    def __init__(self, graph: onnx.GraphProto, outer: _Constants | None = None, path: Path = ()) -> None:
        self.graph, self.outer, self.place = graph, outer, path
        self.own = constants(graph)
        self.tensors: ChainMap[str, TensorProto] = ChainMap(self.own)
        self.writers: ChainMap[str, onnx.NodeProto] = ChainMap()
        self.divided: set[str] = {node.input[0] for node in graph.node if node.op_type == "Div" and node.input}
        if outer is not None:
            self.tensors.maps.extend(outer.tensors.maps)
            self.writers.maps.extend(outer.writers.maps)
            self.divided |= outer.divided
        # A name of this graph hides that of one around it.
        self._variable = {i.name for i in graph.input if outer is not None} - set(self.own)
        self._constant = set(self.own) | {s.values.name for s in graph.sparse_initializer}
        for node in graph.node:
            self.writers.update({name: node for name in node.output if name})
            known = not subgraphs(node) and all(self.is_constant(name) for name in node.input if name)
            if known and (node.input or node.op_type == "Constant"):
                self._constant.update(node.output)
            else:
                self._variable.update(node.output)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor depends on constants only."""
        if name in self._constant or name in self._variable or self.outer is None:
            return name in self._constant
        return self.outer.is_constant(name)

    def key(self, name: str) -> Key:
        """The name of a stored tensor, with where it stands."""
        return (self.place, name) if name in self.own or self.outer is None else self.outer.key(name)

    def roots(self, name: str) -> dict[str, TensorProto]:
        """The stored tensors that a constant one is computed from."""
        found, pending, seen = {}, [name], {name}
        while pending:
            current = pending.pop()
            if current in self.tensors:
                found[current] = self.tensors[current]
                continue
            inputs = [i for i in self.writers[current].input if i and i not in seen] if current in self.writers else []
            seen.update(inputs)
            pending += inputs
        return found

    def path(self, name: str, root: str) -> list[onnx.NodeProto]:
        """The nodes from a stored tensor to the constant one that is computed from it."""
        path: list[onnx.NodeProto] = []
        while name != root and name in self.writers:
            node = self.writers[name]
            path.append(node)
            name = next(i for i in node.input if i == root or (i and i not in self.tensors and root in self.roots(i)))
        return path[::-1]


def _read_by(node: onnx.NodeProto, graph: _Constants, unseen: frozenset[Key], used: set[Key]) -> Iterator[Holding]:
    """The row of a node; none where it reads no weights."""
    constant = [name for name in dict.fromkeys(node.input) if name and graph.is_constant(name)]
    roots = {name: graph.roots(name) for name in constant}
    stored = {k: t for found in roots.values() for k, t in found.items() if t.data_type != TensorProto.STRING}
    if not stored:
        return
    main = max(stored, key=lambda k: _weight_like(stored[k], graph))
    tensor = next(name for name in constant if main in roots[name])
    path = graph.path(tensor, main)
    words = _levels(path, graph)
    kind = stored[main].data_type
    if words is None and kind not in CODE_BITS and kind not in FLOAT_BITS:
        return
    count = _count(path, graph) if words is not None else math.prod(stored[main].dims)
    if count < SMALL and node.op_type not in (*MATMULS, *INTEGER_OPS):
        return
    bytes_ = sum(tensor_bytes(t) for k, t in stored.items() if graph.key(k) not in used)
    used.update(graph.key(k) for k in stored)
    bits, form = _bits(node, stored[main], words), _form(node, stored[main], path, words)
    if node.op_type == "MatMulNBits":
        count = int(attribute(node, "K", 1)) * int(attribute(node, "N", 1))
    inside = graph.key(main) in unseen
    carried = inside and node.op_type == "Loop"
    left = "" if carried else _why_left(node, kind, bool(form), inside or not graph.place)
    biases = _biases(node, graph)
    yield Holding(_name(node), node.op_type, tensor, bits, count, bytes_, form, left, biases)


def _weight_like(tensor: TensorProto, graph: _Constants) -> tuple[bool, bool, int]:
    """What comes first among the tensors that a weight is made of: packed words, then codes, then the largest."""
    words = tensor.data_type == TensorProto.INT64 and tensor.name in graph.divided
    return words, tensor.data_type in CODE_BITS, tensor_bytes(tensor)


def _biases(node: onnx.NodeProto, graph: _Constants) -> int:
    """The number of constant biases of a node."""
    slot = BIAS_SLOTS.get(node.op_type, len(node.input))
    name = node.input[slot] if slot < len(node.input) else ""
    return max((math.prod(t.dims) for t in graph.roots(name).values()), default=0) if graph.is_constant(name) else 0


def _why_left(node: onnx.NodeProto, kind: int, computed: bool, free: bool) -> str:
    """Why the weights of a node cannot be made smaller here.

    `kind` is the type in which they are stored; `computed`, whether they become the tensor by nodes that compute;
    `free`, whether nobody needs them in float, as far as the node stands inside of another.
    """
    if node.op_type in INTEGER_OPS:
        return f"{node.op_type} holds integers already and is not compressed further"
    if kind in CODE_BITS or computed:
        return ""
    if node.op_type in (*MATMULS, *TABLES, *RECURRENT):
        return "" if free else "weights that other nodes inside of branches and loops need are not compressed"
    return "constants of other operators are not compressed"


def _is_numbers(tensor: TensorProto) -> bool:
    """Whether a tensor holds what weights are made of."""
    return tensor.data_type in FLOAT_BITS or tensor.data_type in CODE_BITS


def _inner(node: onnx.NodeProto, tensors: list[TensorProto]) -> Holding:
    """The row of a function whose weights are inside it."""
    count, taken = sum(math.prod(t.dims) for t in tensors), sum(map(tensor_bytes, tensors))
    kind = max(tensors, key=tensor_bytes).data_type
    bits = FLOAT_BITS.get(kind) or CODE_BITS[kind]
    why = "weights inside a function are not compressed"
    return Holding(_name(node), node.op_type, "", bits, count, taken, "", why)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), node.op_type)


def _levels(path: list[onnx.NodeProto], graph: _Constants) -> int | None:
    """The base of packed words (`numerics.words`) where the path takes some apart, else None."""
    if len(path) < 2 or [path[0].op_type, path[1].op_type] != ["Div", "Mod"]:
        return None
    base = graph.tensors.get(path[1].input[1])
    return None if base is None or math.prod(base.dims) != 1 else int(numpy_helper.to_array(base).reshape(()))


def _count(path: list[onnx.NodeProto], graph: _Constants) -> int:
    """The number of codes in words: what the last Reshape makes of them."""
    shapes = [graph.tensors[n.input[1]] for n in path if n.op_type == "Reshape" and n.input[1] in graph.tensors]
    return int(np.prod(numpy_helper.to_array(shapes[-1]))) if shapes else 0


def _bits(node: onnx.NodeProto, stored: TensorProto, levels: int | None) -> float:
    """The bits that a code uses, which may be fewer than its type has."""
    if levels is not None:
        whole = math.log2(levels + 1)
        return whole if whole.is_integer() else round(math.log2(levels), 2)
    if node.op_type in ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"):
        return float(attribute(node, "bits", 4))
    if stored.data_type in FLOAT_BITS:
        return FLOAT_BITS[stored.data_type]
    wide = CODE_BITS[stored.data_type]
    if stored.data_type not in SIGNED or math.prod(stored.dims) > MOST_READ:
        return wide
    try:
        codes = values(stored)
    except ModelError:
        return wide
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    return max(2, 1 + max(high, -1 - low).bit_length())


def _form(node: onnx.NodeProto, stored: TensorProto, path: list[onnx.NodeProto], levels: int | None) -> str:
    """A form in words: the type of the codes, and the operators that they pass."""
    names = {number: name for name, number in TensorProto.DataType.items()}
    if not path:
        return f"{node.op_type}({names[stored.data_type]})" if stored.data_type in CODE_BITS else ""
    if levels is not None:
        last = [n.op_type for n in path if n.op_type in ("DequantizeLinear", "Mul")]
        return "→".join([f"words of {levels} levels", *last])
    shown = [n for n in path if n.op_type in ("Cast", "Mul", "DequantizeLinear", "Sub", "Div")]
    if not shown:
        return ""
    return "→".join(
        f"{n.op_type}({_typed(n, names[stored.data_type], names)})" if i == 0 else n.op_type
        for i, n in enumerate(shown)
    )


def _typed(node: onnx.NodeProto, kind: str, names: Mapping[int, str]) -> str:
    """The type that a node reads, and the one that it writes where that is its purpose; blocks where there are."""
    if node.op_type == "Cast":
        return f"{kind}→{names.get(int(attribute(node, 'to', 0)), '?')}"
    block = int(attribute(node, "block_size", 0)) if node.op_type == "DequantizeLinear" else 0
    return f"{kind}, blocks of {block}" if block else kind
