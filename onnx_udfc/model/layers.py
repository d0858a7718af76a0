"""The layers with weights: one view on Conv, ConvTranspose, Gemm and MatMul as a linear regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.graph import constant_input, is_dense, peek, position
from onnx_udfc.model.names import unique_name

Array = NDArray[Any]


@dataclass(frozen=True)
class BatchNorm:
    """The batch norm that was folded into a layer: y = gamma * (x - mean) / sqrt(var + epsilon) + beta.

    Attributes:
        gamma: (O,) float64 scale; a per-channel Mul after the batch norm is multiplied in.
        beta: (O,) float64 shift; constants added after it are included. It is the mean of the layer's output.
        mean: (O,) float64 stored mean of the layer's output before the batch norm.
        var: (O,) float64 stored variance of the same.
        epsilon: added to `var`.
    """

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    epsilon: float

    def take(self, keep: Array) -> BatchNorm:
        """The parameters of the channels `keep` (sorted indices)."""
        return BatchNorm(self.gamma[keep], self.beta[keep], self.mean[keep], self.var[keep], self.epsilon)


@dataclass(eq=False)
class Layer:
    """A node with a constant weight, seen as `groups` independent regressions; a class for each operator.

    Attributes:
        node: the gs.Node; its weight is `node.inputs[1]`, a gs.Constant that no other node uses.
        graph: the graph of the node (a MatMul gets its bias as a new Add node there).
        batch_norm: what was folded into the weights, or None.
        bias_node: the Add that holds the bias of a layer with `bias_apart`, or None.
        axis: of the channels in what it reads and writes.
        convolves: whether it is an ordinary convolution.
        stuffed: whether it convolves its input with zeros stuffed between the elements.
        bias_apart: whether its bias stands in an Add behind it.
        per_channel: whether what follows along the second axis can be folded into it.
        integer: whether there is an integer kernel on processors.
    """

    node: gs.Node
    graph: gs.Graph
    batch_norm: BatchNorm | None = None
    bias_node: gs.Node | None = None

    axis: ClassVar[int] = -1
    convolves: ClassVar[bool] = False
    stuffed: ClassVar[bool] = False
    bias_apart: ClassVar[bool] = False
    per_channel: ClassVar[bool] = False
    integer: ClassVar[bool] = False

    @staticmethod
    def fits(node: gs.Node) -> bool:
        """Whether a node with a dense weight and a dense bias, if any, is in a form that the class knows."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of the node, unique in the network."""
        return str(self.node.name)

    @property
    def groups(self) -> int:
        """The `group` attribute of a convolution, else 1."""
        return 1

    @property
    def constant(self) -> gs.Constant:
        """The weight tensor."""
        return self.node.inputs[1]

    @property
    def weight(self) -> Array:
        """The weight in the node's own layout, float32 (float64 for a double network)."""
        return _computable(peek(self.constant))

    @property
    def bias(self) -> Array:
        """(O,) the bias, zeros where the node has none; float32 or float64 as the weight."""
        tensor = self.bias_tensor
        if tensor is None:
            return np.zeros(self.out_channels, np.float64 if self.constant.dtype == np.float64 else np.float32)
        return _computable(tensor.values).reshape(-1)

    @property
    def bias_tensor(self) -> gs.Constant | None:
        """The constant that holds the bias, or None."""
        if self.bias_apart:
            return None if self.bias_node is None else constant_input(self.bias_node)
        has_bias = len(self.node.inputs) > 2 and not self.node.inputs[2].is_empty()
        return self.node.inputs[2] if has_bias else None

    @property
    def weight_axes(self) -> tuple[int, int]:
        """The axes of the weight that run along its output and its input channels (of one group)."""
        return 1, 0

    @property
    def channel_axis(self) -> int | None:
        """The axis of the weight that has all output channels; None where no one axis has."""
        return self.weight_axes[0]

    @property
    def out_channels(self) -> int:
        """Number of output channels O."""
        return int(self.constant.shape[self.weight_axes[0]])

    @property
    def in_channels(self) -> int:
        """Number of input channels I."""
        return int(self.constant.shape[self.weight_axes[1]])

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads one input channel of its own."""
        return self.convolves and self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial shape, () for Gemm and MatMul."""
        return tuple(int(n) for n in self.constant.shape[2:])

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """The shape of `matrix()`, known without reading the weight."""
        width = self.in_channels // self.groups * math.prod(self.kernel)
        return self.groups, self.out_channels // self.groups, width

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight in the file."""
        return int(math.prod(self.constant.shape)) * int(np.dtype(self.constant.dtype).itemsize)

    def matrix(self) -> Array:
        """The weight as one regression per group: output = matrix[g] @ patch of group g.

        A patch holds, for every input channel of the group, its taps in row-major order. For a ConvTranspose the
        patch is one of the input with zeros stuffed between its elements (stride), over which the transposed
        convolution is an ordinary one with flipped kernels: matrix[g, o, i*k + tap] = W[g*I/g + i, o, flipped tap].

        Returns:
            (groups, O/groups, I/groups * k) float64, a copy.
        """
        return np.array(self.weight if self.weight_axes[0] == 0 else self.weight.T, np.float64, order="C")[None]

    def set(self, matrix: Array, bias: Array) -> None:
        """Writes weight and bias back, in the layout and the type of the node's tensors.

        `matrix` is (groups, O/groups, I/groups * k), as `matrix()` returns it; a node without bias gets the bias (O,)
        when it is not zero.
        """
        shape = self.constant.shape
        self.constant.values = np.ascontiguousarray(self.layout(matrix), self.constant.dtype).reshape(shape)
        self.set_bias(bias)

    def set_bias(self, bias: Array) -> None:
        """Writes the bias (O,) back; a node without one gets one when it is not zero."""
        tensor = self.bias_tensor
        if tensor is not None:
            tensor.values = np.asarray(bias).reshape(tensor.shape).astype(tensor.values.dtype)
        elif np.any(bias):
            self._add_bias(np.asarray(bias).astype(self.constant.dtype))

    def layout(self, matrix: Array) -> Array:
        """The inverse of `matrix()`: (groups, O/groups, I/groups * k) to the weight's layout."""
        assert matrix.size == int(np.prod(self.constant.shape)), (self.name, matrix.shape, self.constant.shape)
        return self._layout(matrix)

    def _layout(self, matrix: Array) -> Array:
        W: Array = matrix[0] if self.weight_axes[0] == 0 else matrix[0].T
        return W

    def _add_bias(self, bias: Array) -> None:
        """Gives the node a bias: a third input, or an Add after a MatMul."""
        names = {t.name for t in self.graph.tensors().values()} | {n.name for n in self.graph.nodes}
        constant = gs.Constant(unique_name(f"{self.name}.bias", names), bias)
        if not self.bias_apart:
            self.node.inputs = [*self.node.inputs[:2], constant]
            return
        out = self.node.outputs[0]
        inner = gs.Variable(unique_name(f"{out.name}.unbiased", names), out.dtype, out.shape)
        self.bias_node = gs.Node("Add", unique_name(f"{self.name}.add_bias", names), {}, [inner, constant], [])
        self.node.outputs = [inner]
        self.bias_node.outputs.append(out)
        self.graph.nodes.insert(position(self.graph, self.node) + 1, self.bias_node)


class Convolution(Layer):
    """Conv: weight (O, I/groups, *kernel)."""

    axis, convolves, per_channel, integer = 1, True, True, True

    @staticmethod
    def fits(node: gs.Node) -> bool:
        """Whether the weight has a kernel and its rows are as many in each group."""
        shape, groups = node.inputs[1].shape, node.attrs.get("group", 1)
        return len(shape) >= 3 and isinstance(groups, int) and groups >= 1 and shape[0] % groups == 0

    @property
    def groups(self) -> int:
        """The `group` attribute."""
        return int(self.node.attrs.get("group", 1))

    @property
    def weight_axes(self) -> tuple[int, int]:
        """(O, I/groups, *kernel)."""
        return 0, 1

    @property
    def in_channels(self) -> int:
        """Number of input channels I."""
        return int(self.constant.shape[1]) * self.groups

    def matrix(self) -> Array:
        """As of `Layer`."""
        W = self.weight.astype(np.float64)
        return W.reshape(self.groups, W.shape[0] // self.groups, -1)

    def _layout(self, matrix: Array) -> Array:
        return matrix.reshape(tuple(self.constant.shape))


class TransposedConvolution(Convolution):
    """ConvTranspose: weight (I, O/groups, *kernel); no runtime has an integer kernel of it for QDQ on processors."""

    convolves, stuffed, integer = False, True, False

    @property
    def weight_axes(self) -> tuple[int, int]:
        """(I, O/groups, *kernel)."""
        return 1, 0

    @property
    def channel_axis(self) -> int | None:
        """The second axis of one group, the first where each group has one channel."""
        if self.groups == 1:
            return 1
        return 0 if tuple(self.constant.shape[:2]) == (self.groups, 1) else None

    @property
    def out_channels(self) -> int:
        """Number of output channels O."""
        return int(self.constant.shape[1]) * self.groups

    @property
    def in_channels(self) -> int:
        """Number of input channels I."""
        return int(self.constant.shape[0])

    def matrix(self) -> Array:
        """As of `Layer`."""
        W = self.weight.astype(np.float64)
        grouped = _flip(W).reshape(self.groups, W.shape[0] // self.groups, W.shape[1], -1)
        return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(self.groups, W.shape[1], -1)

    def _layout(self, matrix: Array) -> Array:
        shape = tuple(self.constant.shape)
        grouped = matrix.reshape(self.groups, shape[1], shape[0] // self.groups, -1).swapaxes(1, 2)
        return _flip(grouped.reshape(shape))


class Gemm(Layer):
    """Gemm with a constant weight: (I, O), or (O, I) with transB."""

    per_channel, integer = True, True

    @staticmethod
    def fits(node: gs.Node) -> bool:
        """Whether it is x W + b and no more."""
        return len(node.inputs[1].shape) == 2 and not node.attrs.get("transA", 0) and _plain_gemm(node)

    @property
    def weight_axes(self) -> tuple[int, int]:
        """(I, O), or (O, I) with transB."""
        return (0, 1) if self.node.attrs.get("transB", 0) else (1, 0)


class MatMul(Layer):
    """MatMul with a constant weight (I, O) on the right; its bias is an Add behind it."""

    bias_apart, integer = True, True

    @staticmethod
    def fits(node: gs.Node) -> bool:
        """Whether the weight is a matrix."""
        return len(node.inputs[1].shape) == 2


LAYERS: dict[str, type[Layer]] = {
    "Conv": Convolution,
    "ConvTranspose": TransposedConvolution,
    "Gemm": Gemm,
    "MatMul": MatMul,
}


def kind_of(op: str) -> type[Layer]:
    """The class of an operator's layers; `Layer` itself, which is nothing in particular, for all others."""
    return LAYERS.get(op, Layer)


def find_layers(graph: gs.Graph, kept: set[str]) -> list[Layer]:
    """The layers of the top-level graph, in the order of its nodes."""
    found = [LAYERS[node.op](node, graph) for node in graph.nodes if node.op in LAYERS and is_layer(node)]
    for layer in found:
        layer.bias_node = _added_bias(layer, kept) if layer.bias_apart else None
    return found


def is_layer(node: gs.Node) -> bool:
    """Whether the node computes data times a constant float weight, in a form `Layer.matrix` knows."""
    if node.domain or len(node.inputs) < 2 or isinstance(node.inputs[0], gs.Constant) or not is_dense(node.inputs[1]):
        return False
    if 0 in node.inputs[1].shape or any(not t.is_empty() and not is_dense(t) for t in node.inputs[2:3]):
        return False
    return LAYERS[node.op].fits(node)


def _plain_gemm(node: gs.Node) -> bool:
    """Whether alpha and beta are 1 and the bias, if any, is one value per output channel."""
    channels = node.inputs[1].shape[0 if node.attrs.get("transB", 0) else 1]
    has_bias = len(node.inputs) > 2 and not node.inputs[2].is_empty()
    plain_bias = not has_bias or tuple(node.inputs[2].shape) == (channels,)
    return plain_bias and node.attrs.get("alpha", 1.0) == 1.0 and (not has_bias or node.attrs.get("beta", 1.0) == 1.0)


def _added_bias(layer: Layer, kept: set[str]) -> gs.Node | None:
    """The Add of one constant per channel that alone consumes the layer, or None."""
    out = layer.node.outputs[0]
    if out.name in kept or len(out.outputs) != 1 or out.outputs[0].op != "Add":
        return None
    add = out.outputs[0]
    constant = constant_input(add)
    channels = layer.out_channels
    if constant is None or not is_dense(constant) or tuple(constant.shape)[-1:] != (channels,):
        return None
    return add if int(np.prod(constant.shape)) == channels else None


def _computable(values: Array) -> Array:
    """float16 and bfloat16 widened to float32."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _flip(W: Array) -> Array:
    """All spatial axes (2, 3, ...) reversed."""
    return W[(slice(None), slice(None), *[slice(None, None, -1)] * (W.ndim - 2))]


def residual_operand(layer: Layer, outputs: set[str]) -> str | None:
    """Name of the other operand, where the layer's output goes to one Add and nowhere else."""
    out = layer.node.outputs[0] if layer.bias_node is None else layer.bias_node.outputs[0]
    if out.name in outputs or len(out.outputs) != 1 or out.outputs[0].op not in ("Add", "Sum"):
        return None
    others = [t for t in out.outputs[0].inputs if t is not out]
    return others[0].name if len(others) == 1 and not isinstance(others[0], gs.Constant) else None


def own_bias(layer: Layer) -> NDArray[np.float64]:
    """Bias (O,) that the node itself adds: a MatMul has its bias in another node."""
    bias: NDArray[Any] = np.zeros(layer.out_channels) if layer.bias_apart else layer.bias
    return bias.astype(np.float64)
