"""How long the network takes on this machine, on the provider that is asked for, as a function of what the groups keep.

Each distinct layer is timed alone in onnxruntime at a few widths, and its time fitted by

    t(out, in) = a + b·out + c·in + d·out·in      a, b, c, d ≥ 0

(calls, reading, writing, arithmetic). Layers that are to run on integer kernels are timed on those
(`integer_layers`). On a GPU one layer alone is mostly the copies of its ends and the wait for an answer, which it does
not pay within a network: there the values stay on the device, and a layer's time is what more of it add to a run. What
the whole network takes beyond its layers is left as it is; layers that take longer alone than the network share its
time out. The table is a guide for the allocation; `measured_ratio` is the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_udfc.decide.integer_layers import OnIntegers, alone, near, stated
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.factored import Factor, factor
from onnx_udfc.model.protos import small_model
from onnx_udfc.runtime.latency import Run, paired_latency, run_on_device
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import open_session

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import Channels
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.decide.footprint import Footprint
    from onnx_udfc.decide.ranks import Ranks
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.factors import Split

Double = NDArray[np.float64]
Index = NDArray[np.int64]
Feeds = Mapping[str, NDArray[np.generic]]

SHARES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5), (0.25, 0.25))  # of output and input channels
RANK_SHARES = ((0.5, 1.0), (0.25, 1.0), (0.125, 1.0), (0.25, 0.5))  # of the ranks between and the layer's own
ROUNDS = 7
COPIES = 9  # of a layer in one run on a GPU
SHORTEST = 1e-7  # seconds that a clock can tell
SECONDS = 2.0  # for each look at the real ratio
_SOLVER_SWEEPS = 200


@dataclass(frozen=True)
class Timing:
    """How runs are timed.

    `batch` are the samples of a run; None for one, or the network's own number.
    """

    threads: int = 1
    provider: Provider = CPU
    batch: int | None = None

    @property
    def one_thread(self) -> bool:
        """Whether the thread that asks for a run does all of it."""
        return self.threads == 1 and self.provider.name == "cpu"


@dataclass(frozen=True)
class Times:
    """Times of the layers, whole and split.

    Attributes:
        size: lengths of the layers.
        terms: (L, 4) a, b, c, d in seconds.
        splits: layer name → kind of split → (2, 4) terms of both parts.
        rest: seconds that belong to no layer.
        original: seconds of the original in float, as the file has it; none: what all of the above add up to.
        on_integers: whether layers were timed on integer kernels.
    """

    size: Footprint
    terms: Double
    splits: Mapping[str, Mapping[str, Double]]
    rest: float
    original: float | None = None
    on_integers: bool = False

    def saved(self, at: int, split: Split, ranks: Index) -> Double:
        """Seconds (n,) that splitting a layer of the original saves, at these ranks (n,)."""
        out, into = self.size.out[at], self.size.into[at]
        first, second = self.splits[self.size.layers[at]][split.kind]
        whole = _seconds_of(self.terms[at], out, into)
        return np.asarray(whole - _seconds_of(first, ranks, into) - _seconds_of(second, out, ranks))


@dataclass(frozen=True)
class LatencyTable:
    """The time of the network as a function of what is kept.

    Attributes:
        times: of its layers.
        ranks: what they may become.
        parts: (2, L, K, 4) terms of both parts at each level.
    """

    times: Times
    ranks: Ranks
    parts: Double

    def seconds(self, kept: Double, level: Double) -> Double:
        """Predicted seconds (...) for kept channels (..., G) and levels of rank (..., L)."""
        out, into = self.times.size.lengths(kept)
        first, second = self.parts[:, np.arange(len(self.parts[0])), level.astype(np.int64)]
        rank = self.ranks.rank(level)
        whole = _seconds_of(self.times.terms, out, into)
        split = _seconds_of(first, rank, into) + _seconds_of(second, out, rank)
        return np.asarray(np.where(level > 0, split, whole).sum(-1) + self.times.rest)

    def ratio(self, kept: Double, level: Double) -> Double:
        """Predicted share (...) of the original's time."""
        whole = self.seconds(self.times.size.channels, np.zeros(len(self.times.terms)))
        return np.asarray(self.seconds(kept, level) / (whole if self.times.original is None else self.times.original))


def _seconds_of(terms: Double, out: Double | Index, into: Double | Index) -> Double:
    """The module's equation for terms (..., 4)."""
    a, b, c, d = np.moveaxis(terms, -1, 0)
    return np.asarray(a + b * out + c * into + d * out * into)


def latency_table(times: Times, ranks: Ranks) -> LatencyTable:
    """The table for these levels of rank."""
    parts = np.zeros((2, *ranks.into.shape, 4))
    for i, (name, factors) in enumerate(zip(ranks.size.layers, ranks.factors, strict=True)):
        for k, chosen in enumerate(factors, start=1):
            parts[:, i, k] = times.splits[name][chosen.split.kind]
    return LatencyTable(times, ranks, parts)


def layer_times(
    network: Network,
    channels: Channels,
    size: Footprint,
    splits: Mapping[str, Sequence[Split]],
    timing: Timing,
    integers: OnIntegers | None = None,
    file: onnx.ModelProto | None = None,
) -> Times:
    """Time every distinct layer of the network, whole and split, and the network.

    `splits` is layer name → how it may be split; `integers` are the layers that will run on integer kernels; `file` is
    the original as the user has it, which may be slower than the network in canonical form; none: the same.

    Raises:
        RequestError: the provider does not load, or the network's batch is fixed and another.
    """
    longer = _longer(network, timing)
    known: dict[object, tuple[Double, dict[str, Double]]] = {}
    found: dict[str, tuple[Double, dict[str, Double]]] = {}
    for name, layer in network.layers.items():
        ends = (layer.node.inputs[0].name, layer.node.outputs[0].name)
        source, target = (_times(channels.shapes.sizes.get(name), longer) for name in ends)
        kinds = tuple(splits.get(name, ()))
        coded = integers is not None and name in integers.names
        key = (layer.node.op, layer.constant.shape, source, layer.groups, str(layer.node.attrs), kinds, coded)
        if key not in known:
            whole = np.zeros(4) if source is None else _fit(_timed_widths(layer, source, timing, SHARES, coded))
            sizes = None if source is None or target is None else (source, target)
            parts: dict[str, Double] = {s.kind: _timed_parts(network, name, s, sizes, timing, coded) for s in kinds}
            known[key] = whole, parts
        found[name] = known[key]
    terms = np.array([whole for whole, _ in found.values()]).reshape(-1, 4)
    layers = float(_seconds_of(terms, size.out, size.into).sum())
    whole_run = _whole(network, timing, integers.model if integers else None)
    share = min(1.0, whole_run / layers) if layers > 0 else 1.0
    by_split = {n: {kind: share * both for kind, both in parts.items()} for n, (_, parts) in found.items()}
    rest = max(0.0, whole_run - layers)
    return Times(size, share * terms, by_split, rest, _whole(network, timing, file), integers is not None)


def _longer(network: Network, timing: Timing) -> int:
    """How many times as many samples a run has as the sizes of the network's tensors say."""
    fixed = [w.spec.batch for w in wanted_inputs(network) if w.spec.batch is not None]
    return 1 if fixed or timing.batch is None else timing.batch


def _times(size: Size | None, longer: int) -> Size | None:
    return size if size is None or longer == 1 else (size[0] * longer, *size[1:])


def _timed_parts(
    network: Network, name: str, split: Split, sizes: tuple[Size, Size] | None, timing: Timing, coded: bool
) -> Double:
    """Terms (2, 4) of both layers of a split, timed at some ranks; nothing is saved where the shapes are unknown."""
    if sizes is None:
        return np.array([[np.inf, 0.0, 0.0, 0.0]] * 2)
    source, target = sizes
    layer = network.layers[name]
    rank = max(1, min(layer.in_channels * split.taps[0], layer.out_channels * split.taps[1]))
    copy = network.copy()
    first = next(iter(factor(copy, {name: Factor(split, rank)})))
    between = (*source[:-1], rank)
    if layer.convolves:
        between = (source[0], rank, *target[2 : 2 + split.leading], *source[2 + split.leading :])
    narrow = [
        _timed_widths(copy.layers[first], source, timing, RANK_SHARES, coded),
        _timed_widths(copy.layers[name], between, timing, [(b, a) for a, b in RANK_SHARES], coded),
    ]
    return np.array([_fit(points) for points in narrow])


def _timed_widths(
    layer: Layer, source: Size, timing: Timing, shares: Sequence[tuple[float, float]], coded: bool
) -> list[tuple[float, float, float]]:
    """(out, in / groups, seconds) at some widths; a grouped layer keeps its shape.

    Integer kernels are timed at widths that fill their blocks: others take longer than more channels would.
    """
    found = []
    for out_share, in_share in shares if layer.groups == 1 else ((1.0, 1.0),):
        out = max(1, round(layer.out_channels * out_share))
        into = max(1, round(layer.in_channels * in_share))
        if coded and layer.groups == 1:
            out, into = near(out, layer.out_channels), near(into, layer.in_channels)
        if timing.provider.name != "cpu":
            one, many = (_seconds(*_alone(layer, source, out, into, number), timing) for number in (1, COPIES))
            seconds = max((many - one) / (COPIES - 1), SHORTEST)
        else:
            model, feeds = (coded and alone(layer, source, out, into)) or _alone(layer, source, out, into)
            seconds = _seconds(model, feeds, timing)
        found.append((float(out), into / layer.groups, seconds))
    return found


def _alone(layer: Layer, source: Size, out: int, into: int, copies: int = 1) -> tuple[onnx.ModelProto, Feeds]:
    """A model of a layer with random weights, once or side by side on one input, and values for that."""
    axis = layer.axis % len(source)
    shape = tuple(into if i == axis else n for i, n in enumerate(source))
    weight = list(layer.constant.shape)
    first, second = layer.weight_axes
    if layer.groups == 1:
        weight[first], weight[second] = out, into
    random = np.random.default_rng(0)
    # Each has its own: equal nodes would be made one.
    weights = {f"w{i}": random.standard_normal(weight).astype(np.float32) for i in range(copies)}
    nodes = [helper.make_node(str(layer.node.op), ["x", f"w{i}"], [f"y{i}"]) for i in range(copies)]
    for node in nodes:
        node.attribute.extend(helper.make_attribute(key, value) for key, value in stated(layer).items())
    model = small_model(nodes, {"x": (np.float32, shape)}, [node.output[0] for node in nodes], weights)
    return model, {"x": random.standard_normal(shape).astype(np.float32)}


def _seconds(model: onnx.ModelProto, feeds: Feeds, timing: Timing) -> float:
    """The shortest of a few rounds."""
    session = open_session(model, timing.provider, timing.threads, arena=True)
    if timing.provider.name != "cpu":
        return _shortest(run_on_device(session, feeds, timing.provider), timing)
    return _shortest(lambda: session.run(None, dict(feeds)), timing)


def _shortest(run: Callable[[], object], timing: Timing) -> float:
    """Seconds of the quickest run; of one thread its processor time, which others on the machine do not lengthen."""
    clock = time.thread_time if timing.one_thread else time.perf_counter
    run()
    times = []
    for _ in range(ROUNDS):
        start = clock()
        run()
        times.append(clock() - start)
    return max(min(times), SHORTEST)


def _fit(points: list[tuple[float, float, float]]) -> Double:
    """Terms (4,) ≥ 0 with the least relative squared error, by coordinate descent."""
    out, into, seconds = np.array(points).T
    if len(points) == 1:
        return np.array([0.0, seconds[0] / out[0], 0.0, 0.0])
    design = np.stack([np.ones(len(out)), out, into, out * into], axis=1) / seconds[:, None]
    scale = np.linalg.norm(design, axis=0)
    A = design / scale
    gram, right = A.T @ A, A.sum(0)
    x = np.zeros(4)
    for _ in range(_SOLVER_SWEEPS):
        for i in range(4):
            x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / gram[i, i])
    return np.asarray(x / scale)


def _runner(network: Network, timing: Timing, model: onnx.ModelProto | None = None) -> Run:
    """A run of the whole network on one batch, or of the model that is to be written of it."""
    session = open_session(model or network.to_model(), timing.provider, timing.threads, arena=True)
    feeds = one_feed(wanted_inputs(network), batch=timing.batch)
    return lambda: session.run(None, feeds)


def _whole(network: Network, timing: Timing, model: onnx.ModelProto | None) -> float:
    return _shortest(_runner(network, timing, model), timing)


def measured_ratio(
    original: Network,
    small: Network,
    timing: Timing,
    model: onnx.ModelProto | None = None,
    file: onnx.ModelProto | None = None,
) -> float:
    """Time of a network as a share of the original's, both timed in turn.

    `model` is the small network as it would be written, where that runs on other kernels; `file` the original as the
    user has it, where that is another model than the network's.

    Raises:
        RequestError: as `layer_times`.
    """
    both = partial(_runner, original, timing, file), partial(_runner, small, timing, model)
    return paired_latency(*both, SECONDS, one_thread=timing.one_thread).ratio
