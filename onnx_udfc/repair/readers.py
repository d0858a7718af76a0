"""The layers that read a layer's output, and what they see of it: what a joint refit looks at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.patterns import bounds_of
from onnx_udfc.numerics.joint_refit import Reader, places_of
from onnx_udfc.numerics.layer_fit import Bounds

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.moments import Array
    from onnx_udfc.numerics.narrowing import Narrowing

Double = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """What a reader sees of a layer's output, by flat positions (image, *space), -1 outside of the image.

    Attributes:
        taps: (n, k) positions that its taps read: of the layer's output, or of what a pooling makes of it.
        targets: (n, o) what it should give.
        used: (q,) the positions among the taps, ascending, where a pooling lies between.
        windows: (q, w) positions of the layer's output that the pooling reads there.
    """

    taps: Index
    targets: Array
    used: Index | None = None
    windows: Index | None = None

    @property
    def rows(self) -> Index:
        """The positions of the layer's output."""
        return self.taps if self.windows is None else self.windows

    def reader(
        self, rows: Index, weight: Double, beside: Beside | None = None, narrow: Narrowing | None = None
    ) -> Reader:
        """The same by indices of these positions of the layer's output, ascending.

        Args:
            rows: the positions.
            weight: (o, I·k) of the reader, tap index fastest.
            beside: what stands beside the layer's channels at the rows, where the reader sees more than these.
            narrow: directions that it is looked at in, where nothing stands beside.
        """
        taps, windows = _indices(self.taps, rows if self.used is None else self.used), None
        if self.windows is not None:
            windows = _indices(self.windows, rows)
        if beside is None:
            return Reader(taps, self.targets, weight, windows, narrow=narrow)
        by_channel = weight.reshape(len(weight), beside.own.size, -1)
        own, other = (by_channel[:, mine].reshape(len(weight), -1) for mine in (beside.own, ~beside.own))
        seen = places_of(beside.values, windows)[taps].transpose(0, 2, 1).reshape(len(taps), -1)
        return Reader(taps, self.targets, own, windows, seen, other)


@dataclass(frozen=True)
class Beside:
    """What a Concat puts beside a layer's channels.

    Attributes:
        own: (I,) which of the channels that come out are the layer's.
        values: (m, I − K) the others, in their order, at positions of the layer's output.
    """

    own: NDArray[np.bool_]
    values: Array


def readers_of(layer: Layer, layers: Mapping[str, Layer]) -> list[tuple[Layer, gs.Node | None]]:
    """The plain convolutions that alone read a convolution behind its activation, and the max pooling between, if any.

    They may read it through a Concat (see `concat_behind`). Empty if there are other readers.
    """
    users = layer.node.outputs[0].outputs
    if not layer.convolves or layer.groups != 1 or len(users) != 1:
        return []
    found: list[tuple[gs.Node, gs.Node | None]] = []
    for node in (concat_behind(layer) or users[0]).outputs[0].outputs:
        pooled = node.op == "MaxPool" and len(node.outputs) == 1
        found += [(n, node) for n in node.outputs[0].outputs] if pooled else [(node, None)]
    readers = [(layers.get(node.name), pooling) for node, pooling in found]
    plain = [(r, pooling) for r, pooling in readers if r is not None and r.convolves and r.groups == 1]
    return plain if len(plain) == len(readers) else []


def concat_behind(layer: Layer) -> gs.Node | None:
    """The Concat of channels that alone reads what the layer's activation passes on, once."""
    users = layer.node.outputs[0].outputs
    after = users[0].outputs[0].outputs if len(users) == 1 else []
    joins = len(after) == 1 and after[0].op == "Concat" and after[0].attrs.get("axis") in (1, -1 - len(layer.kernel))
    return after[0] if joins and [t is users[0].outputs[0] for t in after[0].inputs].count(True) == 1 else None


def affordable(total: int, allowed: int, taps: int) -> int:
    """How many positions with so many taps each, at random, touch about `allowed` of `total` places."""
    if allowed >= total:
        return total * taps
    return int(-total / taps * np.log1p(-allowed / total))


def _indices(positions: Index, known: Index) -> Index:
    """Where the positions stand in the known ones, ascending; their number for -1."""
    places = np.full(int(known[-1]) + 2 if len(known) else 1, len(known), np.int64)  # the last is that of -1
    places[known] = np.arange(len(known))
    return np.take(places, positions)


def touched(*positions: Index) -> Index:
    """The positions, ascending, each once; -1 is none. They are dense: to sort them takes ten times as long."""
    seen = np.zeros(max(int(p.max(initial=-1)) for p in positions) + 2, np.bool_)
    for some in positions:
        seen[some] = True
    return np.flatnonzero(seen[:-1])


def bounds_after(layer: Layer, outputs: Collection[str]) -> Bounds | None:
    """The ReLU or Clip that alone reads the layer's output, directly or behind the sum with a residual stream.

    What goes to `outputs` of the graph passes no activation.
    """
    out = layer.node.outputs[0] if layer.bias_node is None else layer.bias_node.outputs[0]
    if len(out.outputs) == 1 and out.outputs[0].op in ("Add", "Sum"):
        out = out.outputs[0].outputs[0]
    if not out.outputs or out.name in outputs or any(node.op not in ("Relu", "Clip") for node in out.outputs):
        return None
    found = {_bounds(node) for node in out.outputs}
    return found.pop() if len(found) == 1 else None


def _bounds(node: gs.Node) -> Bounds | None:
    found = (0.0, np.inf) if node.op == "Relu" else bounds_of(node)
    return None if found is None else Bounds(*found)
