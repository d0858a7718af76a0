"""The tensorrt form against TensorRT's published rules for explicit quantization, read off the written graph.

NVIDIA's developer guide, "Working with quantized types": symmetric int8 with zero point 0; Q/DQ at the inputs of the
layers and on the residual input of an Add; biases in float (onnxruntime#14229: an int32 bias breaks the parser).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_udfc.emit.writer import activation_tensors, emit
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams
from tests.quantized_graphs import nearest, network_of

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def written(network: Network, bits: int) -> onnx.ModelProto:
    weights = nearest(network, bits)
    placement = activation_tensors(network, weights, "tensorrt")
    grids = {t: ActivationParams(0.05, 0, placement.dtype) for t in placement.tensors}
    return emit(network, weights, grids, "tensorrt", placement).model


def violations(model: onnx.ModelProto) -> Iterator[str]:
    """Every rule that a model breaks, in words."""
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        from_dq = [name in made and made[name].op_type == "DequantizeLinear" for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            if zero.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
                yield f"{node.name}: zero point must be 0, int8"
            if not (numpy_helper.to_array(constants[node.input[1]]) > 0).all():
                yield f"{node.name}: scale must be above 0"
        elif node.op_type in LAYERS:
            if from_dq[:2] != [True, True]:
                yield f"{node.name}: both inputs must be dequantized"
            if len(node.input) > 2 and constants[node.input[2]].data_type != TensorProto.FLOAT:
                yield f"{node.name}: the bias must be float"
        elif node.op_type == "Add":
            if sum(from_dq) > 1:
                yield f"{node.name}: only the residual input may be quantized"
        elif any(from_dq):
            yield f"{node.name}: {node.op_type} must not read a quantized tensor"
        if node.op_type in ("Cast", "Constant"):
            yield f"{node.name}: {node.op_type}"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "name", ["resnet20_cifar10_folded", "mobilenet_v2_imagenet_folded", "squeezenet_v1.1_imagenet"]
)
def test_real_networks(assets: Path, name: str, bits: int) -> None:
    model = written(read(load(assets / "models" / f"{name}.onnx").model), bits)
    assert [text for text in violations(model) if not text.endswith(": Cast")] == []


def test_every_kind_of_layer() -> None:
    body = (
        "a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a) d = Conv <group=8, pads=[1,1,1,1]> (r, w2, b2)"
        " s = Add (d, r) m = MaxPool <kernel_shape=[2,2]> (s) t = ConvTranspose (m, w3, b3) c = Concat <axis=1> (t, m)"
        " g = GlobalAveragePool (c) f = Flatten (g) y = Gemm <transB=1> (f, w4, b4)"
    )
    shapes = {"w1": (8, 8, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (5, 16), "b4": (5,)}
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", shapes | {f"b{n}": (8,) for n in (1, 2, 3)})
    model = written(network, 4)
    assert list(violations(model)) == []
    axes = {node.name: node.attribute[0].i for node in model.graph.node if node.name.startswith("w") and node.attribute}
    assert axes == {"w1.dequantize": 0, "w2.dequantize": 0, "w3.dequantize": 0, "w4.dequantize": 0}


def test_the_cpu_form_breaks_the_rules() -> None:
    network = network_of("(float[1,8,6,6] x) => (float y) { y = Conv (x, w) }", {"w": (4, 8, 3, 3)})
    weights = nearest(network, 4)
    grids = {t: ActivationParams(0.05, 128) for t in activation_tensors(network, weights, "cpu").tensors}
    assert len(list(violations(emit(network, weights, grids, "cpu").model))) == 5
