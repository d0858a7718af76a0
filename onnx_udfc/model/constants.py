"""Constant nodes and constant expressions become initializers; every constant gets one user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnx_udfc.model.graph import BROADCASTING
from onnx_udfc.model.layers import LAYERS
from onnx_udfc.model.lossless import Origin, Stored, sorted_nodes
from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.plain_operators import computed
from onnx_udfc.model.protos import inner_reads, small_model

Array = NDArray[Any]

# fmt: off
FOLDABLE = frozenset((
    "Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal",
    "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual",
    "InstanceNormalization", "LayerNormalization", "Less", "LessOrEqual", "Log", "LpNormalization", "MatMul", "Max",
    "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Reshape", "Shape", "Sigmoid", "Sign",
    "Size", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze",
    "Where",
))
STORAGE = ("int8", "uint8", "int4", "uint4", "int2", "uint2")  # a Cast from these to float is a compressed weight
HALVES = {"float16": int(onnx.TensorProto.FLOAT16), "bfloat16": int(onnx.TensorProto.BFLOAT16)}
NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
# fmt: on
LARGEST = 1 << 26  # elements that weights may be made of where the file holds none of them
COPIES = 8  # times the constants of the file that may be computed in all
MOST_STEPS = 1e11  # multiplications
GROWTH = 1 << 20  # elements by which a result that is no weight may exceed its inputs
NO_USE = 64  # the same of a result that ends in what stays computed: a window that a Cos is taken of


def fold_constants(graph: gs.Graph, origin: Origin) -> None:
    """Replaces Constant nodes and expressions over constants by initializers, names kept.

    Left alone: DequantizeLinear, Cast from an integer storage type to float and what unpacks words (a weight that is
    compressed already), anything random, anything with a subgraph, what a subgraph or a graph output uses, large
    results that are no weights, and what is made from little for operators that are not evaluated here.
    """
    kept = {t.name for t in graph.outputs} | inner_reads(origin.model.graph)
    folded: set[int] = set()
    budget, ordered = _budget(graph), sorted_nodes(graph)
    computed_here = _constant_nodes(ordered)
    for node in ordered:
        if node.domain or any(t.name in kept or t.is_empty() for t in node.outputs):
            continue
        results = _evaluate(node, graph, origin, budget, computed_here)
        if results is not None and len(results) == len(node.outputs):
            _remember_half(node, results[0], origin)
            for tensor, result in zip(list(node.outputs), results, strict=True):
                tensor.inputs.clear()
                tensor.to_constant(result)
            node.inputs.clear()
            folded.add(id(node))
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in folded]


def _remember_half(node: gs.Node, result: Array | Stored, origin: Origin) -> None:
    """Keeps in mind that a float32 constant was stored in 16 bits."""
    kind = str(node.inputs[0].dtype) if node.op == "Cast" else ""
    if kind in HALVES and result.dtype == np.float32:
        origin.halves[node.outputs[0].name] = (HALVES[kind], tuple(int(n) for n in result.shape))


def _constant_nodes(ordered: list[gs.Node]) -> set[int]:
    """Ids of the nodes that read nothing but constants, if only through others."""
    found: set[int] = set()
    for node in ordered:
        sources = [t.inputs[0] for t in node.inputs if t.inputs]
        fixed = all(isinstance(t, gs.Constant) or t.is_empty() or t.inputs for t in node.inputs)
        if node.inputs and fixed and all(id(source) in found or source.op == "Constant" for source in sources):
            found.add(id(node))
    return found


def _evaluate(
    node: gs.Node, graph: gs.Graph, origin: Origin, budget: _Budget, constant: set[int]
) -> list[Array | Stored] | None:
    """The values of a node's outputs, or None if it is not constant or is to be left alone."""
    if node.op == "Constant":
        return _constant_value(node, origin)
    if not node.inputs or not all(isinstance(t, gs.Constant) or t.is_empty() for t in node.inputs):
        return None
    if any(isinstance(t, gs.Constant) and isinstance(t._values, SparseValues) for t in node.inputs):
        return None
    if node.op == "Identity":
        source, name = node.inputs[0], node.outputs[0].name
        origin.shared[name] = origin.shared.setdefault(source.name, source.name)
        return [source._values]
    if node.op not in FOLDABLE or (node.op == "Cast" and str(node.inputs[0].dtype) in STORAGE) or _unpacks(node):
        return None
    return _run(node, graph, origin, budget, constant)


def _unpacks(node: gs.Node) -> bool:
    """Whether a node begins to unpack codes (`packing`): words (m, 1) div powers (k,), then mod."""
    if node.op != "Div" or any(t.dtype != np.int64 for t in node.inputs):
        return False
    words, divisors = (tuple(t.shape) for t in node.inputs)
    readers = node.outputs[0].outputs
    return len(words) == 2 and words[1] == 1 and len(divisors) == 1 and [r.op for r in readers] == ["Mod"]


def _constant_value(node: gs.Node, origin: Origin) -> list[Array | Stored] | None:
    """The value of a Constant node, whichever attribute holds it."""
    attributes = origin.nodes[node.name].attribute
    if len(attributes) != 1 or attributes[0].ref_attr_name:
        return None
    name = attributes[0].name
    if name == "value" and attributes[0].HasField("t"):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attributes[0].t)
        tensor.name = node.outputs[0].name
        return [Stored(tensor)]
    return [np.asarray(node.attrs[name], NUMBERS[name])] if name in NUMBERS and name in node.attrs else None


@dataclass
class _Budget:
    """Elements that may still be computed: small files can ask for more than any machine has."""

    elements: float


def _budget(graph: gs.Graph) -> _Budget:
    """What a file of these constants may ask for: a few copies of them, and what weights are made of from nothing."""
    shapes = (t.shape for t in graph.tensors().values() if isinstance(t, gs.Constant))
    return _Budget(COPIES * sum(float(np.prod(shape)) for shape in shapes) + LARGEST)


def _run(
    node: gs.Node, graph: gs.Graph, origin: Origin, budget: _Budget, constant: set[int]
) -> list[Array | Stored] | None:
    """Evaluates one node by the reference implementation of its operator; None where that fails."""
    given = sum(float(np.prod(t.shape)) for t in node.inputs if not t.is_empty())
    growth = LARGEST if _feeds_weight(node) else GROWTH if _serves(node, constant) else NO_USE
    limit = min(budget.elements, given + growth)
    if given > 2 * budget.elements:
        return None
    arrays = [None if t.is_empty() else t.values for t in node.inputs]
    try:
        elements, steps = _effort(node, arrays)
        if elements > limit or steps > MOST_STEPS:
            return None
        proto = origin.nodes[node.name]
        results = computed(proto, graph.opset, arrays) or _reference(proto, graph.opset, arrays)
        if any(r.dtype == object for r in results):  # of an input that is missing
            return None
    except Exception:  # the reference implementations raise anything; onnxruntime says later what is wrong
        return None
    budget.elements -= sum(r.size for r in results)
    return results if all(r.size <= limit for r in results) else None


def _reference(node: onnx.NodeProto, opset: int, arrays: list[Array | None]) -> list[Array]:
    """The outputs of a node by onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator  # slow to import, and few files need it

    inputs = {name: a for name, a in zip(node.input, arrays, strict=True) if a is not None}
    given = {name: (a.dtype, a.shape) for name, a in inputs.items()}
    model = small_model([node], given, node.output, {}, opset)
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in ReferenceEvaluator(model).run(None, inputs)]


def _feeds_weight(node: gs.Node) -> bool:
    """Whether a result is used as the weight of a layer, if only after more constant operators."""
    pending: list[gs.Tensor] = list(node.outputs)
    seen: set[int] = set()
    while pending:
        tensor = pending.pop()
        for user in tensor.outputs:
            if user.op in LAYERS and user.inputs[0] is not tensor:
                return True
            if id(user) not in seen and user.op in FOLDABLE and len(seen) < 20:
                seen.add(id(user))
                pending.extend(user.outputs)
    return False


def _serves(node: gs.Node, constant: set[int]) -> bool:
    """Whether a node that reads more than constants uses a result, if only after more constant operators."""
    pending, seen = list(node.outputs), set[int]()
    while pending:
        for user in pending.pop().outputs:
            if id(user) not in constant:
                return True
            if id(user) not in seen and user.op in FOLDABLE and not user.domain:
                seen.add(id(user))
                pending.extend(user.outputs)
    return False


def _effort(node: gs.Node, arrays: list[Array | None]) -> tuple[float, float]:
    """Elements of the result and multiplications, by the operators that make much from little; 0 for the others."""
    op, shapes = node.op, [a.shape for a in arrays if a is not None]
    if op == "MatMul":
        left, right = (1, *shapes[0])[-2:], (*shapes[1], 1)[:2] if len(shapes[1]) < 2 else shapes[1][-2:]
        batch = np.prod(np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2]), dtype=np.float64)
        result = float(batch * left[0] * right[1])
        return result, result * left[1]
    if op in ("Concat", *BROADCASTING):
        parts = [math.prod(shape) for shape in shapes]
        return float(sum(parts) if op == "Concat" else math.prod(np.broadcast_shapes(*shapes))), 0.0
    if op == "Gather":
        axis = int(node.attrs.get("axis", 0))
        return float(math.prod(shapes[1])) * math.prod(shapes[0]) / max(1, shapes[0][axis]), 0.0
    if op == "GatherND":
        picked = shapes[1][-1] + int(node.attrs.get("batch_dims", 0))
        return float(math.prod(shapes[1][:-1])) * math.prod(shapes[0][picked:]), 0.0
    return _repeated(op, [np.asarray(a, np.float64) for a in arrays if a is not None and a.dtype.kind in "iuf"]), 0.0


def _repeated(op: str, values: list[Array]) -> float:
    """Elements of the result where the values of an input say how many; 0 for other operators."""
    if op == "ConstantOfShape":
        return float(np.prod(values[0]))
    if op == "Expand":
        return float(np.prod(np.maximum(values[1], 1))) * values[0].size
    if op == "Tile":
        return float(np.prod(values[1])) * values[0].size
    if op == "Range":
        start, limit, delta = (float(a.reshape(())) for a in values)
        return (limit - start) / delta
    return 0.0


def unshare(graph: gs.Graph, origin: Origin) -> None:
    """Gives every input of a top-level node its own constant, so that writing to one changes no other user.

    The first user keeps the name, unless a subgraph or a graph output uses the constant too. The arrays stay shared,
    and `export` writes one initializer for as long as they hold the same.
    """
    kept = {t.name for t in graph.outputs} | inner_reads(origin.model.graph)
    names = Taken([*graph.tensors(), *origin.stored])
    seen: set[int] = set()
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):
                continue
            if tensor.name not in kept and id(tensor) not in seen:
                seen.add(id(tensor))
                continue
            copy = gs.Constant(unique_name(f"{tensor.name}.{node.name}", names), tensor._values)
            source = origin.shared.setdefault(tensor.name, tensor.name)
            origin.shared[copy.name] = source
            node.inputs[slot] = copy
