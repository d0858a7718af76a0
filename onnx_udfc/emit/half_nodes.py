"""Which nodes of a network compute in float16, and which of their inputs and outputs are float16 then.

A node does where onnx allows float16 for it, where its values fit (`numerics.halves`), and where it stands before the
last layer: what follows (softmax, decoding of boxes, a choice of the best) is cheap, and exact in float32. These stay
in float32, too:

- what is computed of constants alone: onnxruntime does it once, at load, and folds no product of 16-bit floats;
- integer kernels: Q/DQ pairs and the nodes between them;
- normalisations and sums of squares, whose sums overflow inside, where no value tells;
- logarithms, roots and quotients of values so small that float16 has few bits of them, with what makes these;
- nodes with subgraphs, and of other domains than onnx's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, defs

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import infer
from onnx_udfc.model.protos import opset_of, reads, skeleton, subgraphs
from onnx_udfc.model.values import values
from onnx_udfc.numerics.halves import Span, holds

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum")
PAIRS = ("QuantizeLinear", "DequantizeLinear")
WIDE = frozenset({
    *PAIRS, "Constant", "ConstantOfShape", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
    "EyeLike", "Range", "CumSum", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
    "BatchNormalization", "MeanVarianceNormalization", "RMSNormalization", "LpNormalization", "LRN", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum", "LpPool", "GlobalLpPool", "NonMaxSuppression",
})  # fmt: skip
SENSITIVE = {"Log": 0, "Sqrt": 0, "Reciprocal": 0, "Pow": 0, "Div": 1}  # the input whose small values count
FOLLOWED = 1 << 12  # bytes of initializers that inference of types sees


@dataclass(frozen=True)
class Halves:
    """Names of float32 tensors that a node takes, and gives, as float16."""

    inputs: frozenset[str]
    outputs: frozenset[str]


def half_nodes(model: onnx.ModelProto, spans: Mapping[str, Span]) -> dict[str, Halves]:
    """Name of a node → what it takes and gives in float16, for the nodes that compute so.

    Nodes are in topological order, with unique names. Tensors that `spans` lacks are taken to fit.
    """
    kinds = tensor_types(model)
    opset = opset_of(model) or 1
    apart = _apart(model.graph) | delicate_nodes(model.graph, spans)
    constants = {t.name: t for t in model.graph.initializer}
    chosen = {}
    for node in model.graph.node:
        if node.name in apart:
            continue
        found = _typed(node, opset, kinds)
        if found is not None and all(_fits(name, spans, constants) for name in (*found.inputs, *found.outputs)):
            chosen[node.name] = found
    return chosen


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Name of a tensor of the top-level graph → its element type, where it can be inferred."""
    graph = infer(skeleton(model, FOLLOWED)).graph
    kinds = {i.name: i.type.tensor_type.elem_type for i in (*graph.value_info, *graph.input, *graph.output)}
    kinds |= {t.name: t.data_type for t in model.graph.initializer}
    return {name: kind for name, kind in kinds.items() if kind != TensorProto.UNDEFINED}


def constant_nodes(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the nodes that depend on constants alone."""
    constant = {t.name for t in graph.initializer}
    found = set()
    for node in graph.node:
        if all(not name or name in constant for name in reads(node)):
            found.add(node.name)
            constant.update(node.output)
    return frozenset(found)


def _apart(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that stay as they are whatever their values are."""
    found = set(constant_nodes(graph))
    quantized = {
        name for node in graph.node if node.op_type == "DequantizeLinear" and node.name not in found
        for name in node.output
    }  # fmt: skip
    for node in graph.node:
        if node.op_type in WIDE or not standard(node.domain) or subgraphs(node):
            found.add(node.name)
    before = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    leading: set[str] = set()  # tensors that a layer depends on
    for node in reversed(graph.node):
        if node.op_type in LAYERS or leading.intersection(node.output):
            leading.update(name for name in reads(node) if name)
        else:
            found.add(node.name)
        if quantized.intersection(node.input) or before.intersection(node.output):
            found.add(node.name)
    return found


def delicate_nodes(graph: onnx.GraphProto, spans: Mapping[str, Span]) -> set[str]:
    """Names of the nodes that make small values whose logarithm, root or quotient is taken.

    A logarithm shows errors that are small beside the largest value as large as any: all that leads to it is there.
    """
    writers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    for node in graph.node:
        slot = SENSITIVE.get(node.op_type)
        if slot is None or not _is_small(node.input[slot], spans):
            continue
        found.add(node.name)
        pending, seen = [node.input[slot]], {node.input[slot]}
        while pending:
            name = pending.pop()
            if name in writers and (node.op_type == "Log" or _is_small(name, spans)):
                found.add(writers[name].name)
                fresh = set(reads(writers[name])) - seen
                seen |= fresh
                pending += sorted(fresh)
    return found


def _is_small(name: str, spans: Mapping[str, Span]) -> bool:
    return name in spans and spans[name].small


def _typed(node: onnx.NodeProto, opset: int, kinds: Mapping[str, int]) -> Halves | None:
    """The float32 tensors of a node that may be float16; None where onnx, or what is not known, forbids it."""
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    allowed = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    sides: list[frozenset[str]] = []
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        turned = set()
        for i, name in enumerate(names):
            formal = formals[min(i, len(formals) - 1)]
            if name and name not in kinds:
                return None
            if not name or kinds[name] != TensorProto.FLOAT:
                continue
            if formal.type_str in allowed:
                turned.add(name)
            elif names is node.output:
                return None
        sides.append(frozenset(turned))
    if not sides[0] and node.op_type != "Cast":
        return None
    if node.op_type == "Cast" and not sides[1]:
        return None  # of numbers into whole ones: exact as they are
    return Halves(*sides)


def _fits(name: str, spans: Mapping[str, Span], constants: Mapping[str, TensorProto]) -> bool:
    if name in constants:
        return holds(values(constants[name]))
    return name not in spans or spans[name].fits
