"""Convolutions side by side whose outputs are added become one, as networks are meant to run that train with branches.

(W * x + b) + (V * x + c) = (W + V) * x + (b + c), the smaller kernel padded to the larger one; a batch norm of x itself
is a kernel of one tap. Where batch norms were folded into the branches, what they recorded is worth more: those stay.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.fold import recorded
from onnx_udfc.model.layers import Convolution, Layer
from onnx_udfc.model.names import taken_in, unique_name

Array = NDArray[np.float64]


class Branch(NamedTuple):
    """One of two terms of a sum: its node, what it reads, and its kernel (O, I/groups, *kernel) with bias and pads."""

    node: gs.Node
    source: gs.Tensor
    weight: Array
    bias: Array
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def join_branches(graph: gs.Graph, layers: list[Layer], kept: set[str], tied: Collection[str]) -> list[Layer]:
    """Joins them, in place; returns the layers that are left.

    Nodes are in topological order. `kept` are names of the tensors that leave the graph or go into a subgraph, `tied`
    those of weights that several layers share.
    """
    found = {id(layer.node): layer for layer in layers}
    gone: set[int] = set()
    for add in graph.nodes:
        layer = None if add.op != "Add" or add.domain else _joined(add, found, kept, tied)
        if layer is not None:
            other = next(t.inputs[0] for t in add.inputs if t.inputs[0] is not layer.node)
            gone |= {id(add), id(other)}
            found.pop(id(other), None)
            out = add.outputs[0]
            for node in (add, other):
                node.inputs.clear()
                node.outputs.clear()
            layer.node.outputs = [out]
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in gone]
    return list(found.values())


def _joined(add: gs.Node, found: dict[int, Layer], kept: set[str], tied: Collection[str]) -> Layer | None:
    """The layer that computes what an Add of two branches does, once it is written; None where none can."""
    if any(len(t.outputs) != 1 or len(t.inputs) != 1 or t.name in kept for t in add.inputs):
        return None
    layers = [found.get(id(t.inputs[0])) for t in add.inputs]
    whole = max((layer for layer in layers if layer is not None), key=lambda layer: np.prod(layer.kernel), default=None)
    if whole is None or add.inputs[0] is add.inputs[1]:
        return None
    branches = [_branch(t.inputs[0], layer, whole, tied) for t, layer in zip(add.inputs, layers, strict=True)]
    if branches[0] is None or branches[1] is None or branches[0].source is not branches[1].source:
        return None
    large, small = sorted(branches, key=lambda b: b is not None and b.node is not whole.node)
    assert large is not None
    assert small is not None
    before = [p - q for p, q in zip(large.begins, small.begins, strict=True)]
    behind = [p - q for p, q in zip(large.ends, small.ends, strict=True)]
    rest = [n - m for n, m in zip(large.weight.shape[2:], small.weight.shape[2:], strict=True)]
    if min(*before, *behind) < 0 or any(a + b != n for a, b, n in zip(before, behind, rest, strict=True)):
        return None
    weight = large.weight + np.pad(small.weight, [(0, 0), (0, 0), *zip(before, behind, strict=True)])
    return whole if _write(whole, weight, large.bias + small.bias) else None


def _branch(node: gs.Node, layer: Layer | None, whole: Layer, tied: Collection[str]) -> Branch | None:
    """A term of the sum, seen as a convolution with the strides and groups of another one."""
    rank = len(whole.kernel)
    strides = whole.node.attrs.get("strides", [1] * rank)
    if layer is None:
        norm = recorded(node)
        same = norm is not None and len(norm.gamma) == whole.out_channels == whole.in_channels
        if norm is None or not same or max(strides) > 1:
            return None
        scale = norm.gamma / np.sqrt(norm.var + norm.epsilon)
        share = whole.in_channels // whole.groups
        channels = np.arange(whole.out_channels)
        weight = np.zeros((whole.out_channels, share))
        weight[channels, channels % share] = scale
        weight = weight.reshape(weight.shape + (1,) * rank)
        return Branch(node, node.inputs[0], weight, norm.beta - norm.mean * scale, (0,) * rank, (0,) * rank)
    attrs = node.attrs
    alike = isinstance(layer, Convolution) and layer.convolves and attrs.get("strides", [1] * rank) == strides
    spread = any(d > 1 and k > 1 for d, k in zip(attrs.get("dilations", [1] * rank), layer.kernel, strict=False))
    if not alike or spread or layer.batch_norm is not None or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    if len(layer.kernel) != rank or (layer.groups, layer.out_channels) != (whole.groups, whole.out_channels):
        return None
    if layer.constant.dtype != whole.constant.dtype or layer.constant.name in tied:
        return None
    pads = [int(n) for n in attrs.get("pads", [0] * 2 * rank)]
    weight = np.asarray(layer.weight, np.float64)
    return Branch(node, node.inputs[0], weight, np.asarray(layer.bias, np.float64), (*pads[:rank],), (*pads[rank:],))


def _write(layer: Layer, weight: Array, bias: Array) -> bool:
    """Gives a layer another kernel and bias under new names; False where its type cannot hold them."""
    dtype = layer.constant.dtype
    with np.errstate(over="ignore"):
        values = weight.astype(dtype), bias.astype(dtype)
    if not all(np.isfinite(v.astype(np.float64)).all() for v in values):
        return False
    names = taken_in(layer.graph)
    constants = [gs.Constant(unique_name(f"{layer.name}.joined", names), value) for value in values]
    layer.node.inputs = [layer.node.inputs[0], *constants]
    return True
