"""Real networks with quantized activations: all of their layers run as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_udfc.emit.writer import activation_tensors, emit
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.grids import QuantParams
from onnx_udfc.runtime.kernels import check_runtime


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "name",
    ["resnet20_cifar10_bn", "resnet56_cifar10_folded", "mobilenet_v1_0.25_imagenet_bn", "mobilenet_v2_imagenet_folded",
     "squeezenet_v1.1_imagenet", "vgg16half_cifar10_bn"],
)  # fmt: skip
def test_every_layer_of_a_real_network_runs_as_integers(assets: Path, name: str, bits: int) -> None:
    loaded = load(assets / "models" / f"{name}.onnx")
    network = read(loaded.model)
    weights = {
        layer: QuantParams(bits, np.zeros(found.matrix().shape, np.int8), np.ones(found.matrix().shape[:2]))
        for layer, found in network.layers.items()
    }
    placement = activation_tensors(network, weights, "cpu")
    grids = {
        t: ActivationParams(placement.caps.get(t, 255.0) / 256, 0 if positive(network, t) else 128)
        for t in placement.tensors
    }
    emitted = emit(network, weights, grids, "cpu", placement)
    checked = check_runtime(emitted.model)
    assert checked.floating == ()
    assert len(checked.integer) == len(network.layers)
    assert len(emitted.model.SerializeToString()) < (0.30 if bits == 8 else 0.18) * loaded.bytes


def positive(network: Network, tensor: str) -> bool:
    return any(t.name == tensor and node.op in ("Relu", "Clip") for node in network.graph.nodes for t in node.outputs)
