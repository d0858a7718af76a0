"""How much the network's answers move with the outputs of its layers: F of `numerics.metric`, by one backward pass.

With v random and independent, E[(Jᵀv)(Jᵀv)ᵀ] = JᵀJ: the backward pass of noise at the answers gives it without
asking for one answer after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.inputs.sizes import input_specs_of
from onnx_udfc.numerics.metric import agreed
from onnx_udfc.numerics.products import at_once, each
from onnx_udfc.repair.reference import is_norm, trace
from onnx_udfc.runtime.gradients import with_gradients
from onnx_udfc.runtime.machine import let_go, release
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.runs import cut, model_specs, outputs_of, sample_count
from onnx_udfc.runtime.sessions import open_session, packed
from onnx_udfc.runtime.walk import Pieces, Value

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]
Single = NDArray[np.float32]

INPUTS, FEWEST = 64, 24  # that a backward pass is run on
VALUES = 1 << 23  # of all tensors of a run, about: they live at the same time
MOST_VALUES = 1 << 27  # of all runs together, as long as there are more inputs than the fewest
POSITIONS = 1024  # of a layer's outputs in a run
NOISE = 65537  # values of noise of a run; a prime
WIDEST = 1024  # channels: of more the diagonal says enough


def informations(
    network: Network,
    inputs: Mapping[str, Value],
    sizes: Mapping[str, Size],
    *,
    matched: float,
    seed: int,
    pieces: Pieces,
    provider: Provider = CPU,
) -> dict[str, Single]:
    """Layer name → F (O, O) of its outputs in the matched domain, of wide ones its diagonal (O,).

    Layers that no gradient reaches are missing.

    Batch norms are `matched` to their stored statistics as far as in `trace`; `seed` is that of the noise.
    """
    specs, values = input_specs_of(network), _values(network, sizes)
    count = max(FEWEST, min(INPUTS, MOST_VALUES // values))
    chosen = evenly_spaced(sample_count(specs, inputs), count)
    fed = take(specs, inputs, np.concatenate([chosen[::2], chosen[1::2]]))  # of every kind in both halves
    if matched and _norms(network):  # what passes a ReLU there, and how much, differs from the network as it is
        network = trace(network, fed, (), matched=matched, samples=0, seed=seed, pieces=pieces).network
    tensors = {layer.node.outputs[0].name: name for name, layer in network.layers.items()}
    try:
        backward = _Backward(network, fed, sizes, list(tensors), VALUES // values, seed, provider)
        del network
        let_go()
        halves = backward.halves()
        del backward
    except ModelError:  # a node does not take what the pass gives it: then errors count as they are
        return {}
    finally:
        let_go()
    return {tensors[name]: _agreed(name, *halves) for name in list(halves[0])}


def _agreed(tensor: str, first: dict[str, Single], second: dict[str, Single]) -> Single:
    """F of a tensor from the sums of two halves of the inputs, which go; in float32, for it is kept for long."""
    one = first.pop(tensor).astype(np.float64)
    other = second.pop(tensor).astype(np.float64) if tensor in second else np.zeros_like(one)
    return np.asarray(agreed(one, other) if one.ndim > 1 else (one + other) / 2, np.float32)


def _norms(network: Network) -> bool:
    """Whether anything would be matched."""
    return network.has_batch_norms or any(is_norm(node) for node in network.graph.nodes)


def _values(network: Network, sizes: Mapping[str, Size]) -> int:
    """Values of all tensors together, for one sample; at least 1."""
    batch = next((s.batch for s in input_specs_of(network) if s.batch), 1)
    total = sum(math.prod(sizes.get(t.name, ())) for node in network.graph.nodes for t in node.outputs)
    return max(1, total // batch)


class _Backward:
    """A network with its backward pass, and the inputs that it is run on."""

    def __init__(
        self,
        network: Network,
        inputs: Mapping[str, Value],
        sizes: Mapping[str, Size],
        wanted: list[str],
        batch: int,
        seed: int,
        provider: Provider,
    ) -> None:
        model = network.to_model()
        specs = model_specs(model, list(inputs))
        half = sample_count(specs, inputs) // 2  # so that there are two
        self.feeds = cut(specs, inputs, batch=max(1, min(half, batch))).feeds
        self.seed, self.axes = seed, {layer.node.outputs[0].name: layer.axis for layer in network.layers.values()}
        given = with_gradients(model, sizes, wanted)
        self.noise, self.answers, self.slopes = given.noise, given.answers, given.slopes
        content = packed(model)
        del model, given  # the session makes copies of its own
        self.session = open_session(content, provider, 1, spin=False, repacked=False)
        self.gains = dict.fromkeys(self.answers.values(), np.array(1, np.float32))
        if len(self.gains) > 1 or any(len(sizes.get(name, ())) == 3 for name in self.answers):
            self.gains = self._gains()  # else it is a common factor

    def halves(self) -> tuple[dict[str, Single], dict[str, Single]]:
        """Tensor → F (O, O) of its channels, summed over positions, of each half of the inputs."""
        halves: tuple[dict[str, Single], dict[str, Single]] = ({}, {})
        if not self.slopes:  # onnxruntime takes an empty list of outputs for all of them
            return halves
        step = at_once()  # what a run gives is as large as the weights, and waits for no more than these
        for start in range(0, len(self.feeds), step):
            numbers = range(start, min(start + step, len(self.feeds)))
            for number, part in zip(numbers, each(self._run, numbers), strict=True):
                total = halves[number % 2]
                for name, value in part.items():
                    total[name] = np.add(total[name], value, out=total[name]) if name in total else value
            release()
        return halves

    def _run(self, number: int) -> dict[str, Single]:
        """One run's part of every sum."""
        names, slopes = list(self.slopes), list(self.slopes.values())
        values = outputs_of(self.session, slopes, self._feed(number))
        rng = np.random.default_rng([self.seed, number, 1])
        return {name: _outer(value, self.axes[name], rng) for name, value in zip(names, values, strict=True)}

    def _feed(self, number: int) -> dict[str, Value]:
        noise = np.random.default_rng([self.seed, number]).normal(size=NOISE).astype(np.float32)
        return {**self.feeds[number], self.noise: noise, **self.gains}

    def _gains(self) -> dict[str, Value]:
        """Factors that let each answer count as much as another: by its deviation, and by how many values it has."""
        runs = [outputs_of(self.session, list(self.answers), self._feed(i)) for i in range(min(4, len(self.feeds)))]
        found = {}
        for entry, values in zip(self.answers.values(), zip(*runs, strict=True), strict=True):
            whole = [np.asarray(v, np.float64) for v in values]
            kinds = kinds_of(whole)
            factors = [_factor(np.concatenate([v[np.broadcast_to(kind, v.shape)] for v in whole])) for kind in kinds]
            gain = sum(factor * kind for factor, kind in zip(factors, kinds, strict=True))
            found[entry] = np.asarray(gain, np.float32)
        return found


def kinds_of(values: Sequence[Double]) -> list[NDArray[np.bool_]]:
    """What of an answer's values (n, ...) counts together, as masks of its shape or one that spreads to it: mostly all.

    A detector's boxes, in pixels, stand beside its scores and would outweigh them: columns of probabilities, of an
    answer with three axes, count apart from the others.
    """
    if values[0].ndim != 3:
        return [np.array(True)]
    axis = 1 if values[0].shape[1] < values[0].shape[2] else 2
    if len({v.shape[axis] for v in values}) > 1:
        return [np.array(True)]
    rows = np.concatenate([np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in values], axis=1)
    inside = ((rows >= 0) & (rows <= 1)).all(1)
    if inside.all() or not inside.any():
        return [np.array(True)]
    shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
    return [inside.reshape(shape), np.logical_not(inside).reshape(shape)]


def _factor(values: Double) -> float:
    """What lets values (n,) of an answer count as one; 0 where they are all alike, or not finite."""
    spread = float(values.std()) if values.size and np.isfinite(values).all() else 0.0
    return 1 / (spread * math.sqrt(values.size)) if spread > 0 else 0.0


def _outer(slopes: Single, axis: int, rng: np.random.Generator) -> Single:
    """Sum (O, O) of g gᵀ over positions, from as many of them at random; even steps would stay in one column.

    Of many channels only the diagonal (O,).
    """
    rows = np.moveaxis(slopes, axis, 0).reshape(slopes.shape[axis], -1)
    there = rows.shape[1]
    if there > POSITIONS:
        rows = rows[:, rng.integers(0, there, POSITIONS)]
    found = rows @ rows.T if len(rows) <= WIDEST else np.einsum("op,op->o", rows, rows)
    return np.asarray(max(1.0, there / POSITIONS) * found, np.float32)
