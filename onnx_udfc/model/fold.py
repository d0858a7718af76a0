"""Batch norm and per-channel constants folded into the layer before them, the batch norm's parameters kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.graph import constant_input, is_dense
from onnx_udfc.model.layers import BatchNorm, Layer
from onnx_udfc.model.patterns import listed

Array = NDArray[Any]


def fold_into_layer(layer: Layer, kept: set[str]) -> list[gs.Node]:
    """Folds the chain of batch norms and per-channel constants behind a layer into its weight and bias.

    With x the output of the layer, a batch norm is y = x * s + (beta - mean * s), s = gamma / sqrt(var + epsilon);
    a constant Mul or Add is the same with s or the shift alone. Computed in float64 and cast once.
    What only moves the channels to another axis may stand between them, and stays. Other operators are left alone.
    `kept` are names of the tensors that leave the graph or go into a subgraph; they cannot be folded over.

    Returns:
        The folded nodes, cut off from the graph's tensors.
    """
    if not layer.per_channel:
        return []
    scale, shift, norm = np.ones(layer.out_channels), np.zeros(layer.out_channels), None
    folded: list[gs.Node] = []
    tensor, place = layer.node.outputs[0], _Place(1, len(layer.constant.shape))
    while tensor.name not in kept and len(tensor.outputs) == 1:
        node = tensor.outputs[0]
        moved = _moved(node, place, layer.out_channels)
        if moved is not None:
            tensor, place = node.outputs[0], moved
            continue
        params = batch_norm(node, tensor, layer.out_channels) if place.axis == 1 else None
        affine = _affine(node, tensor, layer, place) if params is None else _as_affine(params)
        if affine is None:
            break
        if params is None and [before.op for before in folded] == ["Sub"] and _divides(node, layer, place):
            params = _spelled(shift, affine[0])
        norm = _compose(norm, params, affine)
        scale, shift = scale * affine[0], shift * affine[0] + affine[1]
        folded.append(node)
        tensor = node.outputs[0]
    if not folded or not _write(layer, scale, shift):
        return []
    layer.batch_norm = norm
    for node in folded:
        _bypass(node)
    return folded


@dataclass(frozen=True)
class _Place:
    """The axis of a layer's channels in a tensor behind it, of `rank` axes."""

    axis: int
    rank: int


def _moved(node: gs.Node, place: _Place, channels: int) -> _Place | None:
    """Where the channels are behind a node that only moves them; None behind any other."""
    if node.domain or len(node.outputs) != 1 or isinstance(node.inputs[0], gs.Constant):
        return None
    if node.op == "Transpose" and len(node.attrs.get("perm", ())) == place.rank:
        return _Place(list(node.attrs["perm"]).index(place.axis), place.rank)
    if node.op in ("Squeeze", "Unsqueeze"):
        stated = listed(node, "axes", 1)
        if stated is None:
            return None
        rank = place.rank + len(stated) * (1 if node.op == "Unsqueeze" else -1)
        axes = {axis % max(rank, place.rank) for axis in stated}
        if node.op == "Squeeze":
            inside = place.axis in axes
            return None if inside else _Place(place.axis - sum(axis < place.axis for axis in axes), rank)
        return _Place([axis for axis in range(rank) if axis not in axes][place.axis], rank)
    shape = listed(node, "", 1) if node.op == "Reshape" and place.axis == 1 else None
    if shape and len(shape) > 2 and shape[0] == 0 and shape[1] in (0, channels) and not node.attrs.get("allowzero", 0):
        return _Place(1, len(shape))
    return None


def _divides(node: gs.Node, layer: Layer, place: _Place) -> bool:
    """Whether a node divides by a deviation: it is a Div, or a Mul with another one behind it, which has gamma."""
    out = node.outputs[0]
    if node.op != "Mul" or len(out.outputs) != 1:
        return bool(node.op == "Div")
    return out.outputs[0].op == "Mul" and _affine(out.outputs[0], out, layer, place) is not None


def _spelled(shift: Array, factor: Array) -> BatchNorm | None:
    """The batch norm whose mean was subtracted and by whose deviation is divided; what follows is gamma and beta."""
    if not np.all(factor > 0):
        return None
    return BatchNorm(np.ones_like(shift), np.zeros_like(shift), -shift, 1 / np.square(factor), 0.0)


def recorded(node: gs.Node) -> BatchNorm | None:
    """What a batch norm of its own, folded into no layer, recorded in training; None if the node is none."""
    if len(node.inputs) != 5 or not isinstance(node.inputs[3], gs.Constant) or len(node.inputs[3].shape) != 1:
        return None
    return batch_norm(node, node.inputs[0], int(node.inputs[3].shape[0]))


def batch_norm(node: gs.Node, tensor: gs.Tensor, channels: int) -> BatchNorm | None:
    """The parameters of a BatchNormalization in inference mode over `tensor`, or None if the node is not one."""
    if node.op != "BatchNormalization" or node.domain or node.inputs[0] is not tensor or len(node.inputs) != 5:
        return None
    training = node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1)
    used = [t for t in node.outputs[1:] if not t.is_empty()]
    if training or used or not all(is_dense(t) and tuple(t.shape) == (channels,) for t in node.inputs[1:]):
        return None
    gamma, beta, mean, var = (t.values.astype(np.float64) for t in node.inputs[1:])
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    return BatchNorm(gamma, beta, mean, var, epsilon) if np.all(var + epsilon > 0) else None


def _as_affine(norm: BatchNorm) -> tuple[Array, Array]:
    """Scale and shift, (O,) each, of a batch norm."""
    scale = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    return scale, norm.beta - norm.mean * scale


def _affine(node: gs.Node, tensor: gs.Tensor, layer: Layer, place: _Place) -> tuple[Array, Array] | None:
    """Scale and shift, (O,) each, of a Mul, Div, Add or Sub by one constant per channel; None for another node."""
    if node.op not in ("Mul", "Div", "Add", "Sub") or node.domain:
        return None
    constant = constant_input(node)
    if constant is None or not is_dense(constant) or (node.op in ("Div", "Sub") and node.inputs[0] is not tensor):
        return None
    value = _per_channel(constant, layer, place)
    if value is None or (node.op == "Div" and not np.all(value)):
        return None
    ones, zeros = np.ones_like(value), np.zeros_like(value)
    table = {"Mul": (value, zeros), "Add": (ones, value), "Sub": (ones, -value)}
    return table[node.op] if node.op in table else (1 / value, zeros)


def _per_channel(constant: gs.Constant, layer: Layer, place: _Place) -> Array | None:
    """(O,) float64 if the constant broadcasts over the tensor with one value per channel, else None."""
    rank, channels = place.rank, layer.out_channels
    shape = tuple(constant.shape)
    if len(shape) > rank or str(constant.dtype) != str(layer.constant.dtype):
        return None
    padded = (1,) * (rank - len(shape)) + shape
    if padded[place.axis] not in (1, channels) or any(n != 1 for i, n in enumerate(padded) if i != place.axis):
        return None
    return np.broadcast_to(constant.values.astype(np.float64).reshape(-1), (channels,)).copy()


def _compose(norm: BatchNorm | None, params: BatchNorm | None, affine: tuple[Array, Array]) -> BatchNorm | None:
    """The batch norm so far with one more step behind it: only the first one holds statistics of the layer."""
    if norm is None:
        return params
    return BatchNorm(norm.gamma * affine[0], norm.beta * affine[0] + affine[1], norm.mean, norm.var, norm.epsilon)


def _write(layer: Layer, scale: Array, shift: Array) -> bool:
    """Writes weight * scale and bias * scale + shift; False, and nothing written, if the type cannot hold them."""
    matrix = layer.matrix() * scale.reshape(layer.groups, -1, 1)
    bias = layer.bias.astype(np.float64) * scale + shift
    dtype = layer.constant.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        if not all(np.isfinite(a.astype(dtype).astype(np.float64)).all() for a in (matrix, bias)):
            return False
    layer.set(matrix, bias)
    return True


def _bypass(node: gs.Node) -> None:
    """What writes the tensor that a node reads takes over the tensor that it writes, name included."""
    out = node.outputs[0]
    tensor = next(t for t in node.inputs if not isinstance(t, gs.Constant))
    before = tensor.inputs[0]
    node.inputs.clear()
    node.outputs.clear()
    before.outputs[0] = out


def plain_gemm(node: gs.Node) -> None:
    """Multiplies constant alpha and beta of a Gemm into its weight and bias, and spreads the bias over the channels.

    A Gemm whose weight or bias is computed, or whose bias differs from row to row, is left alone.
    """
    if node.op != "Gemm" or node.domain or len(node.inputs) < 2 or not is_dense(node.inputs[1]):
        return
    weight, alpha, beta = node.inputs[1], float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if len(weight.shape) != 2 or node.attrs.get("transA", 0):
        return
    channels = int(weight.shape[0 if node.attrs.get("transB", 0) else 1])
    if bias is not None and not _one_row(bias, channels):
        return
    if alpha != 1.0:
        weight.values = (weight.values.astype(np.float64) * alpha).astype(weight.values.dtype)
        del node.attrs["alpha"]
    if bias is not None and (beta != 1.0 or tuple(bias.shape) != (channels,)):
        spread = np.broadcast_to(bias.values.astype(np.float64).reshape(-1) * beta, (channels,))
        bias.values = spread.astype(bias.values.dtype)
        node.attrs.pop("beta", None)


def _one_row(bias: gs.Tensor, channels: int) -> bool:
    """Whether the constant adds the same row of `channels` values, or one value, to every row."""
    return is_dense(bias) and tuple(bias.shape) in ((), (1,), (1, 1), (channels,), (1, channels))
