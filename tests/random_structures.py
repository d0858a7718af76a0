"""Random networks that also attend, share weights, branch, run recurrent layers and move pixels between axes."""

from __future__ import annotations

from onnx import TensorProto, helper

from tests.random_graphs import Choice
from tests.random_indexing import IndexingGraph

LARGE = 16  # sides from which on what makes tensors larger is left out


class StructureGraph(IndexingGraph):
    """An `IndexingGraph` with more to choose from."""

    def __init__(self, choose: Choice, seed: int = 0) -> None:
        """As an IndexingGraph."""
        super().__init__(choose, seed)
        self.steps += [
            self.attend_places, self.attend_pixels, self.attend_channels, self.space_to_batch, self.tiled, self.einsum,
            self.several, self.masked, self.one_axis, self.three_axes, self.recurrent, self.along_channels, self.shared,
            self.normed_weight, self.branches, self.reflected, self.dense, self.pooled, self.scattered, self.ranked,
            self.squares, self.halves_added, self.conv, self.conv,
        ]  # fmt: skip

    def attend_places(self, a: str) -> None:
        """Mean and maximum over the channels tell which places count."""
        mean = self.node("ReduceMean", [a, self.ints(1)], None)
        most = self.node("ReduceMax", [a, self.ints(1)], None)
        both = self.node("Concat", [mean, most], None, axis=1)
        gate = self.node("Conv", [both, self.weight(1, 2, 3, 3)], None, pads=[1, 1, 1, 1])
        self.node("Mul", [self.node("Sigmoid", [gate], None), a], self.shapes[a])

    def attend_pixels(self, a: str) -> None:
        """Queries, keys and values of 1 x 1 convolutions, each place attending to all."""
        n, c, h, w = self.shapes[a]
        if h * w > LARGE * LARGE:
            return
        d, out = 2 + self.choose(3), [c, 3][self.choose(2)]
        q, k, v = (
            self.node("Reshape", [self.node("Conv", [a, self.weight(o, c, 1, 1)], None), self.ints(n, o, h * w)], None)
            for o in (d, d, out)
        )
        scores = self.node("MatMul", [self.node("Transpose", [q], None, perm=[0, 2, 1]), k], None)
        mixed = self.node("Softmax", [scores], None, axis=2)
        given = self.node("MatMul", [v, self.node("Transpose", [mixed], None, perm=[0, 2, 1])], None)
        self.node("Reshape", [given, self.ints(n, out, h, w)], (n, out, h, w))

    def attend_channels(self, a: str) -> None:
        """The Gram of the channels mixes them."""
        n, c, h, w = self.shapes[a]
        rows = self.node("Reshape", [a, self.ints(n, c, h * w)], None)
        gram = self.node("MatMul", [rows, self.node("Transpose", [rows], None, perm=[0, 2, 1])], None)
        mixed = self.node("MatMul", [self.node("Softmax", [gram], None, axis=2), rows], None)
        self.node("Reshape", [mixed, self.ints(n, c, h, w)], self.shapes[a])

    def space_to_batch(self, a: str) -> None:
        """A dilated convolution as TensorFlow writes it: squares of pixels become samples and come back."""
        n, c, h, w = self.shapes[a]
        if h % 2 or w % 2 or n > 1:
            return
        out = 1 + self.choose(6)
        apart = self.node("Reshape", [a, self.ints(n, c, h // 2, 2, w // 2, 2)], None)
        turned = self.node("Transpose", [apart], None, perm=[3, 5, 0, 1, 2, 4])
        batch = self.node("Reshape", [turned, self.ints(4 * n, c, h // 2, w // 2)], None)
        made = self.node("Conv", [batch, self.weight(out, c, 3, 3)], None, pads=[1, 1, 1, 1])
        back = self.node("Reshape", [made, self.ints(2, 2, n, out, h // 2, w // 2)], None)
        turned = self.node("Transpose", [back], None, perm=[2, 3, 4, 0, 5, 1])
        self.node("Reshape", [turned, self.ints(n, out, h, w)], (n, out, h, w))

    def tiled(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if self.choose(2) and c <= 12:
            self.node("Tile", [a, self.ints(1, 2, 1, 1)], (n, 2 * c, h, w))
        else:
            row = self.node("ReduceMean", [a, self.ints(2)], None)
            self.node("Tile", [row, self.ints(1, 1, h, 1)], self.shapes[a])

    def einsum(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if self.choose(2):
            self.node("Einsum", [a, self.weight(c, 5)], (n, 5, h, w), equation="nchw,cd->ndhw")
        else:
            self.node("Einsum", [a, self.weight(c)], self.shapes[a], equation="nchw,c->nchw")

    def several(self, a: str) -> None:
        """Operators of any number of inputs."""
        c = self.shapes[a][1]
        others = [self.node("Conv", [a, self.weight(c, c, 1, 1)], None) for _ in range(2)]
        self.node(["Sum", "Mean", "Max", "Min"][self.choose(4)], [a, *others], self.shapes[a])

    def masked(self, a: str) -> None:
        c = self.shapes[a][1]
        other = self.node("Conv", [a, self.weight(c, c, 1, 1)], None)
        larger = self.node("Greater", [a, self.constant(0.1)], None)
        self.node("Where", [larger, a, [other, self.weight(1, c, 1, 1)][self.choose(2)]], self.shapes[a])

    def one_axis(self, a: str) -> None:
        """A convolution along all places in a row."""
        n, c, h, w = self.shapes[a]
        rows = self.node("Reshape", [a, self.ints(n, c, h * w)], None)
        out = 1 + self.choose(6)
        made = self.node("Conv", [rows, self.weight(out, c, 3)], None, pads=[1, 1])
        self.node("Reshape", [made, self.ints(n, out, h, w)], (n, out, h, w))

    def three_axes(self, a: str) -> None:
        """A convolution of three axes, of which the first is one long, or the channels."""
        n, c, h, w = self.shapes[a]
        if self.choose(2):
            deep = self.node("Unsqueeze", [a, self.ints(2)], None)
            out = 1 + self.choose(6)
            made = self.node("Conv", [deep, self.weight(out, c, 1, 3, 3)], None, pads=[0, 1, 1, 0, 1, 1])
            self.node("Squeeze", [made, self.ints(2)], (n, out, h, w))
        else:
            deep = self.node("Unsqueeze", [a, self.ints(1)], None)
            made = self.node("Conv", [deep, self.weight(1, 1, 3, 1, 1)], None, pads=[1, 0, 0, 1, 0, 0])
            self.node("Squeeze", [made, self.ints(1)], self.shapes[a])

    def recurrent(self, a: str) -> None:
        """A GRU along the columns of the rows' mean."""
        n, c, h, w = self.shapes[a]
        row = self.node("ReduceMean", [a, self.ints(2)], None, keepdims=0)
        steps = self.node("Transpose", [row], None, perm=[2, 0, 1])
        hidden = self.node("GRU", [steps, self.weight(1, 12, c), self.weight(1, 12, 4)], None, hidden_size=4)
        last = self.node("Transpose", [self.node("Squeeze", [hidden, self.ints(1)], None)], None, perm=[1, 2, 0])
        flat = self.node("Unsqueeze", [last, self.ints(2)], None)
        self.node("Expand", [flat, self.ints(n, 4, h, w)], (n, 4, h, w))

    def along_channels(self, a: str) -> None:
        """What depends on the order, or the number, of channels."""
        way = self.choose(4)
        if way == 0:
            self.node("LRN", [a], self.shapes[a], size=3)
        elif way == 1:
            self.node("LpNormalization", [a], self.shapes[a], axis=1)
        elif way == 2:
            self.node("CumSum", [a, self.constant(1)], self.shapes[a])
        else:
            self.node("LogSoftmax", [a], self.shapes[a], axis=1)

    def shared(self, a: str) -> None:
        """A convolution with the weights of another one."""
        n, c, h, w = self.shapes[a]
        weight = self.weight(c, c, 3, 3)
        first = self.node("Conv", [a, weight], self.shapes[a], pads=[1, 1, 1, 1])
        middle = [first, self.node("Relu", [first], self.shapes[a]), a][self.choose(3)]
        self.node("Conv", [middle, weight], (n, c, h, w), pads=[1, 1, 1, 1])

    def normed_weight(self, a: str) -> None:
        """A weight that the graph makes of a direction and a length."""
        n, c, h, w = self.shapes[a]
        out = 1 + self.choose(6)
        direction = self.weight(out, c, 3, 3)
        length = self.node("ReduceL2", [direction, self.ints(1, 2, 3)], None)
        weight = self.node("Div", [self.node("Mul", [direction, self.weight(out, 1, 1, 1)], None), length], None)
        self.node("Conv", [a, weight], (n, out, h, w), pads=[1, 1, 1, 1])

    def branches(self, a: str) -> None:
        """A branch that reads a tensor from around it."""
        n, c, h, w = self.shapes[a]
        weight = self.weight(c, c, 1, 1)
        flag = self.node("Greater", [self.node("ReduceMean", [a], None, keepdims=0), self.constant(0.0)], None)
        name = f"t{len(self.nodes)}"
        inner = []
        for which, node in enumerate((("Conv", [a, weight]), ("Relu", [a]))):
            out = helper.make_tensor_value_info(f"{name}_{which}", TensorProto.FLOAT, (n, c, h, w))
            inner.append(helper.make_graph([helper.make_node(*node, [f"{name}_{which}"])], f"b{which}", [], [out]))
        self.used.add(a)
        self.node("If", [flag], self.shapes[a], then_branch=inner[0], else_branch=inner[1])

    def reflected(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if max(h, w) > LARGE:
            return
        mode = ["reflect", "edge", "constant"][self.choose(3)]
        padded = self.node("Pad", [a, self.ints(0, 0, 1, 2, 0, 0, 1, 0)], (n, c, h + 2, w + 2), mode=mode)
        if self.choose(2):
            out = 1 + self.choose(6)
            self.node("Conv", [padded, self.weight(out, c, 3, 3)], (n, out, h, w))

    def dense(self, a: str) -> None:
        """Flat and back."""
        n, c, h, w = self.shapes[a]
        if h * w * c > 1024:
            return
        flat = self.node("Flatten", [a], None)
        made = self.node("Gemm", [flat, self.weight(c * h * w, 2 * h * w)], None)
        self.node("Reshape", [self.relu_of(made), self.ints(n, 2, h, w)], (n, 2, h, w))

    def relu_of(self, a: str) -> str:
        """Of a tensor of any shape; others do not see it."""
        return self.node("Relu", [a], None)

    def pooled(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if h % 2 or w % 2:
            return
        op = ["AveragePool", "MaxPool", "LpPool"][self.choose(3)]
        self.node(op, [a], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])

    def scattered(self, a: str) -> None:
        """Some channels put in the place of others."""
        n, c, h, w = self.shapes[a]
        if c < 2:
            return
        half = self.node("Slice", [a, self.ints(0), self.ints(1), self.ints(1)], None)
        where = self.node("Expand", [self.constant([[[[c - 1]]]]), self.ints(n, 1, h, w)], None)
        self.node("ScatterElements", [a, where, half], self.shapes[a], axis=1)

    def ranked(self, a: str) -> None:
        """The largest channels of each place, the largest first."""
        n, c, h, w = self.shapes[a]
        k = 1 + self.choose(c)
        names = [f"t{len(self.nodes)}", f"k{len(self.nodes)}"]
        node = helper.make_node("TopK", [a, self.ints(k)], names, f"n{len(self.nodes)}_TopK", axis=1)
        self.nodes.append(node)
        self.used.add(a)
        self.shapes[names[0]] = (n, k, h, w)

    def squares(self, a: str) -> None:
        """Every second pixel, as channels beside one another."""
        n, c, h, w = self.shapes[a]
        if h % 2 or w % 2 or c > 6:
            return
        parts = []
        for row in (0, 1):
            for column in (0, 1):
                inputs = [self.ints(row, column), self.ints(h, w), self.ints(2, 3), self.ints(2, 2)]
                parts.append(self.node("Slice", [a, *inputs], None))
        self.node("Concat", parts, (n, 4 * c, h // 2, w // 2), axis=1)

    def halves_added(self, a: str) -> None:
        """Maxout, or a gated unit: one half of the channels with the other."""
        n, c, h, w = self.shapes[a]
        if c % 2:
            return
        names = [f"t{len(self.nodes)}", f"s{len(self.nodes)}"]
        self.nodes.append(helper.make_node("Split", [a], names, f"n{len(self.nodes)}_Split", axis=1, num_outputs=2))
        self.used.add(a)
        gate = self.node("Sigmoid", [names[1]], None) if self.choose(2) else names[1]
        self.node(["Max", "Mul", "Add"][self.choose(3)], [names[0], gate], (n, c // 2, h, w))
