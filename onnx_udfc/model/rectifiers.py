"""Relu, Clip, PRelu, LeakyRelu, Sigmoid and Softplus in other words.

With numbers a, l and h, slopes s (one, or one for each channel), and x a tensor:

    max(x, 0), clip(x, 0, ∞), x if x > 0 else 0, x·(x > 0), (x + |x|)/2, a PRelu or LeakyRelu of slope 0 = Relu(x)
    min(max(x, l), h), max(min(x, h), l), min(Relu(x), h), clip(Relu(x), 0, h)                          = Clip(x, l, h)
    Relu(x) + s·min(x, 0), Relu(x) - s·Relu(-x), Relu(x) + s/2·(x - |x|), x + (s - 1)/2·(x - |x|)       = PRelu(x, s)
    max(x, a·x), x if x > 0 else a·x, a PRelu of one slope                                            = LeakyRelu(x)
    1/(1 + exp(-x)), tanh(x/2)/2 + 1/2 = Sigmoid(x)                                  log(1 + exp(x)) = Softplus(x)

onnxruntime takes Relu and Clip into the integer kernel before them, and has integer kernels for LeakyRelu and Sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.patterns import (
    Found,
    bounds_of,
    found_at,
    near,
    rank_of,
    scalar,
    scalar_beside,
    scalings,
    shift_of,
    writer,
)

NO_BOUND = float(np.finfo(np.float32).max)  # a bound of as much is none


def _relu(node: gs.Node) -> Iterator[Found]:
    rule = RELUS.get(node.op)
    if rule is not None and node.inputs:
        yield from rule(node)


def _maximum(node: gs.Node) -> Iterator[Found]:
    """max(x, 0)."""
    found = scalar_beside(node)
    if found is not None and found[1] == 0:
        yield Found(found[0], ())


def _unbounded(node: gs.Node) -> Iterator[Found]:
    """clip(x, 0, ∞)."""
    low = node.inputs[1] if len(node.inputs) > 1 else None
    high = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if low is None or scalar(low) != 0 or node.attrs:
        return
    bound = math.inf if high is None else scalar(high)
    if bound is not None and bound >= NO_BOUND:
        yield Found(node.inputs[0], ())


def _flat(node: gs.Node) -> Iterator[Found]:
    """A slope of 0 below 0."""
    slope = _slope(node)
    if slope == 0:
        yield Found(node.inputs[0], ())


def _twice(node: gs.Node) -> Iterator[Found]:
    """Relu(Relu(x))."""
    inner = writer(node.inputs[0], "Relu")
    if inner is not None:
        yield found_at(inner.inputs[0], node, (inner,))


def _thresholded(node: gs.Node) -> Iterator[Found]:
    """X if x > 0, else 0."""
    if node.attrs.get("alpha", 1.0) == 0:
        yield Found(node.inputs[0], ())


def _chosen_or_none(node: gs.Node) -> Iterator[Found]:
    for x, other, test in _chosen(node):
        if scalar(other, x) == 0:
            yield found_at(x, node, (test,))


def _masked(node: gs.Node) -> Iterator[Found]:
    """The product x·(x > 0), and (x + |x|)·½."""
    for tensor, other in (node.inputs, node.inputs[::-1]):
        cast = writer(other, "Cast")
        test = None if cast is None else _positive(cast.inputs[0], tensor)
        if cast is not None and test is not None:
            yield found_at(tensor, node, (cast, test))
    split = scalar_beside(node)
    added = None if split is None or not near(split[1], 0.5) else writer(split[0], "Add")
    for tensor, other in () if added is None else (added.inputs, added.inputs[::-1]):
        size = writer(other, "Abs")
        if added is not None and size is not None and size.inputs[0] is tensor:
            yield found_at(tensor, node, (added, size))


RELUS: dict[str, Callable[[gs.Node], Iterator[Found]]] = {
    "Max": _maximum,
    "Clip": _unbounded,
    "PRelu": _flat,
    "LeakyRelu": _flat,
    "ThresholdedRelu": _thresholded,
    "Relu": _twice,
    "Where": _chosen_or_none,
    "Mul": _masked,
}


def _clip(node: gs.Node) -> Iterator[Found]:
    if node.op in ("Min", "Max"):
        outer = scalar_beside(node)
        inner = None if outer is None else _bounded(outer[0])
        if outer is None or inner is None:
            return
        x, low, high, before = inner
        low, high = (low, min(high, outer[1])) if node.op == "Min" else (max(low, outer[1]), high)
        if low < high and math.isfinite(low) and math.isfinite(high):
            yield Found(x, (before,), numbers=(low, high))
    elif node.op == "Clip":
        own, relu = bounds_of(node), writer(node.inputs[0], "Relu")
        if own is not None and relu is not None and -math.inf < own[0] <= 0 < own[1] < math.inf:
            yield Found(relu.inputs[0], (relu,), numbers=(0.0, own[1]))


def _bounded(tensor: gs.Tensor) -> tuple[gs.Tensor, float, float, gs.Node] | None:
    """A tensor as min(max(x, l), h), of which one may be infinite: x, l, h, and the node."""
    relu = writer(tensor, "Relu")
    if relu is not None:
        return relu.inputs[0], 0.0, math.inf, relu
    for op in ("Max", "Min"):
        node = writer(tensor, op)
        found = None if node is None else scalar_beside(node)
        if node is not None and found is not None:
            return found[0], *((found[1], math.inf) if op == "Max" else (-math.inf, found[1])), node
    return None


def _leaky(node: gs.Node) -> Iterator[Found]:
    if node.op == "PRelu":
        slope = _slope(node)
        if slope:
            yield Found(node.inputs[0], (), {"alpha": slope})
    elif node.op == "Max" and len(node.inputs) == 2:
        for x, other in (node.inputs, node.inputs[::-1]):
            yield from (f for f in _sloped(x, other, node, ()) if 0 < f.attributes["alpha"] < 1)
    elif node.op == "Where":
        for x, other, test in _chosen(node):
            yield from _sloped(x, other, node, (test,))


def _prelu(node: gs.Node) -> Iterator[Found]:
    pairs = (node.inputs, node.inputs[::-1]) if node.op in ("Add", "Sub") and len(node.inputs) == 2 else ()
    for first, second in pairs[:1] if node.op == "Sub" else pairs:
        slopes, base, nodes = _times(second)
        relu, sign = writer(first, "Relu"), 1.0 if node.op == "Add" else -1.0
        for x, before, own in ((first, (), 1.0), *(((relu.inputs[0], (relu,), 0.0),) if relu is not None else ())):
            below = _below(base, x)
            if below is None or not _fits(slopes, x):
                continue
            if own and relu is not None:  # nothing is below 0 behind a Relu
                yield Found(relu.inputs[0], (relu, *nodes, *below[1]), numbers=(0.0,))
            slope = np.asarray(own + sign * below[0] * slopes, np.float32)
            yield Found(x, (*before, *nodes, *below[1]), numbers=(slope,))


def _times(tensor: gs.Tensor) -> tuple[NDArray[np.float64], gs.Tensor, tuple[gs.Node, ...]]:
    """A tensor as constants times another: their product, the other, and the nodes on the way."""
    factors, nodes = np.ones(1), list[gs.Node]()
    while True:
        minus, node = writer(tensor, "Neg"), writer(tensor, "Mul")
        constants = [] if node is None else [t for t in node.inputs if isinstance(t, gs.Constant)]
        if minus is not None:
            factors, tensor = -factors, minus.inputs[0]
            nodes.append(minus)
        elif node is not None and len(constants) == 1 and len(node.inputs) == 2:
            factors = factors * np.asarray(constants[0].values, np.float64)
            tensor = node.inputs[0] if constants[0] is node.inputs[1] else node.inputs[1]
            nodes.append(node)
        else:
            return factors, tensor, tuple(nodes)


def _below(tensor: gs.Tensor, x: gs.Tensor) -> tuple[float, tuple[gs.Node, ...]] | None:
    """A tensor as a number times min(x, 0): the number, and the nodes; None where it is something else."""
    node = tensor.inputs[0] if tensor.inputs and not tensor.inputs[0].domain else None
    if node is None:
        return None
    if node.op == "Min":
        found = scalar_beside(node)
        return (1.0, (node,)) if found is not None and found[1] == 0 and found[0] is x else None
    if node.op == "Sub":
        size = writer(node.inputs[1], "Abs")
        return (2.0, (node, size)) if size is not None and size.inputs[0] is x is node.inputs[0] else None
    if node.op == "Relu":
        factor, base, nodes = _times(node.inputs[0])
        return (-1.0, (node, *nodes)) if base is x and nodes and np.all(factor == -1) else None
    return None


def _fits(slopes: NDArray[np.float64], x: gs.Tensor) -> bool:
    """Whether slopes have at most one axis of more than one, and give a tensor no more axes than it has."""
    wide, rank = [i for i, d in enumerate(slopes.shape) if d > 1], rank_of(x)
    if not wide or rank is None or slopes.ndim > rank or len(wide) > 1:
        return not wide and (slopes.ndim <= 1 or (rank is not None and slopes.ndim <= rank))
    size = None if x.shape is None else x.shape[wide[0] - slopes.ndim]
    return not isinstance(size, int | np.integer) or size == slopes.size


def _sloped(x: gs.Tensor, other: gs.Tensor, node: gs.Node, nodes: tuple[gs.Node, ...]) -> Iterator[Found]:
    for way in scalings(other)[1:]:
        if way.base is x:
            yield found_at(x, node, (*nodes, *way.nodes), {"alpha": way.factor})


def _slope(node: gs.Node) -> float | None:
    """The one slope that a LeakyRelu or PRelu has below 0; None where it has several."""
    if node.op == "LeakyRelu":
        return float(node.attrs.get("alpha", 0.01))
    slopes = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(slopes, gs.Constant) or not slopes.values.size:
        return None
    values = np.asarray(slopes.values, np.float64)
    return float(values.flat[0]) if np.all(values == values.flat[0]) else None


def _chosen(node: gs.Node) -> Iterator[tuple[gs.Tensor, gs.Tensor, gs.Node]]:
    """A Where as x where x > 0, else another tensor: both, and the comparison."""
    condition, yes, no = node.inputs
    if isinstance(yes, gs.Constant) and isinstance(no, gs.Constant):
        return
    for x, other, larger in ((yes, no, True), (no, yes, False)):
        test = None if isinstance(x, gs.Constant) else _positive(condition, x, larger)
        if test is not None:
            yield x, other, test


def _positive(condition: gs.Tensor, x: gs.Tensor, larger: bool = True) -> gs.Node | None:
    """The comparison that tells where x is above 0 (or, else, below 0); at 0 both do."""
    for op, first in (
        ("Greater", larger),
        ("GreaterOrEqual", larger),
        ("Less", not larger),
        ("LessOrEqual", not larger),
    ):
        test = writer(condition, op)
        if test is None or len(test.inputs) != 2:
            continue
        a, b = test.inputs if first else test.inputs[::-1]
        if a is x and scalar(b, x) == 0:
            return test
    return None


def _sigmoid(node: gs.Node) -> Iterator[Found]:
    if node.op == "Reciprocal" or (node.op == "Div" and scalar(node.inputs[0], node.inputs[1]) == 1):
        added = shift_of(node.inputs[-1])
        power = None if added is None or added[1] != 1 else writer(added[0], "Exp")
        if added is None or power is None:
            return
        minus = writer(power.inputs[0], "Neg")
        if minus is not None:
            yield found_at(minus.inputs[0], node, (added[2], power, minus))
        for way in scalings(power.inputs[0])[1:]:
            if way.factor == -1:
                yield found_at(way.base, node, (added[2], power, *way.nodes))
    elif node.op == "Add":
        halved = scalar_beside(node)
        for outer in () if halved is None or halved[1] != 0.5 else scalings(halved[0])[1:]:
            tanh = writer(outer.base, "Tanh") if outer.factor == 0.5 else None
            for way in () if tanh is None else scalings(tanh.inputs[0])[1:]:
                if tanh is not None and way.factor == 0.5:
                    yield found_at(way.base, node, (*outer.nodes, tanh, *way.nodes))


def _softplus(node: gs.Node) -> Iterator[Found]:
    added = shift_of(node.inputs[0]) if node.op == "Log" else None
    power = None if added is None or added[1] != 1 else writer(added[0], "Exp")
    if added is not None and power is not None:
        yield found_at(power.inputs[0], node, (added[2], power))


RECTIFIERS: tuple[tuple[str, Callable[[gs.Node], Iterator[Found]]], ...] = (
    ("Clip", _clip),  # before Relu, or the outer half of one would be that
    ("Relu", _relu),
    ("Clip", _clip),
    ("PRelu", _prelu),  # before LeakyRelu, which one of a single slope is, and Relu, one of slope 0
    ("Relu", _relu),
    ("LeakyRelu", _leaky),
    ("Sigmoid", _sigmoid),
    ("Softplus", _softplus),
)
