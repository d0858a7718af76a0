"""How the answers of a network move with its tensors: the backward pass as more nodes of the same graph.

What stands at an end is an answer: the outputs, and whatever is read by a node whose gradient nobody wrote (a loop, the
boxes that are left over): better to keep that than to know nothing. A softmax at the end is left away, for what is
large before it is all that it tells. What is sent back from the answers is noise, drawn by the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import inferred
from onnx_udfc.model.protos import attribute, reads, skeleton
from onnx_udfc.runtime.moves import BY_PLACE
from onnx_udfc.runtime.slopes import BY_VALUE, Rule
from onnx_udfc.runtime.tape import Size, Tape

RULES: dict[str, Rule] = BY_VALUE | BY_PLACE
_SHAPES = 1 << 14  # initializers of more bytes hold no shapes
_APART = 7919  # places of the noise at which one answer and the next begin
SILENT = ("Shape", "Size", "ConstantOfShape", "Range", "Constant", "RandomNormalLike", "RandomUniformLike")


@dataclass(frozen=True)
class Gradients:
    """A network with its backward pass behind it.

    Attributes:
        model: its outputs are the answers and the gradients.
        noise: graph input (n,) of noise; an answer of more values takes it again and again.
        answers: tensor that counts as an answer → graph input that its noise is multiplied with: of its shape, or
            of one that spreads to it.
        slopes: tensor → its gradient, for those that were asked for and lead to an answer.
    """

    model: onnx.ModelProto
    noise: str
    answers: dict[str, str]
    slopes: dict[str, str]


def with_gradients(model: onnx.ModelProto, sizes: Mapping[str, Size], wanted: Collection[str]) -> Gradients:
    """A network with the backward pass behind it.

    The model, of opset 18 or later, is changed in place. A node whose rule needs one of the `sizes` that is missing
    ends the pass; gradients of the `wanted` tensors are outputs.
    """
    return _Pass(model, sizes).back(wanted)


class _Pass:
    """State of one backward pass."""

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Size]) -> None:
        self.model, self.tape = model, Tape(model, sizes)
        self.fixed = {i.name for i in model.graph.input}
        self.types = _types(model)
        self.noise = self._input([None])
        self.answers: dict[str, str] = {}
        self.slopes: dict[str, str] = {}
        self.live: set[str] = set()

    def back(self, wanted: Collection[str]) -> Gradients:
        """All nodes, the last first."""
        graph = self.model.graph
        nodes, outputs = list(graph.node), [o.name for o in graph.output]
        read = [name for node in nodes for name in node.input]
        for name in outputs:
            maker = next((node for node in nodes if name in node.output), None)
            last = maker is not None and maker.op_type in ("Softmax", "LogSoftmax") and name not in read
            self.live.add(name)
            if last and maker is not None:
                self._answer(maker.input[0], attribute(maker, "axis", -1))
                nodes.remove(maker)
            else:
                self._answer(name)
        for node in reversed(nodes):
            if self.live & set(node.output) or any(name in self.slopes for name in node.output):
                self.live |= set(reads(node))
                self._node(node)
        found = {name: self.slopes[name] for name in wanted if name in self.slopes}
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys([*self.answers, *found.values()]))
        return Gradients(self.model, self.noise, dict(self.answers), found)

    def _node(self, node: onnx.NodeProto) -> None:
        """One node: the gradients at its inputs, or its inputs become answers."""
        given = [self.slopes.get(name) for name in node.output]
        if node.op_type in SILENT and standard(node.domain):
            return
        rule = RULES.get(node.op_type) if standard(node.domain) else None
        if rule is not None and any(given) and not self._sized(node):
            rule = None  # what a rule makes of its sizes would be guessed
        flows = None if rule is None or not any(given) else rule(self.tape, node, given)
        if flows is not None:
            for number, slope in flows.items():
                self._add(node.input[number], slope)
        elif rule is None or any(given):
            for name in reads(node):
                self._answer(name)

    def _sized(self, node: onnx.NodeProto) -> bool:
        """Whether the sizes are known of what a node reads and of those of its results that have a gradient."""
        written = [name for name in node.output if name in self.slopes]
        read = [name for name in reads(node) if name and name not in self.tape.constants]
        return all(name in self.tape.sizes for name in (*written, *read))

    def _answer(self, name: str, classes: int | None = None) -> None:
        """Make a tensor an answer, if it is of float values that are computed.

        `classes` is the axis along which a shift of all of its values changes nothing.
        """
        if not name or name in self.answers or name in self.fixed or name in self.tape.constants:
            return
        if self.types.get(name) != TensorProto.FLOAT:
            return
        tape = self.tape
        start = tape.constant(np.array(_APART * len(self.answers), np.int64))
        self.answers[name] = self._input(None)
        places = tape.op("Range", start, tape.op("Add", start, tape.op("Size", name)), tape.constant(np.array(1)))
        drawn = tape.op("Gather", self.noise, tape.op("Mod", places, tape.op("Size", self.noise)))
        noise = tape.op("Mul", tape.reshaped(drawn, name), self.answers[name])
        if classes is not None:
            level = tape.op("ReduceMean", noise, tape.integers([classes]), keepdims=1)
            noise = tape.op("Sub", noise, level)
        self._add(name, noise)

    def _input(self, shape: list[int | None] | None) -> str:
        """One more graph input of float values."""
        name = self.tape.fresh()
        self.model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def _add(self, name: str, slope: str) -> None:
        if name and name not in self.tape.constants:
            self.slopes[name] = self.tape.op("Add", self.slopes[name], slope) if name in self.slopes else slope


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor, as far as it is declared or follows."""
    graph = inferred(skeleton(model, _SHAPES)).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
