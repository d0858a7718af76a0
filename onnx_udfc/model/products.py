"""Matrix products and fused layers in other words, written as the layers that they are.

With W a constant matrix:

    W·x = (xᵀ·Wᵀ)ᵀ            Gemm of xᵀ (transA)            a weight (1, I, O) of as many axes as x
    an Einsum over the last axis of x and one of W            onnxruntime's FusedConv, FusedGemm, FusedMatMul

and what onnxruntime fuses around them: Gelu in four forms, a sum with the norm behind it.

A product of pictures that were turned for it alone is a convolution of one tap (`write_pointwise`).
Transposes that come to stand back to back are for `no_ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_udfc.model.graph import constant_input, is_dense
from onnx_udfc.model.layers import Layer, MatMul, kind_of
from onnx_udfc.model.names import Taken, taken_in, unique_name
from onnx_udfc.model.patterns import SINCE, rank_of, type_of, writer

MICROSOFT = "com.microsoft"
MOST_AXES = 4
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
# activation of a fused layer → its parameters, in the order of the list that a FusedConv has
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
}  # fmt: skip


@dataclass
class _Writer:
    """Makes nodes and constants of new names."""

    names: Taken
    opset: int

    def constant(self, like: str, values: np.ndarray[Any, Any]) -> gs.Constant:
        return gs.Constant(unique_name(like, self.names), np.ascontiguousarray(values))

    def node(self, op: str, like: gs.Node, inputs: Sequence[gs.Tensor], **attributes: Any) -> gs.Node:
        """A node with an output of its own."""
        name = unique_name(f"{like.name}.{op.lower()}", self.names)
        dtype = like.outputs[0].dtype
        return gs.Node(op, name, attributes, list(inputs), [gs.Variable(unique_name(f"{name}.out", self.names), dtype)])


def write_layers(graph: gs.Graph) -> None:
    """Writes the nodes anew that are layers in other words, in place."""
    if not any((node.domain, node.op) in RULES for node in graph.nodes):
        return
    make = _Writer(taken_in(graph), graph.opset)
    nodes: list[gs.Node] = []
    for node in graph.nodes:
        rule = RULES.get((node.domain, node.op))
        nodes.extend([node] if rule is None else rule(node, make))
    graph.nodes[:] = nodes


def write_pointwise(graph: gs.Graph, kept: set[str]) -> None:
    """Writes Transpose, MatMul, the Add of a bias, and the Transpose back as one Conv, in place.

    `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    for node in graph.nodes:
        before = writer(node.inputs[0], "Transpose") if kind_of(node.op) is MatMul and not node.domain else None
        if before is None or list(before.attrs.get("perm", ())) != TO_LAST or not is_dense(node.inputs[1]):
            continue
        weight, after, bias = node.inputs[1], _only_reader(node, kept), None
        if after is not None and after.op == "Add" and len(weight.shape) == 2:
            bias = constant_input(after)
            if bias is None or not is_dense(bias) or tuple(bias.shape) != (weight.shape[1],):
                continue
            after = _only_reader(after, kept)
        if after is None or after.op != "Transpose" or list(after.attrs.get("perm", ())) != TO_FIRST:
            continue
        if len(weight.shape) != 2:
            continue
        weight.values = np.ascontiguousarray(weight.values.T).reshape(*weight.shape[::-1], 1, 1)
        out, passed = after.outputs[0], node.outputs[0].outputs[0]
        for gone in {id(after): after, id(passed): passed}.values():
            gone.inputs.clear()
            gone.outputs.clear()
        node.op, node.inputs, node.outputs = (
            "Conv",
            [before.inputs[0], weight, *([] if bias is None else [bias])],
            [out],
        )
    graph.nodes[:] = [node for node in graph.nodes if node.outputs]


def _only_reader(node: gs.Node, kept: set[str]) -> gs.Node | None:
    """The one standard node that reads what a node writes, None if others do, too."""
    out = node.outputs[0]
    reader = out.outputs[0] if len(out.outputs) == 1 and out.name not in kept else None
    return reader if reader is not None and not reader.domain else None


def _end(node: gs.Node, old: gs.Node) -> None:
    """Lets a node write what an old one wrote."""
    out = old.outputs[0]
    old.outputs.clear()
    node.outputs = [out]


def _gemm(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """A Gemm that transposes its input reads a Transpose of it."""
    if node.attrs.get("transA", 0) and len(node.inputs) > 1 and is_dense(node.inputs[1]):
        turned = make.node("Transpose", node, [node.inputs[0]], perm=[1, 0])
        node.inputs[0] = turned.outputs[0]
        del node.attrs["transA"]
        yield turned
    yield node


def _matmul(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    left, right = node.inputs
    if is_dense(right) and len(right.shape) > 2 and (rank_of(left) or 0) >= len(right.shape):
        if set(right.shape[:-2]) == {1}:
            node.inputs[1] = make.constant(right.name, right.values.reshape(right.shape[-2:]))
    elif is_dense(left) and len(left.shape) >= 2 and not isinstance(right, gs.Constant):
        rank = rank_of(right)
        if rank is not None and max(2, len(left.shape)) <= rank <= MOST_AXES and set(left.shape[:-2]) <= {1}:
            yield from _on_the_right(node, rank, make)
            return
    yield node


def _on_the_right(node: gs.Node, rank: int, make: _Writer) -> Iterator[gs.Node]:
    """W·x as (xᵀ·Wᵀ)ᵀ."""
    left, right = node.inputs
    perm = [*range(rank - 2), rank - 1, rank - 2]
    weight = make.constant(left.name, left.values.reshape(left.shape[-2:]).T)
    before = make.node("Transpose", node, [right], perm=perm)
    after = make.node("Transpose", node, [], perm=perm)
    _end(after, node)
    node.inputs = [before.outputs[0], weight]
    node.outputs = [gs.Variable(unique_name(f"{node.name}.turned", make.names), after.outputs[0].dtype)]
    after.inputs = [node.outputs[0]]
    yield from (before, node, after)


def _einsum(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """...i,oi->...o and ...i,io->...o as a MatMul."""
    terms, _, result = str(node.attrs.get("equation", "")).replace(" ", "").partition("->")
    first, _, second = terms.partition(",")
    free = kind_of(node.op) is Layer  # else somebody has written a class for it
    fits = free and len(node.inputs) == 2 and is_dense(node.inputs[1]) and len(node.inputs[1].shape) == 2
    letters = first.replace("...", "")
    if fits and len(second) == 2 and letters and second.isalpha() and result and len(set(letters)) == len(letters):
        summed = letters[-1]
        other = second.replace(summed, "")
        if first.endswith(summed) and len(other) == 1 and other not in letters and result == first[:-1] + other:
            weight = node.inputs[1]
            matrix = weight.values if second[0] == summed else weight.values.T
            node.op, node.inputs[1] = "MatMul", make.constant(weight.name, matrix)
            node.attrs.clear()
    yield node


def _fused_conv(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """Conv, the Add of a residual, the activation."""
    parameters = [float(p) for p in node.attrs.get("activation_params", ())]
    op = node.attrs.get("activation", "")
    if op and not _known(op, parameters):
        yield node
        return
    residual = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    for name in ("activation", "activation_params"):
        node.attrs.pop(name, None)
    node.inputs = list(node.inputs[:3])
    yield from _unfused(node, "Conv", op, parameters, residual, make)


def _fused_gemm(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    op = node.attrs.get("activation", "")
    names = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    parameters = [float(node.attrs[name]) for name in names[: len(ACTIVATIONS.get(op, ()))] if name in node.attrs]
    if not _known(op, parameters):
        yield node
        return
    for name in ("activation", *names):
        node.attrs.pop(name, None)
    for made in _unfused(node, "Gemm", op, parameters, None, make):
        yield from _gemm(made, make) if made is node else [made]


def _known(op: str, parameters: Sequence[float]) -> bool:
    return len(parameters) == 2 if op == "Clip" else op in ACTIVATIONS and len(ACTIVATIONS[op]) == len(parameters)


def _unfused(
    node: gs.Node, layer: str, op: str, parameters: Sequence[float], residual: gs.Tensor | None, make: _Writer
) -> Iterator[gs.Node]:
    """The node as a layer of the standard, what was fused behind it."""
    made: list[gs.Node] = []
    if residual is not None:
        made.append(make.node("Add", node, [residual]))
    if op == "Clip":
        bounds = [make.constant(f"{node.name}.bound", np.array(p, np.float32)) for p in parameters]
        made.append(make.node("Clip", node, bounds))
    elif op:
        made.append(make.node(op, node, [], **dict(zip(ACTIVATIONS[op], parameters, strict=True))))
    node.op, node.domain = layer, None
    if made:
        _end(made[-1], node)
        node.outputs = [gs.Variable(unique_name(f"{node.name}.unfused", make.names), made[-1].outputs[0].dtype)]
    yield node
    before = node
    for after in made:
        after.inputs.insert(0, before.outputs[0])
        yield after
        before = after


def _fused_matmul(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """A MatMul whose weight is transposed and scaled."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    turned, rank = node.attrs.get("transA", 0), rank_of(node.inputs[0])
    plain = not any(node.attrs.get(name, 0) for name in ("transBatchA", "transBatchB")) and (not turned or rank)
    if plain and weight is not None and is_dense(weight) and len(weight.shape) == 2:
        if turned and rank is not None:
            before = make.node("Transpose", node, [node.inputs[0]], perm=[*range(rank - 2), rank - 1, rank - 2])
            node.inputs[0] = before.outputs[0]
            yield before
        matrix = weight.values.T if node.attrs.get("transB", 0) else weight.values
        scaled = (matrix.astype(np.float64) * float(node.attrs.get("alpha", 1.0))).astype(matrix.dtype)
        node.op, node.domain, node.inputs[1] = "MatMul", None, make.constant(weight.name, scaled)
        node.attrs.clear()
    yield node


def _quick_gelu(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """x·sigmoid(αx)."""
    x, alpha = node.inputs[0], float(node.attrs.get("alpha", 1.702))
    made: list[gs.Node] = []
    if alpha != 1:
        kind = helper.tensor_dtype_to_np_dtype(type_of(x) or onnx.TensorProto.FLOAT)
        made.append(make.node("Mul", node, [x, make.constant(f"{node.name}.alpha", np.array(alpha, kind))]))
    made.append(make.node("Sigmoid", node, [made[-1].outputs[0] if made else x]))
    node.op, node.domain, node.inputs = "Mul", None, [x, made[-1].outputs[0]]
    node.attrs.clear()
    yield from (*made, node)


def _gelu(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """Gelu by erf or, as FastGelu has it, by tanh; of the sum with a bias, if there is one."""
    if make.opset < SINCE["Gelu"]:
        yield node
        return
    if len(node.inputs) > 1 and not node.inputs[1].is_empty():
        bias = make.node("Add", node, node.inputs[:2])
        node.inputs = [bias.outputs[0]]
        yield bias
    attributes = {"approximate": "tanh"} if node.op == "FastGelu" else {}
    node.op, node.domain, node.inputs = "Gelu", None, node.inputs[:1]
    node.attrs.clear()
    node.attrs.update(attributes)
    yield node


def _skip_norm(node: gs.Node, make: _Writer) -> Iterator[gs.Node]:
    """LayerNormalization of x + skip (+ bias)."""
    x, skip, scale, shift, bias = [*node.inputs, *[gs.Variable.empty()] * 5][:5]
    whole = [out for out in node.outputs[1:] if not out.is_empty()]
    if make.opset < SINCE["LayerNormalization"] or (len(node.outputs) > 1 and whole != node.outputs[3:]):
        yield node
        return
    added = [skip] if bias.is_empty() else [bias, skip]
    for other in added:
        made = make.node("Add", node, [x, other])
        x = made.outputs[0]
        if other is skip and whole:
            x = made.outputs[0] = whole[0]
        yield made
    node.op, node.domain, node.outputs = "LayerNormalization", None, node.outputs[:1]
    node.inputs = [x, scale] if shift.is_empty() else [x, scale, shift]
    node.attrs.setdefault("epsilon", 1e-12)
    yield node


RULES: dict[tuple[str | None, str], Callable[[gs.Node, _Writer], Iterator[gs.Node]]] = {
    (None, "Gemm"): _gemm,
    (None, "MatMul"): _matmul,
    (None, "Einsum"): _einsum,
    (MICROSOFT, "FusedConv"): _fused_conv,
    (MICROSOFT, "FusedGemm"): _fused_gemm,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "QuickGelu"): _quick_gelu,
    **dict.fromkeys(((MICROSOFT, "Gelu"), (MICROSOFT, "BiasGelu"), (MICROSOFT, "FastGelu")), _gelu),
    (MICROSOFT, "SkipLayerNormalization"): _skip_norm,
}
