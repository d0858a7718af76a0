"""The first convolution of a network on pictures, with whatever the graph does to them before it.

Files that preprocess for themselves scale, transpose or cut up their pictures first: divide by 255, take a mean off,
bring channels to the front, fold squares of pixels into channels. All of that is run, not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.kinds import Scale, Wanted, to_network
from onnx_udfc.runtime.walk import Pieces, Walk
from onnx_udfc.runtime.windows import run_layer

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.images import Array, InputScaling

Single = NDArray[np.float32]

# what a graph does to pictures before its first convolution
PREPARING = frozenset({
    "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Div", "Gather", "Identity", "Mul", "Pad", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
_FAR = 32  # nodes before it, at most


@dataclass(frozen=True)
class Stem:
    """A first convolution.

    It has one channel group.
    """

    network: Network
    wanted: Wanted
    layer: Layer

    @cached_property
    def _model(self) -> onnx.ModelProto:
        return self.network.to_model(without=self.network.weights)

    @cached_property
    def _whole(self) -> onnx.ModelProto:
        return self.network.to_model()

    @cached_property
    def _pieces(self) -> Pieces:
        """What is open for one scale serves for the others."""
        return Pieces()

    @property
    def plain(self) -> bool:
        """Whether it reads the input as it is."""
        return bool(self.layer.node.inputs[0].name == self.wanted.spec.name)

    @property
    def size(self) -> tuple[int, ...]:
        """Of pictures to look at."""
        return tuple(min(d, 128) for d in self.wanted.size) if self.plain else self.wanted.size

    def reads(self, z: Array, scaling: InputScaling) -> Single | None:
        """What the convolution reads (n, channels, *size') of pictures z (n, C, *size) at a scale.

        None where what is before it cannot be run, or makes something else of pictures.
        """
        if self.plain:
            return to_network(z, self.wanted, Scale(scaling))
        found = self._value(self._model, self.layer.node.inputs[0].name, z, scaling)
        if found is None:
            return None
        fits = found.ndim == 4 and found.shape[1] == self.layer.in_channels and np.isfinite(found).all()
        return found if fits else None

    def tensor(self, name: str, z: Array, scaling: InputScaling) -> Single | None:
        """Values (n, C, ...) of a tensor for pictures z (n, C, *size) at a scale; None where they cannot be had."""
        return self._value(self._whole, name, z, scaling)

    def _value(self, model: onnx.ModelProto, name: str, z: Array, scaling: InputScaling) -> Single | None:
        x = to_network(z, self.wanted, Scale(scaling)).astype(self.wanted.spec.dtype)
        try:
            walk = Walk(model, {self.wanted.spec.name: x}, (), pieces=self._pieces)
            return np.asarray(walk.get(name), np.float32)
        except Exception:  # a second input, say; onnxruntime's exceptions share no base class but Exception
            return None

    def gives(self, x: Single) -> Single:
        """What the convolution gives (n, O, ...) for what it reads."""
        layer = self.layer
        return run_layer(self._model, layer, x, layer.matrix(), layer.bias.astype(np.float64))


def stem_of(network: Network, wanted: Wanted) -> Stem | None:
    """The convolution with one channel group that an input of pictures leads to.

    Of several that read the same, the one that gives the most channels.
    """
    if len(wanted.shape) != 4:
        return None
    start = next((t for t in network.graph.inputs if t.name == wanted.spec.name), None)
    by_node = {id(layer.node): layer for layer in network.layers.values()}
    found = [by_node[id(node)] for node in _first_nodes(start) if id(node) in by_node] if start is not None else []
    if len({f.node.inputs[0].name for f in found}) != 1 or not all(f.convolves and f.groups == 1 for f in found):
        return None
    stem = Stem(network, wanted, max(found, key=lambda f: f.out_channels))
    return None if stem.plain and stem.layer.in_channels != wanted.channels else stem


def _first_nodes(start: gs.Tensor) -> list[gs.Node]:
    """The nodes that a tensor leads to beyond what prepares pictures, each once."""
    ends: list[gs.Node] = []
    waiting, seen = list(start.outputs), set[int]()
    while waiting and len(seen) < _FAR:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.op in PREPARING:
            waiting += [reader for tensor in node.outputs for reader in tensor.outputs]
        else:
            ends.append(node)
    return ends
