"""Random networks that also cut, pick and turn channels, and compute sizes from sizes."""

from __future__ import annotations

from tests.random_graphs import Choice, RandomGraph


class IndexingGraph(RandomGraph):
    """A `RandomGraph` with more to choose from."""

    def __init__(self, choose: Choice, seed: int = 0) -> None:
        """As a RandomGraph."""
        super().__init__(choose, seed)
        self.steps += [
            self.strided, self.two_axes, self.empty, self.flip, self.half, self.block, self.block, self.resize_to,
            self.resize_to, self.reshape_to, self.expand_to, self.by_count, self.groups_by_count, self.scalar,
            self.conv,
        ]  # fmt: skip

    def ints(self, *values: int) -> str:
        """A constant list of whole numbers."""
        return self.constant(list(values))

    def strided(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        step = [1, 2, 3, -1, -2][self.choose(5)]
        start, end = sorted((self.choose(c), self.choose(c + 1)))
        left = len(range(c)[start:end:step]) if step > 0 else len(range(c)[end:start:step])
        if left:
            ends = (start, end) if step > 0 else (end, start)
            self.node("Slice", [a, *(self.ints(v) for v in (*ends, 1, step))], (n, left, h, w))

    def flip(self, a: str) -> None:
        self.node("Slice", [a, *(self.ints(v) for v in (-1, -(2**31) + 1, 1, -1))], self.shapes[a])

    def two_axes(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if c > 2 and h > 2:
            inputs = [self.ints(0, 1), self.ints(h - 1, c), self.ints(2, 1), self.ints(1, 2)]
            self.node("Slice", [a, *inputs], (n, c // 2, h - 1, w))

    def empty(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        nothing = self.node("Slice", [a, self.ints(-1), self.ints(1), self.ints(1)], None)
        if c > 1:
            self.node("Concat", [nothing, a], (n, c, h, w), axis=1)

    def half(self, a: str) -> None:
        """As torch.chunk is exported without shapes."""
        n, c, h, w = self.shapes[a]
        end = self.node("Div", [self.entry(a, 1), self.ints(2)], None)
        if c > 1 and self.choose(2):
            self.node("Slice", [a, self.ints(0), end, self.ints(1)], (n, c // 2, h, w))
        elif c > 1:
            self.node("Slice", [a, end, self.entry(a, 1), self.ints(1)], (n, c - c // 2, h, w))

    def block(self, a: str) -> None:
        """Attention's way of taking queries, keys and values apart."""
        n, c, h, w = self.shapes[a]
        k = 3 if c % 3 == 0 else 2
        if c % k:
            return
        apart = self.node("Reshape", [a, self.ints(n, k, c // k, h, w)], None)
        axis = [1, 0][self.choose(2)]
        if axis == 0:
            apart = self.node("Transpose", [apart], None, perm=[1, 0, 2, 3, 4])
        which, way = self.choose(k), self.choose(3)
        shape = (n, c // k, h, w)
        if way == 0:
            part = self.node("Slice", [apart, self.ints(which), self.ints(which + 1), self.ints(axis)], None)
            self.node("Squeeze", [part, self.ints(axis)], shape)
        elif way == 1:
            self.node("Gather", [apart, self.constant(which)], shape, axis=axis)
        else:
            turned = self.node("Slice", [apart, *(self.ints(v) for v in (-1, -(2**31), axis, -1))], None)
            if axis == 0:
                turned = self.node("Transpose", [turned], None, perm=[1, 0, 2, 3, 4])
            self.node("Reshape", [turned, self.ints(n, c, h, w)], self.shapes[a])

    def entry(self, a: str, axis: int) -> str:
        """The size of an axis, as a list of one, in one of the ways that exporters know."""
        shape = self.node("Shape", [a], None)
        way = self.choose(3)
        if way == 0:
            return self.node("Gather", [shape, self.ints(axis)], None)
        if way == 1:
            number = self.node("Gather", [shape, self.constant(axis)], None)
            return self.node("Unsqueeze", [number, self.ints(0)], None)
        return self.node("Slice", [shape, self.ints(axis), self.ints(axis + 1), self.ints(0)], None)

    def front(self, a: str) -> list[str]:
        """The sizes of the first two axes: together or one by one, counted or constant."""
        n, c, _, _ = self.shapes[a]
        way = self.choose(4)
        if way == 0:
            shape = self.node("Shape", [a], None)
            return [self.node("Slice", [shape, self.ints(0), self.ints(2)], None)]
        if way == 1:
            return [self.node("Shape", [a], None, start=0, end=2)]
        return [self.entry(a, 0), self.entry(a, 1) if way == 2 else self.ints(c)] if n else []

    def resize_to(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if h > 16:
            return
        if self.choose(2):
            floats = self.node("Cast", [self.entry(a, 2)], None, to=1)
            scaled = self.node("Floor", [self.node("Mul", [floats, self.constant([2.0])], None)], None)
            space = [self.node("Cast", [scaled], None, to=7), self.node("Mul", [self.entry(a, 3), self.ints(2)], None)]
        else:
            space = [self.ints(2 * h, 2 * w)]
        sizes = self.node("Concat", [*self.front(a), *space], None, axis=0)
        if self.choose(2):
            sizes = self.node("Identity", [sizes], None)
        self.node("Resize", [a, "", "", sizes], (n, c, 2 * h, 2 * w))

    def reshape_to(self, a: str) -> None:
        rows = self.node("Concat", [*self.front(a), self.ints(-1)], None, axis=0)
        flat = self.node("Relu", [self.node("Reshape", [a, rows], None)], None)
        shape = self.node("Shape", [a], None)
        self.node("Reshape", [flat, shape], self.shapes[a])

    def expand_to(self, a: str) -> None:
        pooled = self.node("GlobalMaxPool", [a], None)
        _, _, h, w = self.shapes[a]
        sizes = self.node("Concat", [*self.front(a), self.ints(h, w)], None, axis=0)
        self.node("Expand", [pooled, sizes], self.shapes[a])

    def by_count(self, a: str) -> None:
        """A number of channels in a computation."""
        count = self.node("Cast", [self.entry(a, 1)], None, to=1)
        self.node("Div", [a, self.node("Sqrt", [count], None)], self.shapes[a])

    def groups_by_count(self, a: str) -> None:
        n, c, h, w = self.shapes[a]
        if c % 2 or c < 4:
            return
        share = self.node("Div", [self.entry(a, 1), self.ints(2)], None)
        sizes = self.node("Concat", [self.ints(n, 2), share, self.ints(h, w)], None, axis=0)
        turned = self.node("Transpose", [self.node("Reshape", [a, sizes], None)], None, perm=[0, 2, 1, 3, 4])
        self.node("Reshape", [turned, self.ints(n, -1, h, w)], self.shapes[a])

    def scalar(self, a: str) -> None:
        """One channel, for all."""
        c = self.shapes[a][1]
        one = self.node("Gather", [a, self.constant(self.choose(c))], None, axis=1)
        self.node("Mul", [a, self.node("Unsqueeze", [one, self.ints(1)], None)], self.shapes[a])
