"""A model that is being added to: unique names, initializers in raw_data, nodes before and after others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.model.names import Taken, names_in, unique_name

if TYPE_CHECKING:
    from onnx_udfc.numerics.grids import Codes

LONGEST = 48  # characters of a name that new names are made of
WORTH_SHARING = 64  # bytes from which on equal initializers are written once
CODE_TYPES = {8: TensorProto.INT8, 4: TensorProto.INT4}


class Draft:
    """Collects changes to a model; `finish` puts them in."""

    def __init__(self, model: onnx.ModelProto, inside: tuple[onnx.GraphProto, Draft] | None = None) -> None:
        """Start from a model, which `finish` changes in place; its nodes have unique names.

        `inside` is a graph inside of a node, to change that in place of the model's own, and a draft of the model,
        whose names new ones differ from.
        """
        self.model = model
        self.graph = model.graph if inside is None else inside[0]
        self.nodes = {node.name: node for node in self.graph.node}
        self.constants = {t.name: t for t in self.graph.initializer}
        self._taken: Taken = Taken(names_in(model.graph)) if inside is None else inside[1]._taken
        self._added: list[onnx.TensorProto] = []
        self._contents: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        self._dropped: set[str] = set()
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._first: list[onnx.NodeProto] = []
        self._shared: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._steps = 0

    def name(self, wanted: str) -> str:
        """`wanted`, or the first of wanted_2, wanted_3, … that no tensor and no node has.

        Of a long name the part before the last point becomes short: exporters' paths would outweigh small weights.
        """
        base, point, rest = wanted.rpartition(".")
        if len(base) > LONGEST:
            wanted = f"{self._short.setdefault(base, f'q{len(self._short)}')}{point}{rest}"
        return unique_name(wanted, self._taken)

    def constant(self, name: str, values: NDArray[Any], source: TensorProto | None = None, alone: bool = False) -> str:
        """Add an initializer and return its name, made unique.

        The remarks of `source`, the initializer that it comes from, are kept. Unless it is to be `alone`, an equal one
        that is there already may be taken.
        """
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        return self._add(tensor, source, alone)

    def shared(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer that all who ask for this name use, and return the name that it got."""
        if name not in self._shared:
            self._shared[name] = self.constant(name, values)
        return self._shared[name]

    def step(self, op: str, inputs: Sequence[str]) -> onnx.NodeProto:
        """Return a node of many: its name, which its output has too, is short, for all of them are in the file."""
        self._steps += 1
        name = self.name(f"u{self._steps}")
        return helper.make_node(op, list(inputs), [name], name=name)

    def codes(self, name: str, codes: Codes, bits: int, source: TensorProto | None = None, alone: bool = False) -> str:
        """Add codes (int8, any shape) as an initializer of 8 or 4 bits; the rest as of `constant`."""
        raw = np.ascontiguousarray(codes).tobytes() if bits == 8 else pack(codes)
        dims = tuple(int(n) for n in codes.shape)
        tensor = TensorProto(name=name, data_type=CODE_TYPES[bits], dims=dims, raw_data=raw)
        return self._add(tensor, source, alone)

    def _add(self, tensor: TensorProto, source: TensorProto | None, alone: bool) -> str:
        large = len(tensor.raw_data) >= WORTH_SHARING and not alone
        key = (tensor.data_type, tuple(tensor.dims), sha256(tensor.raw_data).digest())
        if large and key in self._contents:
            return self._contents[key]
        tensor.name = self.name(tensor.name)
        if large:
            self._contents[key] = tensor.name
        if source is not None:
            tensor.doc_string = source.doc_string
            tensor.metadata_props.extend(source.metadata_props)
        self._added.append(tensor)
        return tensor.name

    def drop_constant(self, name: str) -> None:
        """Remove an initializer, or a Constant node; a node of the same output name may take its place."""
        self._dropped.add(name)

    def node(
        self, op: str, name: str, inputs: Sequence[str], output: str, attributes: Mapping[str, int] | None = None
    ) -> onnx.NodeProto:
        """Return a node with a unique name; `before`, `after` or `first` puts it into the graph."""
        made = helper.make_node(op, list(inputs), [output], name=self.name(name))
        made.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        return made

    def before(self, node: str, added: Sequence[onnx.NodeProto]) -> None:
        """Put nodes before the node of this name."""
        self._before.setdefault(node, []).extend(added)

    def after(self, node: str, added: Sequence[onnx.NodeProto]) -> None:
        """Put nodes after the node of this name, and after what was put there earlier."""
        self._after.setdefault(node, []).extend(added)

    def first(self, added: Sequence[onnx.NodeProto]) -> None:
        """Put nodes before all others."""
        self._first.extend(added)

    def finish(self) -> onnx.ModelProto:
        """Write everything into the model and return it."""
        graph = self.graph
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name in self._dropped:
                del graph.initializer[index]
        graph.initializer.extend(self._added)
        nodes = list(self._first)
        for node in graph.node:
            if node.op_type == "Constant" and self._dropped.issuperset(node.output):
                continue
            nodes += [*self._before.get(node.name, []), node, *self._after.get(node.name, [])]
        ordered = onnx.GraphProto(node=nodes)  # copies: the nodes of the list may be the graph's own
        del graph.node[:]
        graph.node.extend(ordered.node)
        return self.model


def pack(codes: Codes) -> bytes:
    """Pack signed codes of 4 bits into bytes, the first code in the lower half (ONNX's raw_data)."""
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1).view(np.uint8)
    packed: NDArray[np.uint8] = flat[::2] & np.uint8(15)
    packed[: flat.size // 2] |= flat[1::2] << np.uint8(4)
    return packed.tobytes()
