"""Where activations are quantized: which tensors get a QuantizeLinear → DequantizeLinear pair, for which target.

On the CPU, onnxruntime turns DQ → operator → Q into one integer kernel only if every data input and the output has its
pair, and it absorbs a Relu or a Clip(0, x) before the Q. So we walk backwards from the inputs of the layers: a tensor
that an integer kernel reads is quantized, and where the operator that writes it has an integer kernel too, so are its
inputs. What lies after the last layer (softmax, box decoding) and what has no integer kernel stays in float.

Operators that only move values (TIED) keep the grid of their input, or they would have to compute.

TensorRT wants pairs only at the inputs of layers and on the input of an Add that the layer before it is not fused into.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.patterns import bounds_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Layer, Network
    from onnx_udfc.numerics.activation_grids import Kind

GATES = ("HardSigmoid", "HardSwish")  # written as an Add whose codes saturate, and for the second a Mul
INTEGER_OPS = ("Add", "Sum", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", *GATES)
PAIR = 80  # multiply-accumulates in whose time a value goes through a pair, twice what it takes: integers save half
WIDEST_EXACT = 7  # weight bits beside uint8 activations
TIED = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "Expand", "Tile", "Split",
    "Gather", "Resize", "Identity", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    Attributes:
        sites: quantized tensor → the nodes that read the pair's result; None for all of them. In topological order.
        tied: quantized tensor → the tensor whose grid it shares, which is not tied itself.
        caps: quantized tensor → upper bound of a Clip(0, bound) that the runtime absorbs if the range is within it.
        integer: layers that run as integers.
        float_outputs: integer layers whose output is not quantized (the last Gemm): their bias must be int32.
        additions: Sum nodes of two tensors; onnxruntime has an integer kernel for Add only.
        gates: hard sigmoid or hard swish between quantized tensors → (α, β) of its clip(α·x + β, 0, 1); onnxruntime has
            an integer kernel for neither.
        barriers: float nodes between a DQ and a Q, or before a Q, which onnxruntime would quantize by itself if it saw
            that.
        layout_bound: nodes that onnxruntime cannot run channels last, and turns all the same if it sees a layer behind.
        dtype: type of the codes.
        kept: layers that could run as integers and are kept in float, for the sake of what the network answers.
        reason: why, in words for the user; empty where none are.
        slow_first: layers that read an input of the network and are kept in float because they are quicker so.
        whole: whether ranges are not clipped.
    """

    sites: Mapping[str, tuple[str, ...] | None]
    tied: Mapping[str, str]
    caps: Mapping[str, float]
    integer: tuple[str, ...]
    float_outputs: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()
    gates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    barriers: tuple[str, ...] = ()
    layout_bound: tuple[str, ...] = ()
    dtype: Kind = "uint8"
    kept: tuple[str, ...] = ()
    reason: str = ""
    slow_first: tuple[str, ...] = ()
    whole: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose range must be known."""
        return tuple(name for name in self.sites if name not in self.tied)

    def grid_of(self, tensor: str) -> str | None:
        """The tensor whose grid a tensor is on, or None where it is not quantized."""
        return self.tied.get(tensor, tensor) if tensor in self.sites else None

    def on_grid(self, grids: Collection[str]) -> frozenset[str]:
        """The quantized tensors that are on one of the grids of these tensors."""
        return frozenset(tensor for tensor in self.sites if self.grid_of(tensor) in grids)


def integer_bits(network: Network, bits: Mapping[str, float], placement: Placement) -> dict[str, float]:
    """Weight bits that integer kernels compute exactly: 8 become 7, but for depthwise layers.

    x86 processors without VNNI add the products of two weights (int8) and two activations (uint8) in int16, and clip
    what does not fit: 2 · 255 · 127 does not, 2 · 255 · 63 does (onnxruntime calls it reduce_range). Kernels for
    depthwise convolution and for int8 activations are not concerned.
    """
    clipped = [n for n in placement.integer if placement.dtype == "uint8" and not network.layers[n].depthwise]
    return {name: min(b, WIDEST_EXACT) if name in clipped else b for name, b in bits.items()}


def around_kernels(graph: gs.Graph, layers: Sequence[Layer], left: Collection[str] = frozenset()) -> Placement:
    """Pairs around every operator that onnxruntime has an integer kernel for, from the layers backwards.

    `left` are tensors that are not to be quantized, and with them nothing that reads or writes them in integers.
    """
    integer = {layer.name: layer for layer in layers if layer.integer and not _touches(graph, layer, left)}
    outputs = {t.name for t in graph.outputs}
    found = _Wanted({layer.node.inputs[0].name for layer in integer.values()})
    for node in reversed(graph.nodes):
        before_one = kind_of(node.op).convolves or any(t.name in found.convolved for t in node.outputs)
        found.convolved.update(t.name for t in node.inputs if before_one)
        if node.name not in integer:
            found.look_at(node, outputs, left)
    results = {name: _result(layer.node, _fused_bias(layer), outputs).name for name, layer in integer.items()}
    left_float = tuple(
        name
        for name, layer in integer.items()
        if results[name] not in found.tensors and not layer.convolves and layer.bias_node is None
    )
    sites = found.tensors | {result for name, result in results.items() if name not in left_float}
    tied = {t: source for t, source in found.moved_from.items() if t in sites}
    return Placement(
        {name: None for name in _tensor_names(graph) if name in sites},
        {t: _root(t, tied) for t in tied},
        {t: cap for t, cap in _caps(graph) if t in sites},
        tuple(integer),
        left_float,
        tuple(found.additions),
        found.gates,
        (*_barriers(graph, set(integer), sites, outputs), *(found.pools if integer else ())),
        tuple(_layout_bound(graph, outputs)) if integer else (),
    )


@dataclass(frozen=True)
class _Wanted:
    """What integer kernels want, met on the way backwards.

    Attributes:
        tensors: that are to be quantized.
        moved_from: one of them that only moves values → where they come from.
        convolved: tensors that a convolution comes after.
        additions: as of Placement.
        gates: as of Placement.
        pools: that are to stay in float.
    """

    tensors: set[str]
    moved_from: dict[str, str] = field(default_factory=dict)
    convolved: set[str] = field(default_factory=set)
    additions: list[str] = field(default_factory=list)
    gates: dict[str, tuple[float, float]] = field(default_factory=dict)
    pools: list[str] = field(default_factory=list)

    def look_at(self, node: gs.Node, outputs: set[str], left: Collection[str]) -> None:
        """Take in a node that is no layer, all behind it being known."""
        behind_all = not any(t.name in self.convolved for t in node.outputs)
        if node.op == "MaxPool" and behind_all and not _behind_convolution(node):
            self.pools.append(node.name)
            return
        if any(t.name in left for t in (*node.inputs, *node.outputs)):
            return
        if _has_integer_kernel(node) and _result(node, None, outputs).name in self.tensors:
            self.tensors.update(t.name for t in node.inputs)
            if node.op == "Sum":
                self.additions.append(node.name)
            if node.op in GATES:
                self.gates[node.name] = hard_sigmoid(node)
        elif _keeps_grid(node) and any(t.name in self.tensors for t in node.outputs):
            self.tensors.add(node.inputs[0].name)
            self.moved_from.update({t.name: node.inputs[0].name for t in node.outputs if t.name in self.tensors})


def before_layers(graph: gs.Graph, layers: Sequence[Layer], left: Collection[str] = frozenset()) -> Placement:
    """Pairs at the inputs of layers and at the other input of the Adds behind them, as TensorRT wants them.

    `left` are tensors that are not to be quantized, and with them nothing that reads them in integers.
    """
    layers = [layer for layer in layers if layer.node.inputs[0].name not in left]
    readers: dict[str, list[str]] = {}
    direct = {id(layer.node) for layer in layers}
    for node in graph.nodes:
        if id(node) in direct:
            readers.setdefault(node.inputs[0].name, []).append(node.name)
        residual = _residual(node, direct)
        if residual is not None and residual.name not in left:
            readers.setdefault(residual.name, []).append(node.name)
    sites = {name: tuple(readers[name]) for name in _tensor_names(graph) if name in readers}
    return Placement(sites, {}, {}, tuple(layer.name for layer in layers), dtype="int8")


def _touches(graph: gs.Graph, layer: Layer, left: Collection[str]) -> bool:
    """Whether a layer reads one of these tensors, or writes one that it cannot leave in float."""
    if not left or layer.node.inputs[0].name in left:
        return bool(left)
    if not layer.convolves and layer.bias_node is None:  # its result may stay in float
        return False
    return _result(layer.node, _fused_bias(layer), {t.name for t in graph.outputs}).name in left


def _residual(node: gs.Node, direct: set[int]) -> gs.Tensor | None:
    """The input of an Add that is not the layer fused with it; None where no layer is."""
    if node.op != "Add" or any(isinstance(t, gs.Constant) for t in node.inputs):
        return None
    from_layer = [len(t.outputs) == 1 and bool(t.inputs) and id(t.inputs[0]) in direct for t in node.inputs]
    if not any(from_layer):
        return None
    return node.inputs[1] if all(from_layer) else node.inputs[from_layer.index(False)]


def _has_integer_kernel(node: gs.Node) -> bool:
    """Whether the node has an integer kernel, all of its inputs being activations."""
    data = all(not isinstance(t, gs.Constant) and not t.is_empty() for t in node.inputs)
    if node.op == "Sum" and len(node.inputs) != 2:
        return False
    absorbs = (
        _result(node, None, set()) is not node.outputs[0]
    )  # an activation behind it is taken for a part of a kernel
    if node.op == "HardSigmoid" and (hard_sigmoid(node)[0] <= 0 or absorbs):  # another scale stands behind it
        return False
    return node.op in INTEGER_OPS and not node.domain and data and len(node.outputs) == 1


def _behind_convolution(node: gs.Node) -> bool:
    """Whether a convolution writes what a node reads, or an Add does, with nothing but a Relu or Clip between.

    Elsewhere behind the last convolution onnxruntime does not pool channels last, and has no quick kernel for codes.
    """
    writers = node.inputs[0].inputs
    while writers and writers[0].op in ("Relu", "Clip"):
        writers = writers[0].inputs[0].inputs
    return bool(writers) and (writers[0].op == "Add" or kind_of(writers[0].op).convolves)


def hard_sigmoid(node: gs.Node) -> tuple[float, float]:
    """α and β of clip(α·x + β, 0, 1), which a hard swish multiplies x by."""
    if node.op == "HardSwish":
        return 1 / 6, 0.5
    return float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))


def _keeps_grid(node: gs.Node) -> bool:
    """Whether every output value is one of the first input's, lies between two of them, or is 0."""
    if node.op not in TIED or node.domain or isinstance(node.inputs[0], gs.Constant):
        return False
    if node.op == "MaxPool":
        return len(node.outputs) == 1
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") != "cubic")
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        if fill is None or fill.is_empty():
            return True
        return isinstance(fill, gs.Constant) and not np.any(fill.values)
    return True


def _fused_bias(layer: Layer) -> gs.Node | None:
    """The Add of a MatMul's bias where onnxruntime makes one kernel of the two: it wants the bias to have one axis."""
    tensor = None if layer.bias_node is None else layer.bias_tensor
    return layer.bias_node if tensor is not None and len(tensor.shape) == 1 else None


def _result(node: gs.Node, bias_node: gs.Node | None, outputs: set[str]) -> gs.Tensor:
    """The tensor that a kernel writes: past the Add of a MatMul's bias, and past an activation that is absorbed."""
    tensor = node.outputs[0] if bias_node is None else bias_node.outputs[0]
    if tensor.name in outputs or len(tensor.outputs) != 1:
        return tensor
    after = tensor.outputs[0]
    return after.outputs[0] if after.op == "Relu" or (after.op == "Clip" and _clip_cap(after) is not None) else tensor


def _clip_cap(node: gs.Node) -> float | None:
    """Upper bound of a Clip whose lower bound is 0, or None for any other."""
    low, high = bounds_of(node) or (-np.inf, 0.0)
    return high if low == 0 < high else None


def _caps(graph: gs.Graph) -> Iterator[tuple[str, float]]:
    for node in graph.nodes:
        cap = 1.0 if node.op == "HardSigmoid" else _clip_cap(node) if node.op == "Clip" else None
        if cap is not None and np.isfinite(cap):
            yield node.outputs[0].name, cap


def _barriers(graph: gs.Graph, integer: set[str], sites: set[str], outputs: set[str]) -> Iterator[str]:
    """Float layers that read a quantized tensor and write one, with nothing but a Relu or Clip before its pair."""
    for node in graph.nodes:
        if not kind_of(node.op).per_channel or node.name in integer or node.inputs[0].name not in sites:
            continue
        tensor = node.outputs[0]
        while tensor.name not in sites and tensor.name not in outputs and len(tensor.outputs) == 1:
            if tensor.outputs[0].op not in ("Relu", "Clip"):
                break
            tensor = tensor.outputs[0].outputs[0]
        if tensor.name in sites:
            yield node.name


def _layout_bound(graph: gs.Graph, outputs: set[str]) -> Iterator[str]:
    """Cubic Resize nodes: onnxruntime has a kernel for the last two axes only."""
    for node in graph.nodes:
        cubic = node.op == "Resize" and not node.domain and node.attrs.get("mode") == "cubic"
        if cubic and node.outputs[0].name not in outputs:
            yield node.name


def _tensor_names(graph: gs.Graph) -> list[str]:
    """Names of graph inputs and of what nodes write, in topological order."""
    return [t.name for t in graph.inputs] + [t.name for node in graph.nodes for t in node.outputs if not t.is_empty()]


def _root(tensor: str, tied: Mapping[str, str]) -> str:
    while tensor in tied:
        tensor = tied[tensor]
    return tensor
