"""Activations that are spelled in single steps, written as one node.

With k, c and f constants, and x a tensor:

    f·x·clip(x + 3, 0, 6) = HardSwish(x), f = 1/6          clip(k·x + c, 0, h)/h = HardSigmoid(x), α = k/h, β = c/h
    x/2·(1 + erf(x/√2))   = Gelu(x)                        x·tanh(softplus(x))   = Mish(x)

Products with constants may stand anywhere. Only in float32, where onnxruntime has kernels for all of them, and only
where the opset has the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

SINCE = {"HardSwish": 14, "HardSigmoid": 6, "Gelu": 20, "Mish": 18}
CLOSE = 1e-6  # relative: constants were rounded to float32


@dataclass(frozen=True)
class _Found:
    """An activation that was recognized.

    One node with these attributes takes the place of the inner ones, besides the last.
    """

    source: gs.Tensor
    inner: tuple[gs.Node, ...]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class _Scaled:
    """A tensor as a constant times another, and the nodes that multiply."""

    factor: float
    base: gs.Tensor
    nodes: tuple[gs.Node, ...]


def join_activations(graph: gs.Graph, kept: set[str]) -> None:
    """Replaces what is spelled out by one node each, in place.

    Nodes are in topological order; `kept` are names of the tensors that leave the graph or go into a subgraph.
    """
    for op, match in MATCHES.items():
        if graph.opset < SINCE[op]:
            continue
        gone: set[int] = set()
        for node in reversed(graph.nodes):
            candidates = match(node) if id(node) not in gone and not node.domain else ()
            fit = (f for f in candidates if _is_float(f, node, graph) and _only_inside(f, node, kept))
            found = next(fit, None)
            if found is None:
                continue
            node.op, node.inputs = op, [found.source]
            node.attrs.clear()
            node.attrs.update(found.attributes)
            for inner in found.inner:
                gone.add(id(inner))
                inner.inputs.clear()
                inner.outputs.clear()
        graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]


def _only_inside(found: _Found, last: gs.Node, kept: set[str]) -> bool:
    """Whether nobody else reads what is computed on the way."""
    own = {id(node) for node in (*found.inner, last)}
    return all(
        tensor.name not in kept and all(id(reader) in own for reader in tensor.outputs)
        for node in found.inner
        for tensor in node.outputs
    )


def _is_float(found: _Found, last: gs.Node, graph: gs.Graph) -> bool:
    """Whether all is in float32: by a constant on the way, by the tensor's type, or as nothing else is there."""
    constants = [t for node in (*found.inner, last) for t in node.inputs if isinstance(t, gs.Constant)]
    if constants:
        return all(t.dtype == np.float32 for t in constants)
    if found.source.dtype is not None:
        return bool(found.source.dtype == np.float32)
    kinds = {str(t.dtype) for t in graph.tensors().values() if t.dtype is not None}
    return "float32" in kinds and not kinds & {"float16", "bfloat16", "float64"}


def _hard_swish(node: gs.Node) -> Iterator[_Found]:
    for factor, x, other, nodes in _products(node):
        clip = _clipped(other)
        if clip is not None and clip[0] is x:
            exact = _near(clip[1], 3) and _near(clip[2], 6) and _near(factor * 6, 1)
            yield from [_found(x, node, (*nodes, *clip[3]))] if exact else []
        gate = _writer(other, "HardSigmoid")
        if gate is not None and gate.inputs[0] is x and _near(factor, 1):
            exact = _near(gate.attrs.get("alpha", 0.2) * 6, 1) and _near(gate.attrs.get("beta", 0.5), 0.5)
            yield from [_found(x, node, (*nodes, gate))] if exact else []


def _hard_sigmoid(node: gs.Node) -> Iterator[_Found]:
    for outer in _scaled(node.outputs[0]) if len(node.outputs) == 1 else ():
        clip = _clipped(outer.base)
        if clip is None or not _near(outer.factor * clip[2], 1):
            continue
        for inside in reversed(_scaled(clip[0])):
            attributes = {"alpha": inside.factor / clip[2], "beta": clip[1] / clip[2]}
            yield _found(inside.base, node, (*outer.nodes, *clip[3], *inside.nodes), attributes)


def _gelu(node: gs.Node) -> Iterator[_Found]:
    for factor, x, other, nodes in _products(node):
        shifted = _shifted(other)
        erf = None if shifted is None or not _near(shifted[1], 1) else _writer(shifted[0], "Erf")
        if shifted is None or erf is None or not _near(factor, 0.5):
            continue
        for inside in _scaled(erf.inputs[0]):
            if inside.base is x and _near(inside.factor, math.sqrt(0.5)):
                yield _found(x, node, (*nodes, shifted[2], erf, *inside.nodes))


def _mish(node: gs.Node) -> Iterator[_Found]:
    for factor, x, other, nodes in _products(node):
        tanh = _writer(other, "Tanh")
        soft = None if tanh is None else _writer(tanh.inputs[0], "Softplus")
        if tanh is not None and soft is not None and soft.inputs[0] is x and _near(factor, 1):
            yield _found(x, node, (*nodes, tanh, soft))


MATCHES: dict[str, Callable[[gs.Node], Iterator[_Found]]] = {
    "HardSwish": _hard_swish,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Mish": _mish,
}


def _found(
    source: gs.Tensor, last: gs.Node, nodes: tuple[gs.Node, ...], attributes: Mapping[str, float] = {}
) -> _Found:
    return _Found(source, tuple(n for n in nodes if n is not last), attributes)


def _products(node: gs.Node) -> Iterator[tuple[float, gs.Tensor, gs.Tensor, tuple[gs.Node, ...]]]:
    """The ways to see what a node gives as constant · a · b: the constant, a, b, and all the nodes on the way."""
    for outer in _scaled(node.outputs[0]) if len(node.outputs) == 1 else ():
        mul = _writer(outer.base, "Mul")
        if mul is None or len(mul.inputs) != 2 or any(isinstance(t, gs.Constant) for t in mul.inputs):
            continue
        for first, second in (mul.inputs, mul.inputs[::-1]):
            for one in _scaled(first):
                for other in _scaled(second):
                    factor = outer.factor * one.factor * other.factor
                    yield factor, one.base, other.base, (*outer.nodes, mul, *one.nodes, *other.nodes)


def _scaled(tensor: gs.Tensor) -> list[_Scaled]:
    """The ways to see a tensor as a constant times another: itself, then one product or quotient more each time."""
    found = [_Scaled(1.0, tensor, ())]
    while True:
        last = found[-1]
        node = _writer(last.base, "Mul") or _writer(last.base, "Div")
        split = None if node is None else _with_constant(node)
        if node is None or split is None or (node.op == "Div" and (node.inputs[0] is not split[0] or split[1] == 0)):
            return found
        factor = split[1] if node.op == "Mul" else 1 / split[1]
        found.append(_Scaled(last.factor * factor, split[0], (*last.nodes, node)))


def _shifted(tensor: gs.Tensor) -> tuple[gs.Tensor, float, gs.Node] | None:
    """What a constant was added to, the constant, and the node."""
    node = _writer(tensor, "Add")
    split = None if node is None else _with_constant(node)
    return None if node is None or split is None else (*split, node)


def _clipped(tensor: gs.Tensor) -> tuple[gs.Tensor, float, float, tuple[gs.Node, ...]] | None:
    """A tensor as clip(x + shift, 0, bound): x, the shift, the bound, and the nodes."""
    clip = _writer(tensor, "Clip")
    bounds = None if clip is None else _bounds(clip)
    shifted = None if clip is None else _shifted(clip.inputs[0])
    if clip is None or bounds is None or shifted is None or bounds[0] != 0 or bounds[1] <= 0:
        return None
    return shifted[0], shifted[1], bounds[1], (clip, shifted[2])


def _bounds(clip: gs.Node) -> tuple[float, float] | None:
    found = []
    for slot, key in ((1, "min"), (2, "max")):
        tensor = clip.inputs[slot] if len(clip.inputs) > slot else None
        value = clip.attrs.get(key) if tensor is None or tensor.is_empty() else _scalar(tensor)
        if value is None:
            return None
        found.append(float(value))
    return found[0], found[1]


def _with_constant(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """The tensor and the one number of a node with two inputs, in any order."""
    for tensor, constant in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        value = _scalar(constant)
        if value is not None and not isinstance(tensor, gs.Constant):
            return tensor, value
    return None


def _scalar(tensor: gs.Tensor) -> float | None:
    """The value of a constant of one number that adds no axes, None for any other."""
    if not isinstance(tensor, gs.Constant) or tuple(tensor.shape) not in ((), (1,)):
        return None
    if str(tensor.dtype) not in ("float32", "float16", "float64", "bfloat16"):
        return None
    return float(np.asarray(tensor.values, np.float64).reshape(()))


def _writer(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node of this kind that writes a tensor."""
    node = tensor.inputs[0] if not isinstance(tensor, gs.Constant) and tensor.inputs else None
    return node if node is not None and node.op == op and not node.domain else None


def _near(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=CLOSE, abs_tol=CLOSE)
