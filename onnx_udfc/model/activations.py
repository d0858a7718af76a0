"""Activations that are spelled in single steps, written as one node.

With k, c and f constants, and x a tensor:

    f·x·clip(x + 3, 0, 6) = HardSwish(x), f = 1/6          clip(k·x + c, 0, h)/h = HardSigmoid(x), α = k/h, β = c/h
    x/2·(1 + erf(x/√2))   = Gelu(x)                        x·tanh(softplus(x))   = Mish(x)

and what `rectifiers` knows.

Products with constants may stand anywhere. Only in float32, where onnxruntime has kernels for all of them, and only
where the opset has the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.names import Taken, taken_in, unique_name
from onnx_udfc.model.patterns import SINCE, Found, clipped, found_at, near, products, scalings, shift_of, writer
from onnx_udfc.model.rectifiers import RECTIFIERS


def join_activations(graph: gs.Graph, kept: set[str]) -> None:
    """Replaces what is spelled out by one node each, in place.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    names: Taken | None = None
    for op, match in MATCHES:
        if graph.opset < SINCE.get(op, 6):
            continue
        gone: set[int] = set()
        for node in reversed(graph.nodes):
            candidates = match(node) if id(node) not in gone and not node.domain else ()
            fit = (f for f in candidates if _is_float(f, node, graph) and _only_inside(f, node, kept))
            found = next(fit, None)
            if found is None:
                continue
            numbers = []
            for number in found.numbers:
                names = taken_in(graph) if names is None else names
                name = unique_name(f"{node.outputs[0].name}.bound", names)
                numbers.append(gs.Constant(name, np.array(number, np.float32)))
            node.op, node.inputs = op, [found.source, *numbers]
            node.attrs.clear()
            node.attrs.update(found.attributes)
            for inner in found.inner:
                gone.add(id(inner))
                inner.inputs.clear()
                inner.outputs.clear()
        graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def _only_inside(found: Found, last: gs.Node, kept: set[str]) -> bool:
    """Whether nobody else reads what is computed on the way."""
    own = {id(node) for node in (*found.inner, last)}
    return all(
        tensor.name not in kept and all(id(reader) in own for reader in tensor.outputs)
        for node in found.inner
        for tensor in node.outputs
    )


def _is_float(found: Found, last: gs.Node, graph: gs.Graph) -> bool:
    """Whether all is in float32: by a constant on the way, by the tensor's type, or as nothing else is there."""
    constants = [t for node in (*found.inner, last) for t in node.inputs if isinstance(t, gs.Constant)]
    if constants:
        return all(t.dtype == np.float32 for t in constants)
    if found.source.dtype is not None:
        return bool(found.source.dtype == np.float32)
    kinds = {str(t.dtype) for t in graph.tensors().values() if t.dtype is not None}
    return "float32" in kinds and not kinds & {"float16", "bfloat16", "float64"}


def _hard_swish(node: gs.Node) -> Iterator[Found]:
    for factor, x, other, nodes in products(node):
        clip = clipped(other)
        if clip is not None and clip[0] is x:
            exact = near(clip[1], 3) and near(clip[2], 6) and near(factor * 6, 1)
            yield from [found_at(x, node, (*nodes, *clip[3]))] if exact else []
        gate = writer(other, "HardSigmoid")
        if gate is not None and gate.inputs[0] is x and near(factor, 1):
            exact = near(gate.attrs.get("alpha", 0.2) * 6, 1) and near(gate.attrs.get("beta", 0.5), 0.5)
            yield from [found_at(x, node, (*nodes, gate))] if exact else []


def _hard_sigmoid(node: gs.Node) -> Iterator[Found]:
    for outer in scalings(node.outputs[0]) if len(node.outputs) == 1 else ():
        clip = clipped(outer.base)
        if clip is None or not near(outer.factor * clip[2], 1):
            continue
        for inside in reversed(scalings(clip[0])):
            attributes = {"alpha": inside.factor / clip[2], "beta": clip[1] / clip[2]}
            yield found_at(inside.base, node, (*outer.nodes, *clip[3], *inside.nodes), attributes)


def _gelu(node: gs.Node) -> Iterator[Found]:
    for factor, x, other, nodes in products(node):
        shifted = shift_of(other)
        erf = None if shifted is None or not near(shifted[1], 1) else writer(shifted[0], "Erf")
        if shifted is None or erf is None or not near(factor, 0.5):
            continue
        for inside in scalings(erf.inputs[0]):
            if inside.base is x and near(inside.factor, math.sqrt(0.5)):
                yield found_at(x, node, (*nodes, shifted[2], erf, *inside.nodes))


def _mish(node: gs.Node) -> Iterator[Found]:
    for factor, x, other, nodes in products(node):
        tanh = writer(other, "Tanh")
        soft = None if tanh is None else writer(tanh.inputs[0], "Softplus")
        if tanh is not None and soft is not None and soft.inputs[0] is x and near(factor, 1):
            yield found_at(x, node, (*nodes, tanh, soft))


MATCHES: tuple[tuple[str, Callable[[gs.Node], Iterator[Found]]], ...] = (
    *RECTIFIERS,  # first: the others are made of them
    ("HardSwish", _hard_swish),
    ("HardSigmoid", _hard_sigmoid),
    ("Gelu", _gelu),
    ("Mish", _mish),
)
