"""Latency and size of every quantized form against float32, measured in turn on a plain ResNet-18 with random weights.

    python -m tools form_latency [--rounds 15]

Each round runs every form once, on one thread; the ratio is the median over the rounds of the form's time to the
float32 time of the same round, so that a busy machine slows both. Only the CPU provider is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.writer import activation_tensors, emit
from onnx_udfc.model.network import Network, read
from onnx_udfc.numerics.activation_grids import ActivationParams, search_range
from onnx_udfc.numerics.grids import FORMATS, QuantParams, round_nearest, search_scale
from onnx_udfc.runtime.sessions import open_session

Image = NDArray[np.float32]


class ResNet18:
    """A ResNet-18 with batch norm folded, He-initialized; `width` scales the inner channels of its blocks."""

    def __init__(self, width: float = 1.0, seed: int = 0) -> None:
        """Start with nothing; `model` writes it."""
        self._rng = np.random.default_rng(seed)
        self._width = width
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        """Return the network, input (1, 3, 224, 224), output (1, 1000), opset 21."""
        x = self._op("Relu", [self._conv("x", 3, 64, 7, 2)])
        x = self._op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for out, stride in self.stages():
            x, channels = self._block(x, channels, out, stride), out
        x = self._op("Flatten", [self._op("GlobalAveragePool", [x])])
        weight = self._constant(self._rng.normal(size=(1000, channels)) / channels**0.5)
        self._nodes.append(helper.make_node("Gemm", [x, weight, self._constant(np.zeros(1000))], ["y"], "fc", transB=1))
        graph = helper.make_graph(
            self._nodes,
            "resnet18",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1000])],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def stages(self) -> Sequence[tuple[int, int]]:
        """Output channels and stride of each block."""
        return ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))

    def _block(self, x: str, channels: int, out: int, stride: int) -> str:
        inner = max(1, round(out * self._width))
        main = self._op("Relu", [self._conv(x, channels, inner, 3, stride)])
        main = self._conv(main, inner, out, 3, 1)
        shortcut = x if stride == 1 and channels == out else self._conv(x, channels, out, 1, stride)
        return self._op("Relu", [self._op("Add", [main, shortcut])])

    def _conv(self, x: str, channels: int, out: int, kernel: int, stride: int) -> str:
        shape = (out, channels, kernel, kernel)
        weight = self._constant(self._rng.normal(size=shape) * (2 / (channels * kernel**2)) ** 0.5)
        bias = self._constant(self._rng.normal(size=out) * 0.1)
        pads = [kernel // 2] * 4
        return self._op("Conv", [x, weight, bias], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def _op(self, op: str, inputs: list[str], **attributes: list[int]) -> str:
        name = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name, **attributes))  # type: ignore[arg-type]
        return f"{name}.out"

    def _constant(self, values: NDArray[np.float64]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name


def nearest(network: Network, bits: int) -> dict[str, QuantParams]:
    """Codes of all layers, rounded to nearest."""
    found = {}
    for name, layer in network.layers.items():
        weight = layer.matrix()
        scale = search_scale(weight, FORMATS[bits])
        found[name] = QuantParams(bits, round_nearest(weight, scale, FORMATS[bits]), scale)
    return found


def ranges(network: Network, placement: Placement, image: Image) -> dict[str, ActivationParams]:
    """Grids of the tensors of a placement, from one image."""
    model = network.to_model()
    values = {"x": image}
    del model.graph.output[:]
    names = [name for name in placement.tensors if name != "x"]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    values |= dict(zip(names, open_session(model, threads=2).run(names, {"x": image}), strict=True))
    return {t: search_range(values[t], placement.dtype, placement.caps.get(t)) for t in placement.tensors}


def forms(width: float, image: Image) -> dict[str, onnx.ModelProto]:
    """The float network and its quantized forms."""
    original = ResNet18(width).model()
    network = read(original)
    grids = {t: ranges(network, activation_tensors(network, network.layers, t), image) for t in ("cpu", "tensorrt")}
    written = {"float32": original}
    for bits in (8, 4):
        weights = nearest(network, bits)
        for target in ("cpu", "portable"):
            written[f"W{bits} {target}"] = emit(network, weights, None, target).model
        for target in ("cpu", "portable", "tensorrt"):
            activations = grids["tensorrt" if target == "tensorrt" else "cpu"]
            written[f"W{bits}A8 {target}"] = emit(network, weights, activations, target).model
    return written


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    image = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    models = forms(1.0, image)
    models |= {f"half {name}": m for name, m in forms(0.5, image).items() if name in ("float32", "W4A8 cpu")}
    sessions = {name: open_session(model, threads=1) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 2):
        for name, running in sessions.items():
            start = time.perf_counter()
            running.run(None, {"x": image})
            times[name].append(time.perf_counter() - start)
    reference = np.array(times["float32"][2:])
    size = models["float32"].ByteSize()
    print(f"{'form':20} {'ms':>8} {'x float32':>10} {'MB':>8} {'x bytes':>8}")
    for name, taken in times.items():
        measured = np.array(taken[2:])
        weight, share = models[name].ByteSize(), float(np.median(measured / reference))
        print(f"{name:20} {measured.min() * 1e3:8.1f} {share:10.3f} {weight / 1e6:8.2f} {weight / size:8.3f}")


if __name__ == "__main__":
    main()
