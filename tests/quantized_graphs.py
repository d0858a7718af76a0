"""Small networks with seeded weights, and a simulation of quantized ones node by node in float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.writer import Emitted, activation_tensors, emit
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range
from onnx_udfc.numerics.grids import FORMATS, QuantParams, round_nearest, search_scale

Value = NDArray[Any]
Values = dict[str, Value]

TWO = {"w1": (16, 8, 3, 3), "b1": (16,), "w2": (5, 16, 1, 1), "b2": (5,)}


def network_of(
    text: str, shapes: Mapping[str, tuple[int, ...]], dtype: type = np.float32, opset: int = 21, seed: int = 0
) -> Network:
    """Parse the body of a graph, `(inputs) => (outputs) { nodes }`, and give its weights random values."""
    model = onnx.parser.parse_model(f'<ir_version: {10 if opset < 25 else 13}, opset_import: ["": {opset}]> g {text}')
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = rng.normal(size=shape) / max(1, int(np.prod(shape[1:]))) ** 0.5
        model.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), name))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{index}"
    return read(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def two_convs(opset: int = 21) -> Network:
    body = "a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2, b2)"
    return network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", TWO, opset=opset)


def image() -> Values:
    return {"x": np.random.default_rng(3).normal(size=(1, 8, 6, 6)).astype(np.float32)}


def nearest(network: Network, bits: float) -> dict[str, QuantParams]:
    """Codes of all layers, rounded to nearest."""
    found = {}
    for name, layer in network.layers.items():
        weight = layer.matrix()
        scale = search_scale(weight, FORMATS[bits], dtype=layer.constant.values.dtype)
        found[name] = QuantParams(bits, round_nearest(weight, scale, FORMATS[bits]), scale)
    return found


def run(
    model: onnx.ModelProto, feeds: Values, optimize: bool = True, config: tuple[str, str] | None = None
) -> list[Value]:
    """Run a model on one thread, with a session config entry; products never clip, whatever the processor is."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    if config is not None:
        options.add_session_config_entry(*config)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def fetch(model: onnx.ModelProto, name: str, feeds: Values) -> Value:
    """Value of one tensor of a model, without optimizations."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    return run(copy, feeds, optimize=False)[0]


def ranges(network: Network, placement: Placement, feeds: Values) -> dict[str, ActivationParams]:
    """Grids of a placement's tensors from one batch."""
    values = simulate(network, {}, Placement({}, {}, {}, ()), {}, feeds)
    return {t: search_range(values[t], placement.dtype, placement.caps.get(t)) for t in placement.tensors}


def simulate(
    network: Network,
    weights: Mapping[str, Value],
    placement: Placement,
    grids: Mapping[str, ActivationParams],
    feeds: Values,
) -> Values:
    """Every tensor of a network, computed node by node in float.

    Args:
        network: the float network.
        weights: layer name → the weight that is used instead of the network's.
        placement: where values are put on a grid, as their readers see them.
        grids: of the placement's tensors.
        feeds: the inputs.
    """
    model = network.to_model()
    values: Values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer} | dict(feeds)
    values |= {network.layers[name].constant.name: weight for name, weight in weights.items()}
    for node in model.graph.node:
        inputs = {name: _read(values[name], name, node.name, placement, grids) for name in node.input if name}
        values |= zip(node.output, _run_node(node, inputs, model), strict=False)
    return {name: _read(value, name, "", placement, grids) for name, value in values.items()}


def _read(value: Value, name: str, reader: str, placement: Placement, grids: Mapping[str, ActivationParams]) -> Value:
    source = placement.grid_of(name)
    if source is None:
        return value
    readers = placement.sites[name]
    return grids[source].simulate(value).astype(np.float32) if readers is None or reader in readers else value


def _run_node(node: onnx.NodeProto, inputs: Values, model: onnx.ModelProto) -> list[Value]:
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    one = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return run(one, inputs, optimize=False)


def quantized(network: Network, bits: float, target: str, feeds: Values) -> tuple[Emitted, Placement]:
    weights = nearest(network, bits)
    placement = activation_tensors(network, weights, target)
    return emit(network, weights, ranges(network, placement, feeds), target), placement
