"""A float32 network as one of float16: weights, and what computes in them; inputs and outputs keep their types."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.half_nodes import LAYERS, PAIRS, Halves, constant_nodes, delicate_nodes, half_nodes, tensor_types
from onnx_udfc.emit.unseen import halve_inside
from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.protos import inner_reads, reads
from onnx_udfc.model.values import values
from onnx_udfc.numerics.halves import Span, holds, rounded_filters

LEAST = 32  # values of a constant from which on it is worth a Cast where its reader computes in float32
LEAST_FIXED = 256  # the same of two nodes
WIDEST = 2**15 - 1  # code of 16 bits


@dataclass(frozen=True)
class Halved:
    """A network of float16.

    The nodes compute in float16; `wide` are those that compute in float32 of float32 inputs that are no constants.
    """

    model: onnx.ModelProto
    nodes: frozenset[str]
    wide: tuple[str, ...]


def to_float16(model: onnx.ModelProto, spans: Mapping[str, Span]) -> Halved:
    """Turn a model, in place, into one that computes in float16 where it can.

    Nodes are in topological order, with unique names. Tensors that `spans` lacks are taken to fit.
    """
    chosen = half_nodes(model, spans)
    kinds = tensor_types(model)
    delicate = delicate_nodes(model.graph, spans)
    _Rewriter(model, chosen, kinds, constant_nodes(model.graph), delicate).write()
    halve_inside(model)
    wide = [
        node.name for node in model.graph.node
        if node.name not in chosen and node.op_type != "Cast"
        and any(kinds.get(name) == TensorProto.FLOAT for name in node.output)
    ]  # fmt: skip
    return Halved(model, frozenset(chosen), tuple(wide))


class _Rewriter:
    """Gives every float32 tensor the type in which it is written, and casts it where it is read in the other."""

    def __init__(
        self,
        model: onnx.ModelProto,
        chosen: Mapping[str, Halves],
        kinds: Mapping[str, int],
        exact: Collection[str],
        delicate: Collection[str],
    ) -> None:
        """Take a model.

        Args:
            model: changed by `write`.
            chosen: what computes in float16.
            kinds: types of tensors.
            exact: names of the nodes whose constants stay as they are: scales of codes.
            delicate: names of the nodes where small values count: their weights become codes of 16 bits, which are
                finer than a float16.
        """
        self.exact, self.delicate = {*exact, *delicate}, delicate
        self.draft, self.chosen, self.graph = Draft(model), chosen, model.graph
        inner = inner_reads(model.graph)
        self.pinned = inner | {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
        written = {name for half in chosen.values() for name in half.outputs}
        self.as_half = {name for half in chosen.values() for name in half.inputs}
        self.as_float = {o.name for o in model.graph.output} | set(self._read_wide(kinds))
        self.stored = set(self._storable())
        self.filters = {n.input[1] for n in model.graph.node if kind_of(n.op_type).convolves}
        self.half = written | self.stored
        self.fixed = frozenset(self._fixable())

    def _read_wide(self, kinds: Mapping[str, int]) -> Iterable[str]:
        """The float32 tensors that are read as such."""
        for node in self.graph.node:
            taken = self.chosen[node.name].inputs if node.name in self.chosen else frozenset()
            yield from (name for name in reads(node) if kinds.get(name) == TensorProto.FLOAT and name not in taken)

    def _storable(self) -> Iterable[str]:
        """The constants that are stored as float16: read so, or large enough for a Cast."""
        outputs = {o.name for o in self.graph.output}
        kept = {n for node in self.graph.node if node.op_type in PAIRS or node.name in self.exact for n in node.input}
        for tensor in self.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or tensor.name in outputs:
                continue
            large = int(np.prod(tensor.dims)) >= LEAST and tensor.name not in kept and holds(values(tensor))
            if tensor.name in self.as_half or large:
                yield tensor.name

    def _fixable(self) -> Iterable[str]:
        """The weights that only delicate nodes read."""
        readers: dict[str, set[str]] = {}
        for node in self.graph.node:
            for name in reads(node):
                readers.setdefault(name, set()).add(node.name if node.op_type in LAYERS else "")
        for tensor in self.graph.initializer:
            large = len(tensor.dims) > 1 and int(np.prod(tensor.dims)) >= LEAST_FIXED
            free = tensor.name not in self.stored and tensor.name not in self.pinned
            if (
                large
                and free
                and tensor.data_type == TensorProto.FLOAT
                and readers.get(tensor.name, {""}) <= {*self.delicate}
            ):
                yield tensor.name

    def write(self) -> None:
        """Change the model."""
        half_names = {name: self._half_name(name) for name in sorted(self.half | self.as_half)}
        float_names = {name: self._float_name(name) for name in sorted(self.half & self.as_float)}
        for tensor in list(self.graph.initializer):
            if tensor.name in self.stored:
                self._store(tensor, half_names[tensor.name], float_names.get(tensor.name))
            elif tensor.name in self.fixed:
                self._fix(tensor)
        for info in self.graph.input:
            if info.name in self.as_half:
                self.draft.first([self._cast(info.name, half_names[info.name], TensorProto.FLOAT16)])
        for node in list(self.graph.node):
            self._node(node, half_names, float_names)
        for info in self.graph.value_info:
            if info.name in self.half and half_names[info.name] == info.name:
                info.type.tensor_type.elem_type = TensorProto.FLOAT16
        for tensor in self.graph.initializer:
            if tensor.name in self.as_half - self.half:
                self.draft.first([self._cast(tensor.name, half_names[tensor.name], TensorProto.FLOAT16)])
        self.draft.finish()

    def _half_name(self, name: str) -> str:
        """Of the float16 form: the old name where the tensor is written so and nobody outside asks for it."""
        return name if name in self.half and name not in self.pinned else self.draft.name(f"{name}.half")

    def _float_name(self, name: str) -> str:
        return name if name in self.pinned else self.draft.name(f"{name}.wide")

    def _cast(self, source: str, target: str, kind: int) -> onnx.NodeProto:
        return self.draft.node("Cast", f"{target}.cast", [source], target, {"to": kind})

    def _store(self, tensor: TensorProto, half_name: str, float_name: str | None) -> None:
        """A constant in float16, and its Cast where somebody wants float32."""
        with np.errstate(over="ignore", under="ignore"):
            stored = TensorProto(name=half_name, data_type=TensorProto.FLOAT16, dims=tensor.dims)
            real = np.ascontiguousarray(values(tensor), np.float32)
            half = rounded_filters(real) if tensor.name in self.filters else real
            stored.raw_data = half.astype("<f2").tobytes()
        stored.doc_string = tensor.doc_string
        stored.metadata_props.extend(tensor.metadata_props)
        tensor.CopyFrom(stored)
        if float_name is not None:
            self.draft.first([self._cast(half_name, float_name, TensorProto.FLOAT)])

    def _fix(self, tensor: TensorProto) -> None:
        """A weight as codes of 16 bits, with a scale for each index of its first axis."""
        weight = np.asarray(values(tensor), np.float64)
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        scale = np.where(largest > 0, largest / WIDEST, 1.0).astype(np.float32)
        codes = np.clip(np.rint(weight / scale), -WIDEST, WIDEST).astype(np.int16)
        self.draft.drop_constant(tensor.name)
        wide = self.draft.name(f"{tensor.name}.wide")
        inputs = [
            self.draft.constant(f"{tensor.name}.codes", codes, tensor),
            self.draft.constant(f"{tensor.name}.scale", scale),
        ]
        self.draft.first([
            self._cast(inputs[0], wide, TensorProto.FLOAT),
            self.draft.node("Mul", f"{tensor.name}.rescale", [wide, inputs[1]], tensor.name),
        ])  # fmt: skip

    def _node(self, node: onnx.NodeProto, half_names: Mapping[str, str], float_names: Mapping[str, str]) -> None:
        """The names that a node reads and writes, and the Casts behind it."""
        taken = self.chosen.get(node.name, Halves(frozenset(), frozenset()))
        after = []
        for i, name in enumerate(node.input):
            node.input[i] = half_names[name] if name in taken.inputs else float_names.get(name, name)
        for i, name in enumerate(node.output):
            if name in taken.outputs:
                node.output[i] = half_names[name]
                if name in float_names:
                    after.append(self._cast(half_names[name], float_names[name], TensorProto.FLOAT))
            elif name in self.as_half:
                after.append(self._cast(name, half_names[name], TensorProto.FLOAT16))
        if taken.outputs and node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = TensorProto.FLOAT16
        self.draft.after(node.name, after)
