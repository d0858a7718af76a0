"""One pass over the original network on synthetic (or real) inputs: what the compressed network has to reproduce.

Where batch norm is in the file, it is matched: each layer's output is brought to the mean β and deviation |γ| that it
had in training, whatever the images do to it. For a layer with batch norm folded, y = W p + b, that is

    y ← q (y - m) + β      q = σ / √v,   m, v: the batch's mean and variance of y (v before folding)

so in this domain the layer's weights are q W. Marginals are then those of training; images supply the correlations.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.inputs.feeds import evenly_spaced
from onnx_udfc.model.layers import own_bias, residual_operand
from onnx_udfc.numerics.factors import Curve, turned
from onnx_udfc.numerics.layer_fit import summable
from onnx_udfc.numerics.metric import Metric, importances, metric, movement
from onnx_udfc.numerics.moments import (
    Array,
    Window,
    channel_statistics,
    channel_sums,
    column_variances,
    covariance,
    patches,
    peak_positions,
    sample_positions,
    sample_targets,
)
from onnx_udfc.numerics.narrowing import curves
from onnx_udfc.numerics.products import Behind, product
from onnx_udfc.numerics.sixteen_bits import SixteenBits, in_sixteen_bits
from onnx_udfc.repair.ordering import Ordering
from onnx_udfc.repair.recurrent import States
from onnx_udfc.repair.rounding import MOST_SAMPLES, rounding_damage
from onnx_udfc.runtime.machine import release
from onnx_udfc.runtime.walk import Pieces, Value, Walk
from onnx_udfc.runtime.windows import run_layer, window_of

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.elimination import Removal

Double = NDArray[np.float64]
Index = NDArray[np.int64]

WIDE = 512  # values of patches that are sampled most; Grams of wider ones cost more
LEAST = 4096  # positions, however wide
AN_UNKNOWN = 5  # positions for each unknown of a layer that may be split; nine gained nothing more
FEWEST = 4  # a layer of rank r is seen at r / FEWEST positions at least, or its directions are those of few pictures
CURVES = 8  # positions for each value of a patch that curves are measured at: more change nothing
MOST_GAIN = 100.0  # of a matched channel
_QUIETEST = 0.01  # of the mean variance: channels below it are not minded more


@dataclass(frozen=True)
class LayerReference:
    """What the original layer gives at the sampled positions, in the matched domain.

    Attributes:
        shape: of the layer's whole output.
        positions: (n,) sampled output positions, the same in the compressed network.
        held: (n, O) the layer's output, with the values of `addend` where there is one.
        gain: (O,) q of the module's equation; ones where nothing is matched.
        shift: (O,) such that y_matched = gain * y + shift.
        mean: (O,) of the output over all positions, not only the sampled ones.
        addend: name of the tensor that is added to the output (a residual stream); None where there is none, or where
            it could not be computed before the layer.
        stream_mean: (O,) of it over all positions.
        alone: nothing is added to the output before its activation.
        information: (O, O) how the answers move with the output, F of `numerics.metric`, or (O,) its diagonal; None if
            nobody knows, and for a layer that is not to be split: nothing asks for it once its channels were ordered.
        groups: of the layer.
    """

    shape: tuple[int, ...]
    positions: Index
    held: Array | SixteenBits
    gain: Double
    shift: Double
    mean: Double
    addend: str | None = None
    stream_mean: Double = field(default_factory=lambda: np.zeros(0))
    alone: bool = True
    information: Array | None = None
    groups: int = 1

    @property
    def target(self) -> Array:
        """(n, O) what is `held`, float32."""
        return self.held[:]

    @property
    def drift(self) -> Double:
        """(O,) how far the mean of the unmatched output on these inputs is from the stored one."""
        return (self.mean - self.shift) / self.gain - self.mean

    @cached_property
    def variances(self) -> Double:
        """Variance (O,) of what the layer writes to (the stream, where there is one)."""
        return np.asarray(np.maximum(column_variances(self.target), 1e-30))

    @cached_property
    def variance(self) -> float:
        """Mean variance of what the layer writes to."""
        return float(self.variances.mean())

    @property
    def unit(self) -> Double:
        """Errors (O,) that count as one, all channels together: between absolute and relative to each channel."""
        seen = np.maximum(self.variances, _QUIETEST * self.variance)
        return np.asarray(np.sqrt(np.sqrt(seen * self.variance) * len(seen)))

    def thinned(self, most: int) -> LayerReference:
        """The same at so many of the positions, evenly, where there are more."""
        if len(self.positions) <= most:
            return self
        some = evenly_spaced(len(self.positions), most)
        return replace(self, positions=self.positions[some], held=self.held[some])

    @cached_property
    def metric(self) -> Metric:
        """How errors count, all channels together."""
        return metric(self.unit, self.target, self.information, self.groups, self.moved)

    @cached_property
    def moved(self) -> float:
        """How far all that the layer writes moves the answers; 0 if nobody knows."""
        return 0.0 if self.information is None else movement(self.target, self.information)


@dataclass
class Reference:
    """The original network's side of the repair.

    Attributes:
        network: a copy of the original in the matched domain (weights q W, norms with the batch's statistics).
        layers: by layer name, in topological order.
        removals: nested order of removal for each group that was asked for.
        unordered: group name → why it has none, in words for the user.
        rounding: layer name → bits → damage of rounding to nearest, for the bits that were asked for.
        curves: layer name → what each way to split it loses at every rank, for the layers that were asked for.
        states: name of a recurrent layer → second moments (directions, h, h) of its states.
        inputs: graph input name → values that were fed.
        pieces: open sessions of what lies between the layers; the compressed network has the same blocks.
        narrow: what the layers give is held in 16 bits.
    """

    network: Network
    layers: dict[str, LayerReference] = field(default_factory=dict)
    removals: dict[str, Removal] = field(default_factory=dict)
    unordered: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, dict[float, float]] = field(default_factory=dict)
    curves: dict[str, tuple[Curve, ...]] = field(default_factory=dict)
    states: dict[str, Double] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    pieces: Pieces = field(default_factory=Pieces)
    narrow: bool = False

    def weigh(self, moved: Mapping[str, float]) -> None:
        """Let errors of each layer count by how far all that it writes moves the answers, where that is known."""
        known = [name for name in self.network.layers if 0 < moved.get(name, 0.0) < np.inf]
        weights = dict(zip(known, importances([moved[name] for name in known]), strict=True))
        self.removals = {name: removal.weighed_by(weights) for name, removal in self.removals.items()}
        for name, errors in self.rounding.items():
            self.rounding[name] = {bits: error * weights.get(name, 1.0) for bits, error in errors.items()}
        for name, found in self.curves.items():
            self.curves[name] = tuple(replace(c, weight=weights.get(name, 1.0)) for c in found)

    def settle(self, split: Collection[str]) -> None:
        """Forget, in place, what only layers that become two (by name) are asked for, of all others."""
        for name, layer in self.layers.items():
            if name not in split:
                self.layers[name] = replace(layer, information=None)
                self.curves.pop(name, None)


def trace(
    network: Network,
    inputs: Mapping[str, Value],
    groups: tuple[ChannelGroup, ...],
    *,
    matched: float,
    samples: int,
    seed: int,
    advance: Callable[[str], None] = lambda _: None,
    few: bool = False,
    gates: Collection[str] = (),
    peaked: Collection[str] = (),
    widths: tuple[float, ...] = (),
    factorable: Collection[str] = (),
    informations: dict[str, Array] | None = None,
    cells: Collection[str] = (),
    pieces: Pieces | None = None,
    narrow: bool = False,
) -> Reference:
    """Run the original network once.

    Args:
        network: the original, canonical.
        inputs: graph input name → values.
        groups: groups whose channels are to be ordered by `eliminate`.
        matched: how far batch norms are matched to their stored statistics, from 0 (real inputs) to 1.
        samples: sampled positions for each layer; 0 where only the matched network is wanted.
        seed: of the sampling.
        advance: called with each layer's name when it is done.
        few: the inputs show little of what the network tells apart, so that errors look smaller than they are.
        gates: layers that do nothing but scale, see `Ordering`.
        peaked: layers of which only the largest values over all positions are handed on: they are sampled at these.
        widths: bits whose rounding errors are wanted.
        factorable: layers whose curves of rank are wanted.
        informations: layer name → how the answers move with its output (`sensitivity`), where that is known; each is
            taken out when its layer is passed, for together they are as large as the weights.
        cells: recurrent layers whose states are wanted.
        pieces: open sessions of the network's parts, on the provider that runs them; None for new ones.
        narrow: hold what the layers give in 16 bits.
    """
    ordering = Ordering(groups, few=few, gates=gates)
    opened, known = Pieces() if pieces is None else pieces, {} if informations is None else informations
    reference = Reference(network.copy(), inputs=dict(inputs), pieces=opened, narrow=narrow)
    tracer = _Tracer(
        network, reference, ordering, matched, samples, seed, widths, factorable, few, known, peaked, cells
    )
    for node in network.graph.nodes:
        if node.name in network.layers:
            tracer.layer(network.layers[node.name])
            advance(node.name)
        elif matched and is_norm(node):
            tracer.norm(node)
    tracer.behind.finish()
    reference.states = tracer.states.moments(tracer.walk)
    reference.removals, reference.unordered = ordering.removals, ordering.left()
    reference.weigh(tracer.moved)
    return reference


def is_norm(node: gs.Node) -> bool:
    """Whether this is a batch norm that could not be folded, with constant parameters."""
    return node.op == "BatchNormalization" and all(isinstance(t, gs.Constant) for t in node.inputs[1:5])


def sample_limit(samples: int, width: int, *, few: bool = True, split: bool = False) -> int:
    """Positions to sample for patches of `width` values: `samples` at WIDE, fewer above, never below 4,096.

    Below WIDE they are fewer in proportion, as the unknowns are, but where the inputs show little of what the network
    tells apart (few). What a layer that may be split becomes is made of its refit, and errors of that go into both
    layers: there they are some for each unknown, as long as these are no more than `samples`.
    """
    narrower = 1.0 if few else min(1.0, width / WIDE)
    least = max(LEAST, AN_UNKNOWN * width) if split else LEAST
    return max(min(samples, least), int(narrower * (samples * WIDE // max(width, WIDE))))


def layer_seed(name: str, seed: int) -> int:
    """Seed of a layer's sampling: depends on its name only, so that other layers do not move it."""
    return (zlib.crc32(name.encode()) + seed) % 2**32


@dataclass(frozen=True)
class _Found:
    """Covariance of a layer's patches, if two want it; rounding errors and curves of rank, if they are asked for."""

    gram: Double | None
    rounding: dict[float, float] | None
    curves: tuple[Curve, ...] | None = None


@dataclass
class _Tracer:
    """State of one pass over the original; fields are as the arguments of `trace`."""

    network: InitVar[Network]
    reference: Reference
    ordering: Ordering
    matched: float
    samples: int
    seed: int
    widths: tuple[float, ...]
    factorable: Collection[str]
    few: bool
    informations: dict[str, Array]
    peaked: Collection[str]
    cells: Collection[str]
    behind: Behind = field(default_factory=Behind)
    moved: dict[str, float] = field(default_factory=dict)

    def __post_init__(self, network: Network) -> None:
        self.model = network.to_model(without=network.weights)  # the layers are run with weights at hand
        stops = [*network.layers, *(n.name for n in network.graph.nodes if self.matched and is_norm(n))]
        self.states = States(self.model, self.cells)
        fed, pieces = self.reference.inputs, self.reference.pieces
        self.walk = Walk(self.model, fed, stops, self.states.watched, pieces, in_place=True)
        self.outputs = {t.name for t in network.graph.outputs}

    def layer(self, layer: Layer) -> None:
        """Run one layer, match it, sample it, and collect what the elimination needs."""
        if not self.walk.available(layer.node.inputs[0].name):
            return
        x = self.walk.get(layer.node.inputs[0].name)
        matrix, bias = layer.matrix(), own_bias(layer)
        y = run_layer(self.model, layer, x, matrix, bias, self.walk.pieces)
        moved = self.matched > 0 and layer.batch_norm is not None
        gain, shift = (
            matching(layer, y, self.matched) if moved else (np.ones(layer.out_channels), np.zeros(layer.out_channels))
        )
        if moved:
            affine(y, gain, shift)
            matrix *= gain.reshape(layer.groups, -1, 1)
            self.reference.network.layers[layer.name].set(matrix, bias * gain + shift)
        look = self._sample(layer, x, y, gain, shift, matrix) if self.samples else None
        self.walk.put(layer.name, y.astype(x.dtype, copy=False))
        if look is not None:
            del x, y  # a one-hot input is larger than all that is found of it
            look()

    def _sample(
        self, layer: Layer, x: Value, y: Value, gain: Double, shift: Double, matrix: Double
    ) -> Callable[[], None] | None:
        """Keep what the repair asks for of input x and output y, and say how to look at it; the rest as of `_find`."""
        window = window_of(layer, x.shape, y.shape)
        split = layer.name in self.factorable
        limit = sample_limit(self.samples, matrix.shape[2], few=self.few, split=split)
        chosen_by = layer_seed(layer.name, self.seed)
        positions = sample_positions(y.shape, window, limit, chosen_by)
        if layer.name in self.peaked:
            positions = peak_positions(y, positions, spatial=bool(window.kernel), seed=chosen_by)
        own = target = sample_targets(y, window, positions)
        addend, stream, stream_mean = self._stream(layer, window, positions, y.shape)
        if stream is not None:
            target = own + stream
        alone = residual_operand(layer, self.outputs) is None
        found = LayerReference(
            y.shape, positions, target, gain, shift, channel_mean(y, layer), addend, stream_mean, alone,
            self.informations.pop(layer.name, None), layer.groups,
        )  # fmt: skip
        self.moved[layer.name] = found.moved
        self.reference.layers[layer.name] = replace(  # without the metric, (O, O) again
            found,
            information=found.information if split else None,
            held=in_sixteen_bits(target) if self.reference.narrow else target,
        )
        return self._look(layer, x, window, found, matrix, own)

    def norm(self, node: gs.Node) -> None:
        """Match a batch norm that stands alone: it is given the batch's own statistics."""
        if not self.walk.available(node.inputs[0].name):
            return
        x = self.walk.get(node.inputs[0].name).astype(np.float32, copy=True)
        stored = [np.asarray(t.values, np.float64) for t in node.inputs[3:5]]
        mean, var = (between(a, b, self.matched) for a, b in zip(stored, channel_statistics(x), strict=True))
        gamma, beta = (np.asarray(t.values, np.float64) for t in node.inputs[1:3])
        factor = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        twin = next(n for n in self.reference.network.graph.nodes if n.name == node.name)
        for tensor, value in zip(twin.inputs[3:5], (mean, var), strict=True):
            tensor.values = value.astype(tensor.values.dtype)
        affine(x, factor, beta - factor * mean)
        self.walk.put(node.name, x)

    def _stream(
        self, layer: Layer, window: Window, positions: Index, shape: tuple[int, ...]
    ) -> tuple[str | None, Array | None, Double]:
        """The residual operand of the Add that alone reads this layer, if it can be computed already."""
        addend = residual_operand(layer, self.outputs)
        if addend is None or not self.walk.available(addend):
            return None, None, np.zeros(0)
        value = self.walk.get(addend)
        if value.shape != shape:
            return None, None, np.zeros(0)
        value = value.astype(np.float32, copy=False)
        return addend, sample_targets(value, window, positions), channel_mean(value, layer)

    def _look(
        self, layer: Layer, x: Value, window: Window, found: LayerReference, matrix: Double, own: Array
    ) -> Callable[[], None] | None:
        """What begins to find what is asked for, while the pass goes on; arguments as of `_find`, and the input x."""
        if not (self.ordering.wanted(layer) or self.widths or layer.name in self.factorable):
            return None
        seen = patches(x.astype(np.float32, copy=False), window, found.shape, found.positions)

        def begin() -> None:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is found, and said
                find = partial(self._find, layer, seen, found, matrix, own)
                self.behind.do(find, partial(self._take, layer, seen, found, matrix), seen.size)

        return begin

    def _find(self, layer: Layer, seen: Array, found: LayerReference, matrix: Double, own: Array) -> _Found:
        """What is asked for of a layer alone.

        Args:
            layer: the layer.
            seen: (g, n, d) patches of its input.
            found: what is known of it.
            matrix: (g, o, d) its weights in the matched domain.
            own: (n, O) its output at the sampled positions, without what is added to it.
        """
        both = self.widths and self.ordering.wanted(layer) and seen.shape[2] <= MOST_SAMPLES
        gram = covariance(seen) if both else None  # where two want it
        damage = rounding_damage(matrix, seen, found.variance, self.widths, gram) if self.widths else None
        if layer.name not in self.factorable:
            return _Found(gram, damage)
        return _Found(gram, damage, _curves(layer, seen[0], found.metric, matrix[0], own, few=self.few))

    def _take(self, layer: Layer, seen: Array, found: LayerReference, matrix: Double, alone: _Found) -> None:
        """Keep what was found of a layer alone, and order its groups as soon as all consumers of one were seen."""
        if alone.rounding is not None:
            self.reference.rounding[layer.name] = alone.rounding
        if alone.curves is not None:
            self.reference.curves[layer.name] = alone.curves
        if self.ordering.wanted(layer):
            self.ordering.see(layer, seen, matrix, found.metric, alone.gram)


def _curves(layer: Layer, seen: Array, metric: Metric, matrix: Double, own: Array, *, few: bool) -> tuple[Curve, ...]:
    """What each way to split a layer loses, as a share of what it writes to; () where far too little is seen to say."""
    if few and len(seen) * FEWEST < min(matrix.shape):
        return ()
    most = max(LEAST, CURVES * seen.shape[1])
    if len(seen) > most:
        some = evenly_spaced(len(seen), most)
        seen, own = seen[some], own[some]
    weight = metric.scaled(matrix[None])[0]
    if len(weight) > weight.shape[1]:  # turned, they are no more than what is read: a head may have thousands
        weight = turned(weight)
        targets = product(seen, weight.T.astype(np.float32))
    else:
        targets = metric.of_outputs(own)
    if not (summable(seen) and summable(targets)):
        return ()
    # of a wide layer each leaves holes of a hundred megabytes
    return tuple(curves(weight, seen, targets, layer.kernel, few=few, freed=release))


def channel_mean(y: Value, layer: Layer) -> Double:
    """Mean (O,) of a layer's output, or of a tensor of the same shape, over all positions."""
    if not layer.kernel:
        return np.asarray(y.reshape(-1, y.shape[-1]).mean(0, dtype=np.float64))
    return np.asarray(channel_sums(y) / max(1, y.size // y.shape[1]))


def between(stored: Double, seen: Double, share: float) -> Double:
    """Statistics (O,) on the way from the stored ones to those of the inputs, a share of it."""
    return seen if share == 1 else (1 - share) * stored + share * seen


def matching(layer: Layer, y: Value, share: float = 1.0) -> tuple[Double, Double]:
    """Gain and shift (O,) that bring the layer's output y to the stored statistics, or a share of the way there."""
    norm = layer.batch_norm
    assert norm is not None
    mean, var = channel_statistics(y)
    factor = norm.gamma / np.sqrt(norm.var + norm.epsilon)
    alive = abs(factor) > 1e-12
    seen = np.where(alive, var / np.square(np.where(alive, factor, 1.0)), norm.var)
    mean, seen = between(norm.beta, mean, share), between(norm.var, seen, share)
    # Channels that never moved, in training or now, must not get an unbounded gain.
    floor = 1e-6 * max(float(norm.var.mean()), 1e-30)
    gain = np.clip(np.sqrt((norm.var + floor) / (seen + floor)), 1 / MOST_GAIN, MOST_GAIN)
    return gain, norm.beta - gain * mean


def affine(y: Value, gain: Double, shift: Double) -> None:
    """Apply y ← gain * y + shift per channel (axis 1), in place."""
    shape = (1, -1) + (1,) * (y.ndim - 2)
    y *= gain.astype(y.dtype).reshape(shape)
    y += shift.astype(y.dtype).reshape(shape)
