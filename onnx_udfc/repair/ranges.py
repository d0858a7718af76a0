"""Ranges of activations, taken as their values come by on a walk.

Ranges are clipped by least squares of what their only reader makes of the values, where it is a function of each of
them. Images by formula cause thinner tails deep in a network than photographs do, so what they give is widened by
HEADROOM: as far as they reach themselves where the network says that they are like its own, beyond it where nothing
does.

Around the last layers clipping costs most: classes that are clipped all tie, and what a detector looks for is rare, a
value far above all others, and in made-up inputs hardly to be found. There the whole range is taken, MARGIN times as
wide. Where a Sigmoid follows, all logits of made-up inputs may be below 0, and a range that ends there lets no score
above 0.5: it reaches as far on the other side of 0, to CERTAIN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.emit.placement import hard_sigmoid
from onnx_udfc.model.graph import MOVES
from onnx_udfc.numerics.activation_grids import ActivationParams, Floats, Read, as_they_are, search_range, whole_range
from onnx_udfc.runtime.walk import Held, Value, Walk

if TYPE_CHECKING:
    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.inputs.network_inputs import Likeness
    from onnx_udfc.model.network import Network
    from onnx_udfc.runtime.walk import Pieces

HEADROOM = 1.25
_COMPUTES = ("Pad", "Resize")  # of the operators that keep a grid
CERTAIN = 6.0  # a logit whose Sigmoid is 0.998
MARGIN = 1.5  # of the logits that synthetic images cause: photographs are classified with more confidence


def watchers(
    network: Network,
    placement: Placement,
    grids: dict[str, ActivationParams],
    *,
    likeness: Likeness,
    exact: bool = False,
) -> dict[str, Callable[[Value], Held]]:
    """For each quantized tensor what takes its range into `grids` and passes on what the quantized network will see.

    Where it is to be `exact`, values are passed on as they are.
    """
    real = likeness == "real"
    last = set() if real else last_tensors(network, placement)
    reads = {tensor: read_of(network, tensor) for tensor in placement.tensors}
    scores = {tensor for tensor in last if _is_scored(network, tensor)}
    headroom = 1.0 if real else HEADROOM

    def grid(tensor: str, value: Value) -> ActivationParams:
        cap = placement.caps.get(tensor)
        if tensor in last:
            return whole_range(_both_sides(value) if tensor in scores else value, placement.dtype, cap, MARGIN)
        if placement.whole:
            return whole_range(value, placement.dtype, cap)
        return search_range(value, placement.dtype, cap, headroom, reads[tensor], beyond=likeness == "foreign")

    tied = [t.name for n in network.graph.nodes if n.op not in _COMPUTES for t in n.outputs if t.name in placement.tied]
    watched = [tensor for tensor in placement.sites if tensor not in tied]  # the others are on their grids already
    return {tensor: _watcher(placement.tied.get(tensor, tensor), grids, grid, exact) for tensor in watched}


def _watcher(
    source: str, grids: dict[str, ActivationParams], grid: Callable[[str, Value], ActivationParams], exact: bool
) -> Callable[[Value], Held]:
    def watch(value: Value) -> Held:
        if source not in grids:
            grids[source] = grid(source, value)
        return value if exact else grids[source].coded(value)

    return watch


def last_tensors(network: Network, placement: Placement) -> set[str]:
    """Quantized tensors behind which no integer layer comes (logits, maps, boxes), and what only last layers read."""
    read, deeper, by_last = set[str](), set[str](), set[str]()  # by a layer; by one that is not the last
    for node in reversed(network.graph.nodes):
        written, sources = {t.name for t in node.outputs}, {t.name for t in node.inputs}
        if node.name in placement.integer:
            sources = {node.inputs[0].name}
            (deeper if written & read else by_last).update(sources)
            read.update(sources)
        else:
            read.update(sources if written & read else ())
            deeper.update(sources if written & deeper else ())
    last = {tensor for tensor in placement.sites if tensor not in read}
    grids = {placement.grid_of(tensor) for tensor in by_last} - {placement.grid_of(tensor) for tensor in deeper}
    return last | {tensor for tensor in grids if tensor is not None}


def _is_scored(network: Network, name: str) -> bool:
    """Whether a tensor, or a part of it, goes into a Sigmoid as it is."""
    tensors = network.graph.tensors()
    pending, seen = [tensors[name]] if name in tensors else [], {name}
    while pending:
        for node in pending.pop().outputs:
            if node.op == "Sigmoid":
                return True
            if node.op in MOVES or node.op == "Gather":
                pending += [t for t in node.outputs if t.name not in seen]
                seen.update(t.name for t in node.outputs)
    return False


def _both_sides(value: Value) -> Value:
    """The ends of a range of logits, as far from 0 on the side that no input showed as on the other, to CERTAIN."""
    low, high = (float(end) for end in (value.min(initial=0), value.max(initial=0)))
    return np.array([min(low, -min(high, CERTAIN)), max(high, min(-low, CERTAIN))], value.dtype)


def read_of(network: Network, tensor: str) -> Read:
    """What the readers of a tensor make of its values, one by one, where that is one function."""
    readers = [node for node in network.graph.nodes if any(t.name == tensor for t in node.inputs)]
    if [node.op for node in readers] in (["Sigmoid", "Mul"], ["Mul", "Sigmoid"]):
        gate, product = sorted(readers, key=lambda node: node.op, reverse=True)
        gated = {tensor, gate.outputs[0].name} == {t.name for t in product.inputs}
        return _silu if gated else as_they_are
    if len(readers) != 1 or readers[0].domain or any(t.name == tensor for t in network.graph.outputs):
        return as_they_are
    if readers[0].op == "HardSigmoid":
        return _hard_sigmoid(readers[0])
    return READS.get(readers[0].op, as_they_are)


def _hard_swish(x: Floats) -> Floats:
    return x * np.clip(x / 6 + 0.5, 0, 1)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _silu(x: Floats) -> Floats:
    return x * _sigmoid(x)


def _hard_sigmoid(node: gs.Node) -> Read:
    alpha, beta = hard_sigmoid(node)
    return lambda x: np.clip(alpha * x + beta, 0, 1)


READS: dict[str, Read] = {"HardSwish": _hard_swish, "Sigmoid": _sigmoid, "Tanh": np.tanh}


def measure_ranges(
    network: Network,
    placement: Placement,
    inputs: Mapping[str, Value],
    *,
    likeness: Likeness,
    pieces: Pieces | None = None,
    exact: bool = False,
) -> dict[str, ActivationParams]:
    """Grids of a placement's tensors by one pass over a network whose weights are final.

    Args:
        network: with the weights that the written codes stand for.
        placement: where activations are quantized.
        inputs: graph input name → values.
        likeness: of the inputs to what the network is meant for: how far their tails can be relied on.
        pieces: open sessions, on the provider that runs the network.
        exact: whether each range is that of the network in float, not of what the tensors before it leave.
    """
    grids: dict[str, ActivationParams] = {}
    watched = watchers(network, placement, grids, likeness=likeness, exact=exact)
    walk = Walk(network.to_model(), inputs, [], watched, pieces, in_place=True)
    for tensor in placement.sites:
        if placement.grid_of(tensor) not in grids:
            walk.run_to(tensor)
    _join(network, placement, grids)
    return grids


def _join(network: Network, placement: Placement, grids: dict[str, ActivationParams]) -> None:
    """Give what only a Concat reads the grid of its result: codes are copied then, and rounded once, not twice."""
    shared = {t.name for t in network.graph.outputs} | set(placement.tied.values())
    for node in reversed(network.graph.nodes):
        grid = grids.get(node.outputs[0].name) if node.op == "Concat" else None
        alone = [t for t in node.inputs if t.name in grids and len(t.outputs) == 1 and t.name not in shared]
        if grid is not None:
            grids |= {t.name: grid for t in alone if _holds(grid, t, placement.caps.get(t.name))}


def _holds(grid: ActivationParams, tensor: gs.Tensor, cap: float | None) -> bool:
    """Whether codes on the grid clip as the activation does that writes the tensor."""
    writer = tensor.inputs[0].op if tensor.inputs else ""
    if writer not in ("Relu", "Clip", "HardSigmoid"):
        return True
    return grid.zero_point == 0 and (cap is None or grid.scale * 255 <= cap)
