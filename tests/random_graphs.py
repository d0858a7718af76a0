"""Random networks that mix the operators channels flow through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Choice = Callable[[int], int]
Shape = tuple[int, int, int, int]


class RandomGraph:
    """Grows a graph node by node; `choose(n)` gives a number below n."""

    def __init__(self, choose: Choice, seed: int = 0) -> None:
        """Start with one input of 4 channels."""
        self.choose, self.rng = choose, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, Shape] = {"x": (1, 4, 8, 8)}
        self.ranks: dict[str, int] = {}
        self.used: set[str] = set()
        self.steps = [
            self.conv, self.conv, self.conv, self.activation, self.activation, self.norm, self.add, self.concat,
            self.split, self.shuffle, self.pick, self.excite, self.blocks, self.pool, self.parameter, self.pad,
            self.transposed, self.channels_last, self.reshape_spatial, self.softmax, self.group_norm,
        ]  # fmt: skip

    def grow(self, count: int) -> onnx.ModelProto:
        """The model after that many steps; what nothing reads goes out, most of it through a convolution."""
        for _ in range(count):
            self.steps[self.choose(len(self.steps))](self.any())
        ends = [name for name in self.shapes if name not in self.used and name != "x"] or [self.relu("x")]
        outputs = [self.head(name) if self.choose(4) else name for name in ends]
        made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * self.ranks.get(n, 4)) for n in outputs]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])
        graph = helper.make_graph(self.nodes, "g", [x], made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def any(self) -> str:
        """A tensor, more likely a late one."""
        names = list(self.shapes)
        return names[max(self.choose(len(names)), self.choose(len(names)))]

    def constant(self, values: object, name: str = "c") -> str:
        """A constant; floats become float32."""
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        self.constants.append(numpy_helper.from_array(array, f"{name}{len(self.constants)}"))
        return self.constants[-1].name

    def weight(self, *shape: int) -> str:
        """Random weights away from zero."""
        return self.constant(
            self.rng.uniform(0.2, 1, shape) * self.rng.choice([-1, 1], shape) / np.sqrt(np.prod(shape[1:]))
        )

    def node(self, op: str, inputs: list[str], shape: Shape | None, **attributes: Any) -> str:
        """A node; its output is offered to others if its shape is given."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"n{len(self.nodes)}_{op}", **attributes))
        self.used.update(inputs)
        if shape is not None:
            self.shapes[name] = shape
        return name

    def relu(self, a: str) -> str:
        return self.node("Relu", [a], self.shapes[a])

    def head(self, a: str) -> str:
        n, c, h, w = self.shapes[a]
        if self.choose(3) or h * w * c > 4096:
            return self.node("Conv", [a, self.weight(3, c, 1, 1)], (n, 3, h, w))
        flat = self.node("Flatten", [a], None)
        hidden = self.node("Gemm", [flat, self.weight(5, c * h * w)], None, transB=1)
        end = self.node("MatMul", [self.node("Relu", [hidden], None), self.weight(5, 2)], None)
        self.ranks[end] = 2
        return end

    def conv(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        groups = [g for g in (1, 1, 2, 3, 4, c) if c % g == 0]
        g = groups[self.choose(len(groups))]
        out = c * (1 + self.choose(2)) if g == c else g * (1 + self.choose(6))
        inputs = [a, self.weight(out, c // g, 3, 3)] + ([self.weight(out)] if self.choose(2) else [])
        self.node("Conv", inputs, (n, out, h, w), group=g, pads=[1, 1, 1, 1])

    def transposed(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if h > 16:
            return
        g = 2 if c % 2 == 0 and self.choose(2) else 1
        out = g * (1 + self.choose(4))
        shape = (n, out, 2 * h, 2 * w)
        self.node("ConvTranspose", [a, self.weight(c, out // g, 2, 2)], shape, group=g, strides=[2, 2])

    def activation(self, a: str) -> None:
        ops = ["Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Identity", "Softplus"]
        self.node(ops[self.choose(len(ops))], [a], self.shapes[a])

    def norm(self, a: str) -> None:
        c = self.shapes[a][1]
        if self.choose(2):
            parameters = [self.constant(self.rng.uniform(0.5, 1.5, c)) for _ in range(4)]
            self.node("BatchNormalization", [a, *parameters], self.shapes[a])
        else:
            self.node("InstanceNormalization", [a, self.weight(c), self.weight(c)], self.shapes[a])

    def group_norm(self, a: str) -> None:
        c = self.shapes[a][1]
        if c % 2 == 0:
            inputs = [a, self.constant(self.rng.uniform(0.5, 1.5, c)), self.weight(c)]
            self.node("GroupNormalization", inputs, self.shapes[a], num_groups=2)

    def softmax(self, a: str) -> None:
        self.node("Softmax", [a], self.shapes[a], axis=1 + self.choose(3))

    def add(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        same = [b for b, s in self.shapes.items() if s == self.shapes[a] and b != a]
        if not same or not self.choose(3):
            same = [self.node("Conv", [a, self.weight(c, c, 1, 1)], (n, c, h, w))]
        b = same[self.choose(len(same))]
        self.node(["Add", "Mul", "Sub", "Max"][self.choose(4)], [a, b], self.shapes[a])

    def concat(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        axis = 1 + self.choose(2)
        if axis == 2 and h > 16:
            return
        names = [b for b, s in self.shapes.items() if (s[2:] == (h, w) if axis == 1 else s[1:] == (c, h, w))]
        b = names[self.choose(len(names))]
        if c + self.shapes[b][1] <= 24:
            shape = (n, c + self.shapes[b][1], h, w) if axis == 1 else (n, c, 2 * h, w)
            self.node("Concat", [a, b], shape, axis=axis)

    def split(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if c < 2:
            return
        first = c // 2 if self.choose(2) else 1 + self.choose(c - 1)
        names = [f"t{len(self.nodes)}", f"s{len(self.nodes)}"]
        sizes = self.constant([first, c - first])
        self.nodes.append(helper.make_node("Split", [a, sizes], names, f"n{len(self.nodes)}_Split", axis=1))
        self.used.add(a)
        self.shapes |= {names[0]: (n, first, h, w), names[1]: (n, c - first, h, w)}

    def shuffle(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        g = 2 if c % 2 == 0 else 3 if c % 3 == 0 else 1
        apart = self.node("Reshape", [a, self.constant([n, g, c // g, h, w])], None)
        turned = self.node("Transpose", [apart], None, perm=[0, 2, 1, 3, 4])
        self.node("Reshape", [turned, self.constant([0, -1, h, w])], self.shapes[a])

    def pick(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if self.choose(2):
            indices = self.rng.permutation(c)[: max(1, c - self.choose(3))]
            self.node("Gather", [a, self.constant(indices)], (n, len(indices), h, w), axis=1)
        elif c > 2:
            ends = [self.constant([v]) for v in (1, c, 1)]
            self.node("Slice", [a, *ends], (n, c - 1, h, w))

    def excite(self, a: str) -> None:
        c = self.shapes[a][1]
        pooled = self.node("GlobalAveragePool", [a], None)
        hidden = self.node("Relu", [self.node("Conv", [pooled, self.weight(3, c, 1, 1)], None)], None)
        gate = self.node("Sigmoid", [self.node("Conv", [hidden, self.weight(c, 3, 1, 1)], None)], None)
        self.node("Mul", [a, gate], self.shapes[a])

    def blocks(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if c % 4 == 0 and h <= 16:
            mode = ["DCR", "CRD"][self.choose(2)]
            self.node("DepthToSpace", [a], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
        elif c <= 6 and h % 2 == 0 and w % 2 == 0:
            self.node("SpaceToDepth", [a], (n, 4 * c, h // 2, w // 2), blocksize=2)

    def pool(self, a: str) -> None:
        self.node("MaxPool", [a], self.shapes[a], kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def parameter(self, a: str) -> None:
        c = self.shapes[a][1]
        if self.choose(2):
            self.node("PRelu", [a, self.weight(c, 1, 1)], self.shapes[a])
        else:
            self.node("Add", [self.weight(1, c, 1, 1), a], self.shapes[a])

    def pad(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if c <= 12:
            before, after = self.choose(3), self.choose(3)
            amounts = self.constant([0, before, 0, 0, 0, after, 0, 0])
            self.node("Pad", [a, amounts], (n, c + before + after, h, w))

    def channels_last(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        last = self.node("Transpose", [a], None, perm=[0, 2, 3, 1])
        if self.choose(2):
            last = self.node("MatMul", [last, self.weight(c, 5)], None)
            c = 5
        if not self.choose(3):
            last = self.node("LayerNormalization", [last, self.weight(c)], None)
        self.node("Transpose", [last], (n, c, h, w), perm=[0, 3, 1, 2])

    def reshape_spatial(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        rows = self.node("Reshape", [a, self.constant([n, c, -1])], None)
        gains = self.node("ReduceMax", [rows, self.constant([2])], None, keepdims=self.choose(2))
        flat = self.node("Reshape", [gains, self.constant([1, c, 1, 1])], None)
        self.node("Mul", [a, flat], (n, c, h, w))
