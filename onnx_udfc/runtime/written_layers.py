"""Layers of a written model as plain arithmetic: the weight and bias that a node really computes with.

A quantized weight reaches its node through casts, scaling or DequantizeLinear; what matters is the value that arrives.
onnxruntime is asked for it by naming it a graph output, so every form there is, and every one to come, is covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from onnx_udfc.model.layers import LAYERS
from onnx_udfc.model.protos import small_model
from onnx_udfc.model.values import values
from onnx_udfc.runtime.sessions import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

Feed = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True)
class WrittenLayer:
    """A node and what it computes with.

    A MatMul with a bias has the tensor behind the Add as its output. The weight is as the node takes it, the bias (O,),
    or None.
    """

    node: onnx.NodeProto
    output: str
    weight: NDArray[Any]
    bias: NDArray[Any] | None


def written_layers(model: onnx.ModelProto, names: Iterable[str], feed: Feed) -> dict[str, WrittenLayer]:
    """Return the named layers of a model with the values of their weights.

    Layers are found by node name; what is not there is left out. Weights are evaluated with one input, on which they do
    not depend.
    """
    nodes = {n.name: n for n in model.graph.node}
    biases = _added_biases(model)
    found = {n: nodes[n] for n in names if n in nodes}
    wanted = {t for n in found.values() for t in _parameters(n, biases)}
    held = {t.name: values(t) for t in model.graph.initializer if t.name in wanted}
    missing = sorted(wanted - set(held))
    held |= dict(zip(missing, probe(model, missing).run(missing, dict(feed)), strict=True)) if missing else {}
    return {name: _layer(node, biases, held) for name, node in found.items()}


def _parameters(node: onnx.NodeProto, biases: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the tensors of weight and bias."""
    own = [t for t in node.input[1:3] if t]
    return own + ([biases[node.output[0]][0]] if node.output[0] in biases and LAYERS[node.op_type].bias_apart else [])


def _layer(
    node: onnx.NodeProto, biases: Mapping[str, tuple[str, str]], values: Mapping[str, NDArray[Any]]
) -> WrittenLayer:
    weight = values[node.input[1]]
    if LAYERS[node.op_type].bias_apart:
        bias, output = biases.get(node.output[0], ("", node.output[0]))
        return WrittenLayer(node, output, weight, values[bias].reshape(-1) if bias else None)
    has_bias = len(node.input) > 2 and bool(node.input[2])
    return WrittenLayer(node, node.output[0], weight, values[node.input[2]] if has_bias else None)


def _added_biases(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Return tensor → (bias tensor, sum) for tensors whose only reader adds a constant vector."""
    vectors = {t.name for t in model.graph.initializer if len([d for d in t.dims if d != 1]) <= 1}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    result = {}
    for tensor, nodes in readers.items():
        if len(nodes) == 1 and nodes[0].op_type == "Add":
            other = nodes[0].input[1] if nodes[0].input[0] == tensor else nodes[0].input[0]
            if other in vectors:
                result[tensor] = (other, nodes[0].output[0])
    return result


def probe(model: onnx.ModelProto, names: Sequence[str]) -> InferenceSession:
    """Return a session that gives the named inner tensors, computed node by node as the model is written.

    The names are outputs of the model for a moment: a copy of a large one would cost its size in memory.
    """
    outputs = model.graph.output
    count, present = len(outputs), {o.name for o in outputs}
    outputs.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    try:
        return open_session(model, threads=None, optimize=False)
    finally:
        del outputs[count:]


def alone(layer: WrittenLayer, x: NDArray[Any]) -> InferenceSession:
    """Return a session of this layer only, from input `x` to output `y`, in the type of x."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    parameters = {"w": layer.weight.astype(x.dtype)}
    if layer.bias is not None:
        parameters["b"] = layer.bias.astype(x.dtype)
    del node.input[:], node.output[:]
    node.input.extend(["x", *parameters])
    node.output.append("y")
    nodes = [node]
    if LAYERS[node.op_type].bias_apart and layer.bias is not None:
        del node.input[2:]
        node.output[0] = "product"
        nodes.append(helper.make_node("Add", ["product", "b"], ["y"]))
    return open_session(small_model(nodes, {"x": (x.dtype, [None] * x.ndim)}, ["y"], parameters))
