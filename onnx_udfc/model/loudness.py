"""Layers in front of a logarithm, behind which a quiet input counts as much as a loud one: spectra of sounds, mostly.

Where everything between the network's input and a logarithm is homogeneous (twice the input is twice, or a power of
two times, the value), a factor at the input is a constant behind the logarithm. An error is seen there beside the value
that it belongs to, not beside the largest: a filter whose rounded weights let through a thousandth of what it should
keep out fills the silence between two notes. Eight bits do just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.graph import MOVES

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

FLOOR = 1e-3  # a constant that is added before the logarithm is no larger: it only keeps it finite
FLOORED = ("Add", "Sub", "Max", "Clip")  # by their second input, where that is constant
SCALED = ("Mul", "Div", "Pow")  # the same: a scale or an exponent
# Homogeneous of their first input, whatever else they read.
ALONE = (MOVES - {"Concat"}) | {
    "Abs", "Cast", "Expand", "Gather", "Neg", "Pad", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum",
    "ReduceSumSquare", "Sqrt", "Tile",
}  # fmt: skip
BOTH = ("Add", "Sub", "Mul", "Concat", "Sum")  # of all that they read


def before_logarithm(network: Network) -> frozenset[str]:
    """Names of the layers from which only homogeneous operators lead to a logarithm."""
    found: set[str] = set()
    pending = [node.inputs[0] for node in network.graph.nodes if node.op == "Log" and not node.domain]
    seen = {id(tensor) for tensor in pending}
    while pending:
        for node in pending.pop().inputs:
            if node.name in network.layers:
                if network.layers[node.name].bias.any():
                    continue
                found.add(node.name)
            for tensor in _before(node, network):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    pending.append(tensor)
    return frozenset(found)


def _before(node: gs.Node, network: Network) -> Iterator[gs.Tensor]:
    """The tensors that a node's output is homogeneous of; none where it is of none."""
    variable = [t for t in node.inputs if not isinstance(t, gs.Constant) and not t.is_empty()]
    if node.domain or not variable:
        return
    if node.name in network.layers or node.op in ALONE:
        yield node.inputs[0]
    elif (node.op in BOTH and len(variable) == len(node.inputs)) or (
        len(variable) == 1 and (node.op in SCALED or (node.op in FLOORED and _is_floor(node)))
    ):
        yield from variable


def _is_floor(node: gs.Node) -> bool:
    """Whether the constants of a node only keep a logarithm finite."""
    constants = [t.values for t in node.inputs[:2] if isinstance(t, gs.Constant)]
    return all(c.dtype.kind == "f" and bool(np.abs(c).max(initial=0.0) <= FLOOR) for c in constants)
