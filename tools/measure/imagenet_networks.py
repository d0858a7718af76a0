"""ImageNet architectures with random weights, for measuring cost: ResNets with 1000 classes and VGG-19.

They are the shapes of He et al. (2016) and of Simonyan and Zisserman (2015), layer for layer, so their files weigh what
the trained ones do, and nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

OPSET = 17
SIDE = 224
CLASSES = 1000
VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)


class Draft:
    """A graph in the making: each method appends nodes and returns the name of the tensor they make."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.norms: list[str] = []  # convolutions behind which batch norms stand
        self.count = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One node."""
        self.count += 1
        name = f"{op.lower()}{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int = 3, stride: int = 1, *, norm: bool = True) -> str:
        """k×k from in to out channels with He's initialization (fan out), and a batch norm or a bias."""
        inputs, outputs = channels
        weight, bias = f"w{self.count}", f"b{self.count}"
        deviation = (2 / (outputs * kernel**2)) ** 0.5
        self.tensors[weight] = self._normal((outputs, inputs, kernel, kernel), deviation)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        if not norm:
            self.tensors[bias] = np.zeros(outputs, np.float32)
            return self.add("Conv", x, weight, bias, **sizes)
        made = self.add("Conv", x, weight, **sizes)
        self.norms.append(made)
        names = [f"{made}_{part}" for part in ("scale", "shift", "mean", "var")]
        self.tensors |= {
            name: np.full(outputs, value, np.float32) for name, value in zip(names, (1, 0, 0, 1), strict=True)
        }
        return self.add("BatchNormalization", made, *names)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        """A fully connected layer."""
        weight, bias = f"w{self.count}", f"b{self.count}"
        self.tensors[weight] = self._normal((outputs, inputs), (1 / inputs) ** 0.5)
        self.tensors[bias] = np.zeros(outputs, np.float32)
        return self.add("Gemm", x, weight, bias, transB=1)

    def pool(self, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        """The largest of k×k."""
        return self.add("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def model(self, answers: str) -> onnx.ModelProto:
        """The whole model; each batch norm has the statistics that its input has, so that no value explodes."""
        if self.norms:
            self._settle(answers)
        return self._whole(self.nodes, [answers])

    def _normal(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        return self.random.standard_normal(shape, np.float32) * np.float32(deviation)

    def _settle(self, answers: str, images: int = 2) -> None:
        """Take the statistics of two random images, each batch norm by those of its own batch as in training."""
        nodes, wanted = [], []
        for node in self.nodes:
            if node.op_type != "BatchNormalization":
                nodes.append(node)
                continue
            x, mean, var = node.input[0], node.input[3], node.input[4]
            moments = [f"{x}_mean_of", f"{x}_var_of"]
            nodes += [
                helper.make_node("ReduceMean", [x], [moments[0]], axes=[0, 2, 3]),
                helper.make_node("Sub", [x, moments[0]], [f"{x}_centred"]),
                helper.make_node("Mul", [f"{x}_centred"] * 2, [f"{x}_square"]),
                helper.make_node("ReduceMean", [f"{x}_square"], [moments[1]], axes=[0, 2, 3]),
                helper.make_node("Sqrt", [moments[1]], [f"{x}_deviation"]),
                helper.make_node("Div", [f"{x}_centred", f"{x}_deviation"], [node.output[0]]),
            ]
            wanted += [(mean, moments[0]), (var, moments[1])]
        model = self._whole(nodes, [answers, *(name for _, name in wanted)])
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run([name for _, name in wanted], {"input": self._normal((images, 3, SIDE, SIDE), 1.0)})
        self.tensors |= {statistic: values.ravel() for (statistic, _), values in zip(wanted, found, strict=True)}

    def _whole(self, nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
        source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
        infos = [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["N", CLASSES])]
        infos += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs[1:]]
        used = {name for node in nodes for name in node.input}
        tensors = [numpy_helper.from_array(values, name) for name, values in self.tensors.items() if name in used]
        graph = helper.make_graph(nodes, "imagenet", [source], infos, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def resnet(seed: int, blocks: tuple[int, ...], *, bottleneck: bool) -> onnx.ModelProto:
    """The ImageNet ResNet with these numbers of blocks in its four stages."""
    draft = Draft(seed)
    x = draft.pool(draft.add("Relu", draft.conv("input", (3, 64), 7, 2)), 3, 2, 1)
    inputs = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            stride = 2 if stage and not block else 1
            body = (
                _bottleneck(draft, x, (inputs, width), stride)
                if bottleneck
                else _basic(draft, x, (inputs, width), stride)
            )
            differs = stride != 1 or inputs != outputs
            shortcut = draft.conv(x, (inputs, outputs), 1, stride) if differs else x
            x = draft.add("Relu", draft.add("Add", body, shortcut))
            inputs = outputs
    flat = draft.add("Flatten", draft.add("GlobalAveragePool", x))
    return draft.model(draft.dense(flat, inputs, CLASSES))


def _basic(draft: Draft, x: str, channels: tuple[int, int], stride: int) -> str:
    """Two 3×3."""
    width = channels[1]
    return draft.conv(draft.add("Relu", draft.conv(x, channels, 3, stride)), (width, width))


def _bottleneck(draft: Draft, x: str, channels: tuple[int, int], stride: int) -> str:
    """1×1 down, 3×3, 1×1 up by four."""
    width = channels[1]
    x = draft.add("Relu", draft.conv(x, channels, 1))
    x = draft.add("Relu", draft.conv(x, (width, width), 3, stride))
    return draft.conv(x, (width, 4 * width), 1)


def vgg19(seed: int) -> onnx.ModelProto:
    """VGG-19 without batch norm: 143.7 M parameters, most of them in its first dense layer."""
    draft = Draft(seed)
    x, inputs = "input", 3
    for outputs in VGG19:
        if not outputs:
            x = draft.pool(x, 2, 2)
            continue
        x = draft.add("Relu", draft.conv(x, (inputs, outputs), norm=False))
        inputs = outputs
    x = draft.add("Flatten", x)
    for width in (4096, 4096):
        x, inputs = draft.add("Relu", draft.dense(x, inputs * (49 if inputs == 512 else 1), width)), width
    return draft.model(draft.dense(x, inputs, CLASSES))


IMAGENET: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet18": partial(resnet, blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(resnet, blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(resnet, blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(resnet, blocks=(3, 4, 23, 3), bottleneck=True),
    "vgg19": vgg19,
}


def write(name: str, path: Path, seed: int = 0) -> None:
    """The file of an architecture."""
    onnx.save(IMAGENET[name](seed), path)
