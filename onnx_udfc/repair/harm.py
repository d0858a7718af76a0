"""Layers whose quantized activations ruin what the network answers stay in float.

The network, its weights final, runs on a few inputs with any of its tensors quantized or not. With y the answers of no
quantized tensor, z those of some, ȳ the mean of y over the inputs, and sums over inputs and positions of a column c (a
class, a coordinate; see `columns`),

    harm = mean over columns that move of N / (N + S)       N = Σ (y − z)²,  S = Σ (y − ȳ)²

0 where nothing is lost, 1/2 where the error is as large as all that the answers tell. The harm of single tensors adds
up while it is small, so tensors leave by harm per work that becomes float with them (what writes a tensor as integers
and what reads it so leaves with it), and as many leave as make

    10 log₁₀ max(harm, HARMLESS) + PRICE · (multiply-accumulates in float + PAIR · values at their borders) / all

least, harm measured with what is left; none where all of them together do no harm. Values at a border are quantized or
brought back, and laid out anew. So what stands beside them leaves with them as far as fewer values are at the borders
then; and where the first or the last layers leave, what the network takes or gives is no longer quantized or brought
back, which counts as well.

Where more than RUINED is lost, ranges are also taken whole: of a network whose few largest values carry what it tells,
clipped ones lose more. Where more than RUINED is left all the same, time is worth a part of that. In large networks,
whose runs are dear, tensors are taken out in the order of what their grids lose by themselves (see `local_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.emit.placement import INTEGER_OPS, PAIR, TIED
from onnx_udfc.emit.sites import switchable
from onnx_udfc.emit.targets import activation_tensors
from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.model.counts import counts, totals
from onnx_udfc.numerics.products import each
from onnx_udfc.repair.local_loss import losses
from onnx_udfc.runtime.runs import cut, model_specs, outputs_of, sample_count
from onnx_udfc.runtime.sessions import open_session, packed

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnx_udfc.emit.placement import Placement
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.activation_grids import ActivationParams

Double = NDArray[np.float64]
Measure = Callable[["Placement", bool], "Mapping[str, ActivationParams]"]  # the second: whether they are to be exact
Answers = list[Double]

RUINED = 0.3  # harm that leaves little of the answers: 4 dB
CHEAPER = 0.25  # of PRICE, where the answers are ruined
STEPS = (4, 8, 12, 16, 24, 32)  # tensors that are taken out together then
HARMLESS = 0.02  # harm below which nothing is gained by less
PRICE = 40.0  # dB that the time of all of the multiply-accumulates is worth
SAMPLES = 4  # inputs that harm is measured on; at least LEAST of a large network
LEAST = 2
MOST_MACS = 150e9  # of all runs together, beyond LEAST_RUNS
LEAST_RUNS = 8
PASSED = ("Relu", "Clip", *INTEGER_OPS, *TIED)  # nodes that a layer's integers pass
COLUMNS = 128  # an axis of more is no list of classes or coordinates
STILL = 1e-5  # spread, in sizes of a column, that rounding alone makes
NEGLIGIBLE = 0.01  # of the harm of all tensors; what does less stays
STEP = 0.01  # of all multiply-accumulates: options nearer to each other are not told apart
ALONG = 4  # steps that a border is moved on to where fewer values are
SMALL = 1e-3  # share of the multiply-accumulates that even a layer of none costs


@dataclass(frozen=True)
class Option:
    """Some tensors left in float.

    Attributes:
        left: the tensors.
        placement: what is quantized then.
        floated: share of the integer layers' multiply-accumulates that run in float then.
        price: the same with what the values at the borders cost.
    """

    left: frozenset[str]
    placement: Placement
    floated: float
    price: float


class Trial:
    """A network that is run with any of its tensors quantized."""

    def __init__(
        self,
        network: Network,
        placement: Placement,
        grids: Mapping[str, ActivationParams],
        inputs: Mapping[str, NDArray[Any]],
        samples: int,
    ) -> None:
        """Open it.

        The network has the weights that the written codes stand for; so many samples of the inputs are run.

        Raises:
            ModelError: it does not load.
        """
        model, self._flags = switchable(network, placement, grids)
        specs = model_specs(model, list(inputs))
        chosen = evenly_spaced(sample_count(specs, inputs), samples)
        self._runs = cut(specs, take(specs, inputs, chosen), batch=1)
        self._names = [t.name for t in network.graph.outputs if np.dtype(t.dtype or "O").kind == "f"]
        self._tensors = placement.tensors
        self._session = open_session(packed(model), threads=1, spin=False)
        self._exact = self._answers(())

    def harm(self, quantized: Iterable[str]) -> float | None:
        """How much of what the answers tell is lost with these tensors quantized, 0 to 1; None if it is not known."""
        found = [lost(y, z) for y, z in zip(self._exact, self._answers(quantized), strict=True)]
        shares = [share for share in found if share is not None]
        return float(np.mean(shares)) if shares else None

    def _answers(self, quantized: Iterable[str]) -> Answers:
        """Outputs (n, ...) for all samples; those whose sizes differ from run to run are empty."""
        names = set(quantized)
        flags = np.array([tensor in names for tensor in self._tensors])
        runs = each(lambda x: outputs_of(self._session, self._names, x | {self._flags: flags}), self._runs.feeds)
        columns = [[np.asarray(o, np.float64) for o in column] for column in zip(*runs, strict=True)]
        alike = [all(o.ndim and o.shape[1:] == c[0].shape[1:] for o in c) for c in columns]
        count = self._runs.samples
        return [np.concatenate(c)[:count] if ok else np.zeros(0) for c, ok in zip(columns, alike, strict=True)]


def lost(y: Double, z: Double) -> float | None:
    """Mean of N / (N + S) over the columns of an output (n, ...) that move; None where none does."""
    if y.shape != z.shape or len(y) < LEAST or not np.isfinite(y).all():
        return None
    if not np.isfinite(z).all():
        return 1.0
    a, b = columns(y), columns(z)
    signal = np.square(a - a.mean(0)).sum((0, 1))
    moving = signal > STILL**2 * np.square(a).sum((0, 1))
    if not moving.any():
        return None
    noise = np.square(a - b).sum((0, 1))[moving]
    return float((noise / (noise + signal[moving])).mean())


def columns(values: Double) -> Double:
    """An output (n, ...) as (n, positions, columns): its shortest axis behind the first, where there are several."""
    if values.ndim < 3:
        return values.reshape(len(values), -1, 1)
    axis = min(range(1, values.ndim), key=lambda i: values.shape[i])
    if values.shape[axis] > COLUMNS:
        return values.reshape(len(values), -1, 1)
    moved = np.moveaxis(values, axis, -1)
    return moved.reshape(len(values), -1, moved.shape[-1])


def spared(
    network: Network,
    layers: Sequence[str],
    target: str,
    placement: Placement,
    grids: Mapping[str, ActivationParams],
    inputs: Mapping[str, NDArray[Any]],
    floated: frozenset[str] = frozenset(),
    measure: Measure | None = None,
) -> Placement:
    """The placement less what ruins the network's answers; as it was where nothing does, or nothing can be measured.

    Args:
        network: with the weights that the written codes stand for.
        layers: with quantized weights.
        target: of the file.
        placement: where activations are quantized.
        grids: of `placement.tensors`.
        inputs: graph input name → values.
        floated: tensors that are left in float already, and stay so.
        measure: gives the grids of a placement: of one that clips nothing, and exact ones for what is behind tensors
            that ruin the answers.
    """
    sizes = resolve(network, network.sizes).sizes
    counted = counts(network.layers, sizes)
    macs, total = {name: float(counted[name].macs) for name in placement.integer}, totals(counted).macs
    total += PAIR * sum(math.prod(sizes.get(tensor, ())) for tensor in placement.sites)
    samples = int(np.clip(MOST_MACS / max(1, total * len(placement.tensors)), LEAST, SAMPLES))
    try:
        trial = Trial(network, placement, grids, inputs, samples)
        before = trial.harm(placement.tensors)
        if before is None or before <= HARMLESS:
            return placement
        if before > RUINED and measure:
            whole = replace(placement, whole=True)
            unclipped = Trial(network, whole, measure(whole, False), inputs, samples)
            found = unclipped.harm(placement.tensors)
            if found is not None and found < before:
                trial, before, placement = unclipped, found, whole
        runs = int(MOST_MACS / max(1, total * samples))
        harms = harms_of(trial, placement.tensors, before, max(LEAST_RUNS, runs * 2 // 3))
        around = {tensor: math.prod(sizes.get(tensor, ())) for tensor in placement.sites}
        choices = Choices(network, layers, target, placement, macs, around, floated)
        options = choices.growing(harms)
        kept = evenly_spaced(len(options), max(LEAST_RUNS // 2, runs // 3))
        best, after = _best(trial, [options[i] for i in kept], before, None, PRICE)
        if after > RUINED:
            exact = measure(placement, True) if measure else grids
            del trial
            trial = Trial(network, placement, exact, inputs, samples)
            best, after = _rescued(trial, best, losses(network, placement, exact, inputs), choices)
    except ModelError:  # an operator that onnxruntime lacks, or values that it does not run on
        return placement
    return placement if best is None else _explained(best, before, after, placement.reason)


def harms_of(trial: Trial, tensors: Sequence[str], harm: float, runs: int) -> dict[str, float]:
    """Harm of each of some tensors, found by halving the most harmful group again and again.

    A group that does little, or that there are no runs left to halve, is taken to do its harm in equal parts.
    `harm` is that of all of them; at most so many `runs` of the network are made.
    """
    groups = [(harm, tuple(tensors))]
    for _ in range(runs // 2):
        of, group = max(groups, key=lambda g: g[0] if len(g[1]) > 1 else 0.0)
        if len(group) == 1 or of <= NEGLIGIBLE * harm:
            break
        groups.remove((of, group))
        halves = group[: len(group) // 2], group[len(group) // 2 :]
        groups += [(trial.harm(half) or 0.0, half) for half in halves]
    shares = {tensor: of / len(group) for of, group in groups for tensor in group}
    return {tensor: shares[tensor] for tensor in tensors}


@dataclass(frozen=True)
class Choices:
    """What may be left in float, and what comes of it.

    Attributes:
        network: with the weights that the written codes stand for.
        layers: with quantized weights.
        target: of the file.
        placement: where activations are quantized.
        macs: layer that runs as integers → its multiply-accumulates.
        values: quantized tensor → how many it has.
        floated: tensors that are left in float already, and stay so.
    """

    network: Network
    layers: Sequence[str]
    target: str
    placement: Placement
    macs: Mapping[str, float]
    values: Mapping[str, int]
    floated: frozenset[str] = frozenset()

    def option(self, tensors: Iterable[str]) -> Option:
        """What comes of leaving some tensors in float beside those that are left already."""
        total = max(sum(self.macs.values()), 1.0)
        left = self.placement.on_grid(frozenset(tensors)) | self.floated
        found = _within(activation_tensors(self.network, self.layers, self.target, left), self.placement)
        share = sum(self.macs.get(name, 0.0) for name in found.kept) / total
        crossing, before = (
            sum(self.values[t] for t in borders(self.network, p) | ends(self.network, p))
            for p in (found, self.placement)
        )
        return Option(left, found, share, share + PAIR * max(0, crossing - before) / total)

    def closed(self, tensors: Iterable[str]) -> Option:
        """Some tensors left in float, and those beside them as far as the rest is cheaper."""
        found = self.option(tensors)
        while True:
            moved = [self._moved(found, border) for border in sorted(borders(self.network, found.placement))]
            cheapest = min(moved, key=lambda one: one.price, default=found)
            if cheapest.price >= found.price:
                return found
            found = cheapest

    def _moved(self, found: Option, border: str) -> Option:
        """The cheapest of what comes of moving one border on, a step after another."""
        options, added = [found], {border}
        while added and len(options) <= ALONG:
            known = borders(self.network, options[-1].placement)
            options.append(self.option(options[-1].left | added))
            added = borders(self.network, options[-1].placement) - known
        return min(options[1:], key=lambda one: one.price)

    def growing(self, harms: Mapping[str, float]) -> list[Option]:
        """The tensor of most harm for its cost, the first two of them, ..., each with what stands beside them.

        Each option has all that the one before has.
        """
        harmful = [tensor for tensor in harms if harms[tensor] > NEGLIGIBLE * sum(harms.values())]
        worth = {tensor: harms[tensor] / (self.option([tensor]).price + SMALL) for tensor in harmful}
        options: list[Option] = []
        for tensor in sorted(harmful, key=lambda tensor: -worth[tensor]):
            left = options[-1].left if options else frozenset()
            if tensor not in left:
                options.append(self.closed([*left, tensor]))
        steps = [int(o.price / STEP) for o in options]
        return [o for o, step, after in zip(options, steps, [*steps[1:], -1], strict=True) if step != after]


def _rescued(
    trial: Trial, best: Option | None, lost_in: Mapping[str, float], choices: Choices
) -> tuple[Option | None, float]:
    """What is left in float where the answers are ruined, and the harm that is left; `best` if nothing helps."""
    found = trial.harm(best.placement.tensors if best else lost_in)
    before = 1.0 if found is None else found
    worst = sorted(lost_in, key=lambda tensor: -lost_in[tensor])
    tried = [choices.closed(worst[:step]) for step in STEPS if step < len(worst)]
    return _best(trial, tried, before, best, PRICE * CHEAPER)


def _best(
    trial: Trial, options: Sequence[Option], before: float, best: Option | None, rate: float
) -> tuple[Option | None, float]:
    """The option of the least cost, or the best until now, and the harm that is left.

    `before` is the harm of the best until now; `best` is None for none. The time of all of the multiply-accumulates is
    worth `rate` dB.
    """
    least, left = _cost(before, best.price if best else 0.0, rate), before
    for option in options:
        if rate * option.price >= least - _cost(0.0, 0.0, rate):
            continue
        harm = trial.harm(option.placement.tensors)
        if harm is not None and _cost(harm, option.price, rate) < least:
            best, least, left = option, _cost(harm, option.price, rate), harm
    return best, left


def _cost(harm: float, price: float, rate: float) -> float:
    """In dB."""
    return 10 * float(np.log10(max(harm, HARMLESS))) + rate * price


def _within(found: Placement, known: Placement) -> Placement:
    """A placement less what another one leaves in float.

    A product that has got a bias since that one was made would be quantized behind its bias.
    """
    found = replace(found, whole=known.whole)
    if all(tensor in known.sites for tensor in found.sites):
        return found
    sites = {tensor: readers for tensor, readers in found.sites.items() if tensor in known.sites}
    return replace(
        found,
        sites=sites,
        tied={tensor: grid for tensor, grid in found.tied.items() if tensor in sites},
        caps={tensor: cap for tensor, cap in found.caps.items() if tensor in sites},
        float_outputs=tuple(n for n in found.integer if n in (*found.float_outputs, *known.float_outputs)),
    )


def borders(network: Network, placement: Placement) -> set[str]:
    """The quantized tensors that stand next before or behind a layer that is kept in float."""
    nodes = {node.name: node for node in network.graph.nodes}
    found: set[str] = set()
    for name in placement.kept:
        found |= _next(nodes[name].inputs[:1], placement, network, "inputs")
        found |= _next(nodes[name].outputs, placement, network, "outputs")
    return found


def ends(network: Network, placement: Placement) -> set[str]:
    """The quantized tensors next to what the network takes and gives."""
    taken = _next(network.graph.inputs, placement, network, "outputs")
    return taken | _next(network.graph.outputs, placement, network, "inputs")


def _next(
    tensors: Sequence[gs.Tensor], placement: Placement, network: Network, side: Literal["inputs", "outputs"]
) -> set[str]:
    """The first quantized tensors that are met from some tensors on, towards the network's inputs or its outputs.

    Not beyond other layers, nor beyond nodes that integers never pass: there a border is anyway.
    """
    found, seen, waiting = set[str](), set[str](), list(tensors)
    while waiting:
        tensor = waiting.pop()
        if tensor.name in placement.sites:
            found.add(tensor.name)
        elif tensor.name not in seen:
            further = [n for n in getattr(tensor, side) if n.name not in network.layers and n.op in PASSED]
            waiting += [t for node in further for t in getattr(node, side)]
        seen.add(tensor.name)
    return found


def _explained(option: Option, before: float, after: float, known: str) -> Placement:
    """The placement with the reason for what it leaves in float, behind one that is known already."""
    reason = (
        f"for the sake of the outputs: their quantized activations would lose {before:.2g} of what the outputs tell,"
        f" in place of {after:.2g}; {option.floated:.1%} of the multiply-accumulates of integer layers"
    )
    return replace(option.placement, reason=f"{known}; {reason}" if known else reason)
