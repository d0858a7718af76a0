"""How long the network takes on this machine as a function of what the groups keep.

Each distinct layer is timed alone in onnxruntime at a few widths, and its time fitted by

    t(out, in) = a + b·out + c·in + d·out·in      a, b, c, d ≥ 0

(calls, reading, writing, arithmetic). What the whole network takes beyond its layers is left as it is. The table is a
guide for the allocation; `measured_ratio` is the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.channels.groups import Channels
from onnx_udfc.channels.shapes import Size
from onnx_udfc.decide.footprint import Footprint
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.layers import Layer
from onnx_udfc.model.network import Network
from onnx_udfc.runtime.latency import Run, paired_latency
from onnx_udfc.runtime.sessions import open_session

Double = NDArray[np.float64]
Feeds = Mapping[str, NDArray[np.float32]]

SHARES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5), (0.25, 0.25))  # of output and input channels
ROUNDS = 7
SECONDS = 2.0  # for each look at the real ratio
_SOLVER_SWEEPS = 200


@dataclass(frozen=True)
class LatencyTable:
    """Times of the layers.

    Attributes:
        size: lengths of the layers.
        terms: (L, 4) a, b, c, d in seconds.
        rest: seconds of the original that belong to no layer.
    """

    size: Footprint
    terms: Double
    rest: float

    def seconds(self, kept: Double) -> Double:
        """Predicted seconds (...) for kept channels (..., G)."""
        out, into = self.size.lengths(kept)
        a, b, c, d = self.terms.T
        return np.asarray((a + b * out + c * into + d * out * into).sum(-1) + self.rest)

    def ratio(self, kept: Double) -> Double:
        """Predicted share (...) of the original's time."""
        return np.asarray(self.seconds(kept) / self.seconds(self.size.channels))


def latency_table(network: Network, channels: Channels, size: Footprint, threads: int) -> LatencyTable:
    """Time every distinct layer of the network, and the network."""
    known: dict[object, Double] = {}
    terms = []
    for layer in network.layers.values():
        source = channels.shapes.sizes.get(layer.node.inputs[0].name)
        key = (layer.kind, layer.constant.shape, source, layer.groups, str(layer.node.attrs))
        if key not in known:
            known[key] = np.zeros(4) if source is None else _fit(_timed_widths(layer, source, threads))
        terms.append(known[key])
    table = LatencyTable(size, np.array(terms).reshape(-1, 4), 0.0)
    whole = _whole(network, threads)
    return LatencyTable(size, table.terms, max(0.0, whole - float(table.seconds(size.channels))))


def _timed_widths(layer: Layer, source: Size, threads: int) -> list[tuple[float, float, float]]:
    """(out, in / groups, seconds) at some widths; a grouped layer keeps its shape."""
    found = []
    for out_share, in_share in SHARES if layer.groups == 1 else ((1.0, 1.0),):
        out = max(1, round(layer.out_channels * out_share))
        into = max(1, round(layer.in_channels * in_share))
        found.append((float(out), into / layer.groups, _seconds(*_alone(layer, source, out, into), threads)))
    return found


def _alone(layer: Layer, source: Size, out: int, into: int) -> tuple[onnx.ModelProto, Feeds]:
    """A model of one layer with random weights, and values for its input."""
    axis = 1 if layer.kind.startswith("conv") else len(source) - 1
    shape = tuple(into if i == axis else n for i, n in enumerate(source))
    weight = list(layer.constant.shape)
    plain_gemm = layer.kind == "gemm" and not layer.node.attrs.get("transB")
    first, second = (1, 0) if layer.kind in ("conv_transpose", "matmul") or plain_gemm else (0, 1)
    if layer.groups == 1:
        weight[first], weight[second] = out, into
    random = np.random.default_rng(0)
    values = numpy_helper.from_array(random.standard_normal(weight).astype(np.float32), "w")
    node = helper.make_node(str(layer.node.op), ["x", "w"], ["y"])
    node.attribute.extend(helper.make_attribute(key, _plain(value)) for key, value in layer.node.attrs.items())
    declared = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "layer", [declared], [onnx.ValueInfoProto(name="y")], [values])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": random.standard_normal(shape).astype(np.float32)}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list | np.ndarray) else value


def _seconds(model: onnx.ModelProto, feeds: Feeds, threads: int) -> float:
    """The shortest of a few rounds."""
    session = open_session(model, "cpu", threads)
    return _shortest(lambda: session.run(None, dict(feeds)), threads)


def _shortest(run: Callable[[], object], threads: int) -> float:
    """Seconds of the quickest run; of one thread its processor time, which others on the machine do not lengthen."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    run()
    times = []
    for _ in range(ROUNDS):
        start = clock()
        run()
        times.append(clock() - start)
    return max(min(times), 1e-7)


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


def _runner(network: Network, threads: int) -> Run:
    """A run of the whole network on one input."""
    session = open_session(network.to_model(), "cpu", threads)
    feeds = one_feed(wanted_inputs(network))
    return lambda: session.run(None, feeds)


def _whole(network: Network, threads: int) -> float:
    return _shortest(_runner(network, threads), threads)


def measured_ratio(original: Network, small: Network, threads: int) -> float:
    """Time of a network as a share of the original's, both timed in turn."""

    def make(second_first: bool) -> tuple[Run, Run]:
        if second_first:
            second = _runner(small, threads)
            return _runner(original, threads), second
        return _runner(original, threads), _runner(small, threads)

    return paired_latency(make, SECONDS).ratio
