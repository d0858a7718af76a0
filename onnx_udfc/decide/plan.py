"""What is to be done to each layer, decided before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.groups import ChannelGroup, Channels
from onnx_udfc.decide.allocate import keep_sets
from onnx_udfc.decide.counts_and_bits import Subject, decide
from onnx_udfc.errors import RequestError
from onnx_udfc.model.names import matches
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.elimination import CRITERIA, MEASURED, Removal, removal_by_score
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options import Options
from onnx_udfc.repair.absorb import producer_of

FLOAT = 32


@dataclass(frozen=True)
class Plan:
    """The decision.

    Attributes:
        keep: group name → sorted channels that stay, for the groups that lose some.
        bits: layer name → weight bits, for the layers that are quantized.
        reasons: group name → why it stays whole.
    """

    keep: Mapping[str, NDArray[np.int64]]
    bits: Mapping[str, float]
    reasons: Mapping[str, str]


def prunable(channels: Channels, options: Options) -> tuple[ChannelGroup, ...]:
    """The groups that may lose channels: residual streams only where asked for, or where time is to be saved."""
    if not options.prunes:
        return ()
    streams = options.prune_stream == "on" or (options.prune_stream == "auto" and "latency" in options.budget)
    return tuple(g for g in channels.groups if g.kind == "inner" or streams)


def removals(
    network: Network, groups: tuple[ChannelGroup, ...], options: Options, measured: Mapping[str, Removal]
) -> dict[str, Removal]:
    """Nested order of removal of each group, by the criterion asked for.

    Args:
        network: the original.
        groups: to be ordered.
        options: `select` and `method` are read.
        measured: orders from moments, where there are any; a group that has none is ordered by its weights.

    Raises:
        RequestError: the criterion is unknown, or needs moments that the method does not have.
    """
    name = options.select or METHODS[options.method].selection
    if name not in CRITERIA and name not in MEASURED:
        raise RequestError(f"--select {name}: must be one of {', '.join([*CRITERIA, *MEASURED])}")
    if name in MEASURED and not METHODS[options.method].measured:
        raise RequestError(f"--select {name} needs --method moments, which runs the network; or take --select l2")
    score = CRITERIA["l2" if name in MEASURED else name]
    return {
        g.name: measured[g.name] if name in MEASURED and g.name in measured else _by_weights(network, g, score)
        for g in groups
    }


def _by_weights(network: Network, group: ChannelGroup, score: object) -> Removal:
    assert callable(score)
    return removal_by_score(score(producer_of(network, group)))


def make_plan(
    network: Network,
    channels: Channels,
    groups: tuple[ChannelGroup, ...],
    orders: Mapping[str, Removal],
    options: Options,
    rounding: Mapping[str, Mapping[float, float]] | None = None,
    file_bytes: int = 0,
) -> Plan:
    """Decide what every group keeps and every layer gets.

    Args:
        network: the original.
        channels: its channels.
        groups: those that may lose some.
        orders: their nested orders of removal.
        options: what was asked for.
        rounding: layer name → bits → damage, for `--bits auto`.
        file_bytes: size of the original's file, for budgets in bytes.

    Raises:
        RequestError: the budget cannot be met.
    """
    layers = tuple(name for name in network.layers if not skipped(name, options))
    decision = decide(Subject(network, channels, groups, orders, layers, rounding or {}, file_bytes), options)
    keep = keep_sets(groups, orders, decision.counts)
    reasons = {g.name: _why_whole(g, options) for g in channels.groups if len(keep.get(g.name, ())) in (0, g.channels)}
    keep = {name: kept for name, kept in keep.items() if len(kept) < channels[name].channels}
    return Plan(keep, decision.bits, reasons)


def _why_whole(group: ChannelGroup, options: Options) -> str:
    if not options.prunes:
        return "nothing was to be pruned"
    if group.kind == "stream" and options.prune_stream != "on":
        return "a residual stream costs more than it saves; --prune-stream on prunes it, too"
    return f"{group.channels} channels are too few to lose any"


def skipped(name: str, options: Options) -> bool:
    """Whether the user wants this node left alone."""
    return matches(name, options.skip)
