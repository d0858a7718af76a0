"""What a compression holds in memory at once, reckoned from shapes before anything runs, and what fits a bound.

Most of it is the tensors of a pass that live at the same time, so many bytes a sample; what every layer should give at
its sampled positions; what the regression of one layer needs; and copies of the weights. The first shrinks with the
samples, the next two with the positions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnx_udfc.inputs.sizes import input_specs_of
from onnx_udfc.numerics.layer_fit import WIDEST_GRAM
from onnx_udfc.repair.reference import sample_limit

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Shapes, Size
    from onnx_udfc.model.network import Network

BASE = 170_000_000  # bytes of the interpreter, its libraries and what is made once
COPIES = 4.5  # of the weights: as read, as changed, traced, pruned, written
SPARE = 1.5  # of the tensors of a pass: parts at work, and gaps between what lies in memory
RUN = 2.7  # of the tensors of one sample, where onnxruntime runs the whole network: it lays them out anew
NARROW = 400_000_000  # bytes of what all layers should give above which it is held in 16 bits
PASS, FEWEST_UNASKED = 1.1e9, 8  # bytes of a pass that nobody allowed more for, and samples even where they take more
FEWEST, FEWEST_POSITIONS = 4, 1024  # samples and positions below which nothing can be fitted
SEEN = 256  # positions of a layer that one large sample has, with which it may do where no more fit
_TARGETS = 0.25  # of the bound above which it is, too
_PART = 0.2  # of the bound is for one run of the whole network
_STEP = 0.85  # of the larger of the two is tried next


@dataclass(frozen=True)
class _Kept:
    """A layer: unknowns a row d, outputs O, places and live bytes a sample, groups, and whether it may be split."""

    width: int
    outputs: int
    places: int
    live: int = 0
    groups: int = 1
    split: bool = False

    def positions(self, samples: int, limit: int) -> int:
        """Sampled output positions."""
        return min(sample_limit(limit, self.width, split=self.split), samples * self.places)

    def target(self, samples: int, limit: int) -> int:
        """Bytes of what it should give, in float32."""
        return 4 * self.positions(samples, limit) * self.outputs

    def fit(self, samples: int, limit: int) -> int:
        """Bytes while it is fitted: patches (once where groups are done some at a time), targets, and five Grams."""
        n = self.positions(samples, limit)
        gram = 5 * self.groups * self.width**2 if self.width <= min(WIDEST_GRAM, 2 * n) else 0
        seen = self.groups * self.width if self.groups > 1 else 2 * self.width
        return 4 * n * (seen + 3 * self.outputs) + 8 * (gram + 3 * self.outputs * self.width)


@dataclass(frozen=True)
class Needs:
    """What a compression needs.

    Attributes:
        fixed: bytes whatever is run.
        live: bytes of the tensors that live at the same time, for one sample.
        layers: what is kept of each.
        whole: bytes of all tensors together, for one sample: a backward pass holds them at once.
        narrow: what they should give is held in 16 bits, in place of float32.
    """

    fixed: int
    live: int
    layers: tuple[_Kept, ...]
    whole: int = 0
    narrow: bool = False

    def walk(self, samples: int) -> int:
        """Bytes of a pass."""
        return int(SPARE * self.live * samples)

    def kept(self, samples: int, positions: int) -> int:
        """Bytes of what is kept of the layers, and of the fit of the largest."""
        return self._targets(samples, positions) + max(
            (layer.fit(samples, positions) for layer in self.layers), default=0
        )

    def total(self, samples: int, positions: int) -> int:
        """All bytes at once: a layer is fitted beside the tensors that live then, not beside the most that ever do."""
        beside = [int(SPARE * layer.live * samples) + layer.fit(samples, positions) for layer in self.layers]
        return self.fixed + self._targets(samples, positions) + max([self.walk(samples), *beside])

    def _targets(self, samples: int, positions: int) -> int:
        return sum(layer.target(samples, positions) for layer in self.layers) // (2 if self.narrow else 1)

    def within(self, bound: float, samples: int, positions: int) -> Needs:
        """The same, with `narrow` set where what all layers should give is large, or a large part of the bound."""
        return replace(self, narrow=self._targets(samples, positions) > min(NARROW, _TARGETS * bound))

    def fitting(self, bound: float, samples: int, positions: int) -> tuple[int, int]:
        """So many samples and positions, or as many as keep within the bound; never fewer than the fewest."""
        large = self.layers and min(layer.places for layer in self.layers) >= SEEN
        fewest, lowest = 1 if large else min(FEWEST, samples), min(FEWEST_POSITIONS, positions)
        while self.total(samples, positions) > bound and (samples > fewest or positions > lowest):
            walk = self.walk(samples) > self.kept(samples, positions)
            if samples > fewest and (walk or positions == lowest):
                samples = max(fewest, int(_STEP * samples))
            else:
                positions = max(lowest, int(_STEP * positions))
        return samples, positions

    def unasked(self, samples: int) -> int:
        """So many samples, or as many as make a pass of PASS: of few channels at full length that is the most of it."""
        return min(samples, max(FEWEST_UNASKED, int(PASS / max(1, self.walk(1)))))

    def least(self, samples: int, positions: int) -> int:
        """Bytes that are taken all the same: the original runs as a whole where a result is checked, too."""
        return max(self.total(samples, positions), self.fixed + int(RUN * self.live))

    def goes_back(self, bound: float) -> bool:
        """Whether a backward pass of one sample keeps within a bound."""
        return self.fixed + self.whole <= bound

    def batch(self, bound: float, most: int) -> int:
        """Samples of a run of the whole network: as many as take a part of the bound, `most` at most."""
        return max(1, min(most, int(_PART * bound / max(1, SPARE * self.live))))


def needs_of(network: Network, shapes: Shapes, split: Collection[str] = ()) -> Needs:
    """What the compression of a network needs, some layers of which may be split, by their names.

    Tensors of unknown shape count as nothing.
    """
    batch = next((s.batch for s in input_specs_of(network) if s.batch), 1)
    weights = sum(4 * math.prod(layer.constant.shape) for layer in network.layers.values())
    live = -(-most_live(network.graph, shapes.sizes) // batch)
    whole = sum(_bytes(t, shapes.sizes) for node in network.graph.nodes for t in node.outputs) // batch
    return Needs(BASE + int(COPIES * weights), live, tuple(_layers(network, shapes.sizes, batch, split)), whole)


def most_live(graph: gs.Graph, sizes: Mapping[str, Size]) -> int:
    """Bytes in float32 of the tensors that are alive at once while the nodes run one after another, at the most."""
    return max([sum(_bytes(t, sizes) for t in graph.inputs), *live_at(graph, sizes).values()])


def live_at(graph: gs.Graph, sizes: Mapping[str, Size]) -> dict[str, int]:
    """Node → bytes in float32 of the tensors that are alive while it runs."""
    found: dict[str, int] = {}
    users = Counter(t.name for node in graph.nodes for t in node.inputs if not isinstance(t, gs.Constant))
    alive = {t.name: _bytes(t, sizes) for t in graph.inputs}
    for node in graph.nodes:
        alive |= {t.name: _bytes(t, sizes) for t in node.outputs}
        found[node.name] = sum(alive.values())
        for tensor in (*node.inputs, *node.outputs):
            users[tensor.name] -= tensor in node.inputs
            if users[tensor.name] <= 0:
                alive.pop(tensor.name, None)
    return found


def _bytes(tensor: gs.Tensor, sizes: Mapping[str, Size]) -> int:
    return 4 * math.prod(int(d) for d in sizes.get(tensor.name, (0,)))


def _layers(network: Network, sizes: Mapping[str, Size], batch: int, split: Collection[str]) -> Iterator[_Kept]:
    live = live_at(network.graph, sizes)
    for layer in network.layers.values():
        shape = sizes.get(layer.node.outputs[0].name, ())
        places = math.prod(int(d) for d in shape) // max(1, layer.out_channels * batch)
        beside, split_too = -(-live[layer.name] // batch), layer.name in split
        yield _Kept(layer.matrix_shape[2], layer.out_channels, places, beside, layer.groups, split_too)
