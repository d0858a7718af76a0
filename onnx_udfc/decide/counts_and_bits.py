"""From what the user asks for to channel counts, ranks and bits: ratios, budgets, or both."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.channels.prune import prune
from onnx_udfc.decide.allocate import (
    BLOCKS,
    FOUR,
    Align,
    aligned,
    alignments,
    allowed_counts,
    damage_of,
    finest,
    finest_near,
    group_levels,
    keep_sets,
    left_by,
    why_whole,
)
from onnx_udfc.decide.asked import AUTO_WIDTHS, Decision, Plan, Subject, prunable
from onnx_udfc.decide.file_size import CORRECTIONS, file_size, with_biases, written, written_bytes
from onnx_udfc.decide.first_layers import integer_placement
from onnx_udfc.decide.footprint import Footprint, footprint
from onnx_udfc.decide.integer_layers import OnIntegers, fills_blocks, liked_anywhere, saving_of
from onnx_udfc.decide.latency_table import Times, Timing, latency_table, layer_times, measured_ratio
from onnx_udfc.decide.plan import plan_of, removals
from onnx_udfc.decide.ranks import Ranks, Saving, rank_levels, saved_macs, saved_weights
from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.errors import RequestError
from onnx_udfc.model.factored import Factor, bits_of_parts, factor
from onnx_udfc.model.layers import residual_operand
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.names import matches
from onnx_udfc.numerics.elimination import MEASURED
from onnx_udfc.numerics.grids import width_of
from onnx_udfc.numerics.knapsack import Demand, Levels, Meter, UnreachableError, levels, solve, take_back_from
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options.words import FLOAT
from onnx_udfc.runtime.providers import asked_provider

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.model.files import LoadedModel
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Budget, Options
    from onnx_udfc.repair.reference import Reference

Double = NDArray[np.float64]

BITS_FIRST = 1e-6  # weighs rounding so that channels go only when all layers are narrow: it was always less harmful
COARSE, FEW_BITS = 0.1, 3  # the same for fewer bits than this, which do harm channels might do less of
# What a lost channel does beside a lost rank of the same error: it is lost to all layers behind, or in its block alone.
CHANNELS_HARDER, HARDER_IN_BLOCKS = 4.0, 2.0
SLACK, MUCH = 0.01, 0.03  # room that is worth a count less aligned, and one that is not aligned
DEARER = 1.02  # damage, of that of counts as near as may be, at which counts that are quicker are taken
FINEST = 256  # steps of an equal ratio
_LEAST = 1e-9  # above the least that is predicted: the least again
_WITHIN = {"bytes": (0.99, 1.0), "latency": (0.97, 1.01)}  # of the limit: what is near enough


def make_plan(
    network: Network, channels: Channels, loaded: LoadedModel, options: Options, seen: Reference | None = None
) -> Plan:
    """Decide what every group keeps and every layer gets.

    Budgets are of the size and the time of the original as it was loaded; `seen` is a run of the network, where what
    channels, ranks and bits cost was measured.

    Raises:
        RequestError: the budget cannot be met.
    """
    groups = prunable(channels, options)
    orders = removals(network, groups, options, {} if seen is None else seen.removals)
    left = layers_meant(options.skip, network)
    layers = tuple(name for name in network.layers if name not in left)
    rounding, curves = ({}, {}) if seen is None else (seen.rounding, seen.curves)
    subject = Subject(network, channels, groups, orders, layers, rounding, loaded.bytes, curves, loaded.model)
    return plan_of(subject, decide(subject, options), options)


def decide(subject: Subject, options: Options) -> Decision:
    """Channel counts and bits.

    Raises:
        RequestError: no choice meets the budgets; says what the smallest is.
    """
    ratios = {g.name: options.prune for g in subject.groups} | _named_ratios(subject.groups, options)
    budgets = options.budgets()
    free = subject.groups or subject.curves
    if not budgets and (_even(options) or not free or options.prune_layer):
        return _by_ratios(subject, ratios, options)
    return _Decider(subject, options).decide(budgets)


def _by_ratios(subject: Subject, ratios: Mapping[str, float], options: Options) -> Decision:
    """Every group loses its ratio, every layer gets the same bits."""
    bits: dict[str, float] = (
        {} if options.bits in ("auto", 32) else dict.fromkeys(subject.layers, width_of(options.bits))
    )
    wanted = {g.name: left_by(g, ratios[g.name]) for g in subject.groups}
    aligns = alignments(subject.groups, subject.network.layers, options.alignment)
    counts = {g.name: aligned(g, wanted[g.name], aligns[g.name]) for g in subject.groups}
    whole = [g for g in subject.groups if counts[g.name] == g.channels]
    why = {
        g.name: why_whole(g, wanted[g.name], aligns[g.name]) if ratios[g.name] else "no ratio was asked for it"
        for g in whole
    }
    return Decision(counts, bits, why)


def _named_ratios(groups: Sequence[ChannelGroup], options: Options) -> dict[str, float]:
    """Ratios of the groups whose producers the user gave one of their own."""
    ratios: dict[str, float] = {}
    for pattern, ratio in options.prune_layer.items():
        named = tuple(g for g in groups if any(matches(name, (pattern,)) for name in (g.name, *g.producers)))
        if not named:
            raise RequestError(
                f"--prune-layer {pattern}: no layer of this name writes channels that can go; see onnx-udfc inspect"
            )
        ratios |= {group.name: ratio for group in named}
    return ratios


def _even(options: Options) -> bool:
    """Whether every group gets the same ratio; `auto` chooses freely where there is a budget or damage was measured."""
    measured = METHODS[options.method].measured and options.select in (None, *MEASURED)
    return options.allocate == "uniform" or (options.allocate == "auto" and not (options.budget or measured))


class _Decider:
    """The variables: kept channels of all groups, then levels of rank and then bits of all layers."""

    def __init__(self, subject: Subject, options: Options) -> None:
        self.subject, self.options = subject, options
        self.size: Footprint = footprint(subject.network, subject.channels, subject.groups)
        self.split = len(subject.groups)
        self.on_integers = options.activations is not None and not TARGETS[options.target].gpu
        self.bits_at = self.split + len(subject.network.layers)
        self.times = self._layer_times() if "latency" in options.budget else None
        sizes = subject.channels.shapes.sizes
        self.ranks: Ranks = rank_levels(subject.network, sizes, self.size, subject.curves, *self._saving())
        self.free = options.bits == "auto"
        self.streams = options.prune_stream == "on"  # else only where nothing else meets the limits
        self.aligns = alignments(subject.groups, subject.network.layers, options.alignment)
        self.table = self._levels(self.aligns)

    def _layer_times(self) -> Times:
        subject = self.subject
        splits = {name: [c.split for c in curves] for name, curves in subject.curves.items()}
        integers = None
        if self.on_integers and self._timing().provider.name == "cpu":
            bits = dict.fromkeys(subject.layers, 8.0)  # fewer take the same time
            run = integer_placement(subject.network, bits, self.options.target).integer
            integers = OnIntegers(frozenset(run), self._written(subject.network, bits))
        return layer_times(subject.network, subject.channels, self.size, splits, self._timing(), integers, subject.file)

    def _timing(self) -> Timing:
        options = self.options
        return Timing(options.threads or 1, asked_provider(options), options.batch)

    def _written(self, network: Network, bits: Mapping[str, float]) -> onnx.ModelProto:
        return written(with_biases(network), bits, self.options)

    def _saving(self) -> tuple[Saving, float]:
        """What a split is to save: time, multiply-accumulates or weights, whatever is asked for first; all of these."""
        if self.times is not None:
            timed = self.times.saved
            return saving_of(timed, fills_blocks) if self.times.on_integers else timed, np.inf
        saving, whole = saved_weights(self.size), self._params_meter()[1]
        if "macs" in self.options.budget or not self.options.budget:
            saving = saved_macs(self.subject.network, self.subject.channels.shapes.sizes, self.size)
            whole = self._macs_meter()[1]
        return saving_of(saving, liked_anywhere) if self.on_integers else saving, whole

    def decide(self, budgets: Sequence[Budget]) -> Decision:
        """Solve, look at what really comes out, and move the limits until it fits."""
        demands = [self._demand(b) for b in budgets]
        if self.options.prune > 0 and self.subject.groups:
            demands.append(Demand("macs", self._goal(self.options.prune), self._macs_meter()[0]))
        return self._decision(self._corrected(demands, self._blocked(demands)))

    def _blocked(self, demands: Sequence[Demand]) -> Double:
        """Values (V,) near the limits, of blocks as large as do little more damage than free counts.

        Only where time is to be saved, or multiply-accumulates for its sake.
        """
        free = self._nearest(demands)
        timed = any(d.key in ("macs", "latency") for d in demands) and not _even(self.options)
        if self.options.alignment != "auto" or not self.split or not timed:
            return free
        before = self.aligns, self.table, self.streams
        for block in BLOCKS:
            self.aligns = dict.fromkeys(self.aligns, block)
            self.table = self._levels(self.aligns)
            with suppress(RequestError):
                values = self._nearest(demands)
                used = any(float(d.size(values)) >= (1 - MUCH) * d.limit for d in demands)
                if used and self.streams == before[-1] and self._damage(values) <= DEARER * self._damage(free):
                    return values
            self.aligns, self.table, self.streams = before
        return free

    @property
    def in_blocks(self) -> bool:
        """Whether all counts are multiples of 4 at least."""
        return all(align in BLOCKS for align in self.aligns.values())

    def _levels(self, aligns: Mapping[str, Align]) -> Levels:
        rows = group_levels(self.subject.groups, self.subject.removals, aligns)
        rows = [(n, self._weight(g) * d) for (n, d), g in zip(rows, self.subject.groups, strict=True)]
        held = [not self.streams and group.kind == "stream" for group in self.subject.groups]
        rows = [(n[:1], d[:1]) if hold else (n, d) for (n, d), hold in zip(rows, held, strict=True)]
        return levels([*rows, *self._rank_rows(reserve=False), *self._bit_rows()])

    def _rank_rows(self, *, reserve: bool) -> list[tuple[Double, Double]]:
        """Levels of rank of each layer, those in reserve too where that is wanted."""
        pairs = zip(self.ranks.damage, self.ranks.reserved, strict=True)
        taken = [(np.flatnonzero(reserve | ~reserved), damage) for damage, reserved in pairs]
        return [(at.astype(np.float64), damage[at]) for at, damage in taken]

    def _weight(self, group: ChannelGroup) -> float:
        """How dear a channel is beside ranks: cheaper where all that read it only add to a residual stream."""
        if not self.subject.curves:
            return 1.0
        network = self.subject.network
        outputs = {tensor.name for tensor in network.graph.outputs}
        added = [residual_operand(network.layers[name], outputs) for name in group.consumers if name in network.layers]
        return HARDER_IN_BLOCKS if added and None not in added else CHANNELS_HARDER

    def _bit_rows(self) -> list[tuple[Double, Double]]:
        """Bits of each layer of the network: free ones start at the widest."""
        rows = []
        for name in self.subject.network.layers:
            if name not in self.subject.layers:
                rows.append((np.array([32.0]), np.zeros(1)))
            elif self.free:
                found = self.subject.rounding.get(name, {})
                damage = [(BITS_FIRST if b >= FEW_BITS else COARSE) * found.get(b, 4.0**-b) for b in AUTO_WIDTHS]
                rows.append((np.array(AUTO_WIDTHS, np.float64), np.array(damage) - damage[0]))
            else:
                rows.append((np.array([float(width_of(self.options.bits))]), np.zeros(1)))
        return rows

    def _demand(self, budget: Budget) -> Demand:
        meter, whole = getattr(self, f"_{budget.key}_meter")()
        return Demand(budget.key, budget.limit(whole), meter)

    def _parts(self, values: Double) -> tuple[Double, Double, Double]:
        """Kept channels (..., G), levels of rank (..., L) and bits (..., L)."""
        return values[..., : self.split], values[..., self.split : self.bits_at], values[..., self.bits_at :]

    def _macs_meter(self) -> tuple[Meter, float]:
        return (lambda v: self.ranks.macs(*self._parts(v)[:2])), float(self.size.macs(self.size.channels))

    def _params_meter(self) -> tuple[Meter, float]:
        return (lambda v: self.ranks.params(*self._parts(v)[:2])), float(self.size.params(self.size.channels))

    def _bytes_meter(self) -> tuple[Meter, float]:
        bits = self.options.bits
        widths: tuple[float, ...] = AUTO_WIDTHS if self.free else () if bits == FLOAT else (width_of(bits),)
        file = file_size(self.subject.network, self.ranks, widths, self.options)
        return (lambda v: file.bytes(*self._parts(v))), float(self.subject.bytes)

    def _latency_meter(self) -> tuple[Meter, float]:
        assert self.times is not None
        times = latency_table(self.times, self.ranks)
        return (lambda v: times.ratio(*self._parts(v)[:2])), 1.0

    def _solved(self, demands: Sequence[Demand]) -> Double:
        if _even(self.options) and not self.free:
            return self._uniform(demands)
        try:
            chosen = solve(self.table, demands)
        except UnreachableError as error:
            if self.streams or not any(group.kind == "stream" for group in self.subject.groups):
                raise self._impossible(error.demand, error.least) from error
            self.streams = True
            self.table = self._levels(self.aligns)
            return self._solved(demands)
        values = self._spared(self._filled(self.table.at(chosen), demands), demands)
        if not self.free and not self.subject.curves:
            values = self._not_worse(values, demands)
        return values

    def _spared(self, values: Double, demands: Sequence[Demand]) -> Double:
        """Ranks that lose less, of those in reserve, where the last step saved far more than was asked for."""
        if not any(reserved.any() for reserved in self.ranks.reserved):
            return values
        rows = [(np.array([value]), np.zeros(1)) for value in values]
        rows[self.split : self.bits_at] = self._rank_rows(reserve=True)
        return take_back_from(levels(rows), demands, values)

    def _filled(self, values: Double, demands: Sequence[Demand]) -> Double:
        """Use up what alignment left over, where the user did not ask for a multiple."""
        if self.options.align != "auto" or not self.split:
            return values
        if self.in_blocks:
            return self._refilled(values, demands, dict.fromkeys(self.aligns, FOUR), SLACK)
        fine: dict[str, Align] = {g.name: finest_near(self.aligns[g.name], g.channels) for g in self.subject.groups}
        values = self._refilled(values, demands, fine, SLACK)
        return self._refilled(values, demands, {name: finest(align) for name, align in self.aligns.items()}, MUCH)

    def _refilled(self, values: Double, demands: Sequence[Demand], aligns: Mapping[str, Align], slack: float) -> Double:
        """Steps are taken back, each to the next count that is aligned like this, until so much is left."""
        return take_back_from(self._levels(aligns), demands, values, slack)

    def _not_worse(self, values: Double, demands: Sequence[Demand]) -> Double:
        """Equal ratios, if they do less damage within the same limits."""
        try:
            even = self._uniform(demands)
        except RequestError:
            return values
        return even if self._damage(even) < self._damage(values) else values

    def _damage(self, values: Double) -> float:
        """That of lost channels and ranks (V,)."""
        subject = self.subject
        counts, ranks, _ = self._parts(values)
        channels = [
            self._weight(g) * float(damage_of(g, subject.removals[g.name], np.array([n]))[0])
            for g, n in zip(subject.groups, counts, strict=True)
        ]
        return sum(channels) + sum(float(d[int(k)]) for d, k in zip(self.ranks.damage, ranks, strict=True))

    def _uniform(self, demands: Sequence[Demand]) -> Double:
        """Equal ratios, the smallest of a fine grid that meets the demands."""

        def at(step: int) -> Double:
            counts = self._counted(self._aligned(self._left(step / FINEST)))
            return np.concatenate([counts, self.table.values[self.split :, 0]])

        def missed(step: int) -> list[Demand]:
            return [d for d in demands if float(d.size(at(step))) > d.limit]

        unmet = missed(FINEST)
        if unmet:
            raise self._impossible(unmet[0], float(unmet[0].size(at(FINEST))))
        return at(bisect_left(range(FINEST), True, key=lambda step: not missed(step)))

    def _goal(self, ratio: float) -> float:
        """What free counts may leave of the work: what an alignment takes beyond the ratio was not asked for."""
        left = self._left(ratio)
        return max(float(self.size.macs(self._counted(counts))) for counts in (left, self._aligned(left)))

    def _left(self, ratio: float) -> dict[str, int]:
        free = [(g, self.streams or g.kind != "stream") for g in self.subject.groups]
        return {g.name: max(1, left_by(g, ratio)) if f else g.channels for g, f in free}

    def _aligned(self, left: Mapping[str, int]) -> dict[str, int]:
        aligns = self.aligns
        if self.options.budget:  # meet it closely
            aligns = {name: FOUR if self.in_blocks else finest(align) for name, align in aligns.items()}
        return {g.name: aligned(g, left[g.name], aligns[g.name]) for g in self.subject.groups}

    def _counted(self, counts: Mapping[str, int]) -> Double:
        return np.array([counts[g.name] for g in self.subject.groups], np.float64)

    def _decision(self, values: Double) -> Decision:
        counts = {g.name: int(n) for g, n in zip(self.subject.groups, values, strict=False)}
        _, ranks, widths = self._parts(values)
        plain = (int(b) if b.is_integer() else float(b) for b in widths)
        bits = {name: b for name, b in zip(self.subject.network.layers, plain, strict=True) if b != FLOAT}
        whole = [g for g in self.subject.groups if counts[g.name] == g.channels]
        why = {g.name: self._why_whole(g) for g in whole}
        return Decision(counts, bits, why, self._worthwhile(values, ranks))

    def _worthwhile(self, values: Double, ranks: Double) -> dict[str, Factor]:
        """The splits that make their layer smaller with the channels that it keeps."""
        out, into = self.size.lengths(values[: self.split])
        lengths = dict(zip(self.size.layers, zip(out, into, self.size.kernel, strict=True), strict=True))
        chosen = self.ranks.chosen(ranks)
        whole = {name: float(np.prod(lengths[name])) for name in chosen}
        return {n: f for n, f in chosen.items() if f.parameters(int(lengths[n][0]), int(lengths[n][1])) < whole[n]}

    def _why_whole(self, group: ChannelGroup) -> str:
        if not self.streams and group.kind == "stream":
            return "a residual stream goes only where nothing else meets the limits; --prune-stream on prunes it, too"
        align = self.aligns[group.name]
        if len(allowed_counts(group, align)) == 1:
            return why_whole(group, 1, align)
        return "what was asked for is reached without it"

    def _corrected(self, demands: Sequence[Demand], values: Double) -> Double:
        """Values (V,) that meet the limits in truth, too, from values that are predicted to.

        Where a prediction is off, its limit is moved by as much, but not beyond what is known to be too much or too
        little. All limits are looked at in every round, since what one of them moves, moves the others.
        """
        asked, moved = [d for d in demands if d.key in _WITHIN], list(demands)
        best: tuple[float, Double] | None = None
        spans = {d.key: _Span() for d in asked}
        for _ in range(CORRECTIONS if asked else 0):
            true = self._true([d.key for d in asked], values)
            used = [true[d.key] / d.limit for d in asked]
            fits = all(share <= _WITHIN[d.key][1] for d, share in zip(asked, used, strict=True))
            if fits and (best is None or max(used) > best[0]):
                best = (max(used), values)
            if fits and any(share >= _WITHIN[d.key][0] for d, share in zip(asked, used, strict=True)):
                break
            moved = [
                spans[d.key].next(m, d, float(d.size(values)), true[d.key]) if d in asked else d
                for m, d in zip(moved, demands, strict=True)
            ]
            try:
                again = self._solved(moved)
            except RequestError:
                break
            if np.array_equal(again, values):
                break
            values = again
        if asked and best is None:
            worst = int(np.argmax(used))
            raise self._impossible(asked[worst], true[asked[worst].key])
        return values if best is None else best[1]

    def _nearest(self, demands: Sequence[Demand]) -> Double:
        """As `_solved`; but a latency that nothing is predicted to meet is a guess: as little as there is, then."""
        try:
            return self._solved(demands)
        except RequestError as error:
            cause = error.__cause__
            if not isinstance(cause, UnreachableError) or cause.demand.key != "latency":
                raise
            least = cause.least * (1 + _LEAST)
            return self._solved([replace(d, limit=least) if d.key == "latency" else d for d in demands])

    def _true(self, keys: Sequence[str], values: Double) -> dict[str, float]:
        """What really comes out: the size of the file in bytes, the ratio of latencies."""
        decision = self._decision(values)
        keep = keep_sets(self.subject.groups, self.subject.removals, decision.counts)
        small = prune(self.subject.network, self.subject.channels, keep).network
        names = factor(small, decision.factors)
        found, bits = {}, bits_of_parts(decision.bits, names)
        if "bytes" in keys:
            found["bytes"] = float(written_bytes(with_biases(small), bits, self.options))
        if "latency" in keys:
            other = self.options.float16 or (self.times is not None and self.times.on_integers)
            model = self._written(small, bits) if other else None  # other kernels than float ones
            found["latency"] = measured_ratio(self.subject.network, small, self._timing(), model, self.subject.file)
        return found

    def _impossible(self, demand: Demand, least: float) -> RequestError:
        asked = self.options.budget.get(demand.key, f"{demand.limit:g}")
        whole = {
            "macs": float(self.size.macs(self.size.channels)),
            "params": float(self.size.params(self.size.channels)),
            "bytes": float(self.subject.bytes),
        }.get(demand.key, 1.0)
        amount = "" if demand.key == "latency" else f" ({least:,.0f})"
        hint = "; fewer --bits make the file smaller" if demand.key == "bytes" and self.options.bits == 32 else ""
        return RequestError(
            f"--budget {demand.key}={asked}: the smallest that can be reached is {_up(least / whole)}{amount}{hint}"
        )


@dataclass
class _Span:
    """What is known of the limit on a prediction under which the truth meets what was asked for.

    Attributes:
        low: The largest that was tried and met it.
        high: The smallest prediction that did not.
    """

    low: float = 0.0
    high: float = np.inf

    def next(self, tried: Demand, asked: Demand, predicted: float, true: float) -> Demand:
        """The limit to try next: off by as much as the prediction was, or between those known, where that is not."""
        share = _WITHIN[asked.key]
        if true <= share[1] * asked.limit:
            self.low = max(self.low, tried.limit)
        else:
            self.high = min(self.high, predicted)
        limit = asked.limit * sum(share) / 2 * predicted / max(true, 1e-30)
        if not self.low < limit < self.high and 0 < self.low < self.high < np.inf:
            limit = float(np.sqrt(self.low * self.high))
        return replace(asked, limit=limit)


def _up(share: float) -> str:
    """A fraction rounded up to four digits, so that asking for it succeeds."""
    return f"{np.ceil(share * 1e4) / 1e4:.4g}"
