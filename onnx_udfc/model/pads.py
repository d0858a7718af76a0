"""Explicit Pad nodes folded into the convolution or pooling behind them.

Between integer kernels a Pad stays a node of its own; as an attribute of the convolution it costs nothing, for 0 is
exact in every grid. Folded is only what gives the same numbers:

- Conv, zeros: always.
- AveragePool, zeros: they count, so count_include_pad becomes 1; not where the pooling pads by itself without counting,
  nor where it would not pad all sides alike: onnxruntime before 1.25 mixes them up, and older ones on CUDA forget ends.
- MaxPool: -inf always; zeros where no value is negative.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.layers import kind_of

POOLS = ("AveragePool", "MaxPool")
NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Softplus")


def fold_pads(graph: gs.Graph, kept: set[str]) -> None:
    """Folds what can be folded, in place."""
    for node in graph.nodes:
        pads = _spatial_pads(node) if node.op == "Pad" and not node.domain else None
        if pads is None or node.outputs[0].name in kept or not node.outputs[0].outputs:
            continue
        padded, readers = node.outputs[0], list(node.outputs[0].outputs)
        if all(_takes(reader, node, pads) for reader in readers):
            for reader in readers:
                _fold(reader, pads)
                reader.inputs[0] = node.inputs[0]
            node.inputs.clear()
            padded.inputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if node.op != "Pad" or node.domain or node.inputs]


def _spatial_pads(node: gs.Node) -> NDArray[np.int64] | None:
    """(2, spatial axes) what a constant Pad adds before and after; None where it does anything else."""
    if node.attrs.get("mode", "constant") != "constant" or len(node.inputs) > 3 or len(node.inputs) < 2:
        return None
    if not isinstance(node.inputs[1], gs.Constant):
        return None
    pads = np.asarray(node.inputs[1].values, np.int64).reshape(-1)
    if pads.size < 6 or pads.size % 2 or np.any(pads < 0):
        return None
    sides = pads.reshape(2, -1)
    return None if np.any(sides[:, :2]) else sides[:, 2:]


def _fill(node: gs.Node) -> float | None:
    """The value that a Pad adds; None where it is computed."""
    tensor = node.inputs[2] if len(node.inputs) > 2 else None
    if tensor is None or tensor.is_empty():
        return 0.0
    return float(np.asarray(tensor.values).reshape(-1)[0]) if isinstance(tensor, gs.Constant) else None


def _takes(reader: gs.Node, pad: gs.Node, pads: NDArray[np.int64]) -> bool:
    """Whether a reader of the padded tensor can do the padding."""
    fill, first = _fill(pad), sum(t is pad.outputs[0] for t in reader.inputs) == 1
    if reader.domain or not first or reader.inputs[0] is not pad.outputs[0]:
        return False
    if reader.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if kind_of(reader.op).convolves:
        return fill == 0
    if reader.op not in POOLS or reader.attrs.get("ceil_mode", 0) or len(reader.outputs) != 1:
        return False
    own, kernel = _own_pads(reader, pads), np.array(reader.attrs["kernel_shape"])
    if kernel.size != pads.shape[1] or np.any(own + pads >= kernel):
        return False
    if reader.op == "AveragePool":
        counted = bool(reader.attrs.get("count_include_pad", 0)) or not np.any(own)
        return fill == 0 and counted and np.unique(own + pads).size == 1
    return fill == -np.inf or (fill == 0 and _never_negative(pad.inputs[0]))


def _never_negative(tensor: gs.Tensor) -> bool:
    """Whether the operator that writes a tensor gives no negative values."""
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.domain:
        return False
    if node.op == "Clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        bound = low.values if isinstance(low, gs.Constant) else node.attrs.get("min", -1.0)
        return bool(np.all(np.asarray(bound) >= 0))
    return node.op in NOT_NEGATIVE


def _own_pads(node: gs.Node, pads: NDArray[np.int64]) -> NDArray[np.int64]:
    """(2, spatial axes) what a convolution or pooling pads already."""
    own = node.attrs.get("pads") if node.attrs.get("auto_pad", "NOTSET") == "NOTSET" else None
    return np.zeros_like(pads) if own is None else np.array(own, np.int64).reshape(pads.shape)


def _fold(node: gs.Node, pads: NDArray[np.int64]) -> None:
    """Adds the padding to what a node does itself."""
    node.attrs["pads"] = [int(n) for n in (_own_pads(node, pads) + pads).reshape(-1)]
    if node.attrs.get("auto_pad") == "VALID":
        del node.attrs["auto_pad"]
    if node.op == "AveragePool":
        node.attrs["count_include_pad"] = 1
