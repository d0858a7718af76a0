"""What the options say of each layer and group by themselves, and the plan that comes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.errors import RequestError
from onnx_udfc.model.factored import Factor, can_be_factored, why_whole
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.names import matches
from onnx_udfc.model.tied import twins
from onnx_udfc.numerics.reconstruct import METHODS

if TYPE_CHECKING:
    import onnx

    from onnx_udfc.channels.groups import ChannelGroup, Channels
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.elimination import Removal
    from onnx_udfc.numerics.factors import Curve
    from onnx_udfc.options import Options

# Where bytes alone are to be saved by free bits, only layers from so wide on become two, and only for fewer bits than
# these on average: narrow ones lose by it (docs/experiments.md).
WIDE, FEW_BITS = 128, 2.5
QUICKER = 64  # channels from which on two 8-bit spatial layers are quicker than one (docs/allocation.md)
AUTO_WIDTHS: tuple[float, ...] = (8, 6, 5, 4, 3.7, 3.46, 3.17, 3, 2.32, 2)


@dataclass(frozen=True)
class Decision:
    """What was decided about a `Subject`.

    Attributes:
        counts: group name → channels it keeps.
        bits: layer name → bits, for the layers that are quantized.
        why: group name → why it keeps all channels, in words for the user, for the groups that do.
        factors: layer name → what it is split into, for the layers that are split.
    """

    counts: Mapping[str, int]
    bits: Mapping[str, float]
    why: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, Factor] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is to be decided about.

    Attributes:
        network: the original.
        channels: its channels.
        groups: those that may lose channels.
        removals: nested order and costs of each of them.
        layers: names of the layers that may be quantized.
        rounding: layer name → bits → damage of rounding; needed for `--bits auto`.
        bytes: size of the original's file.
        curves: layer name → what each way to split it loses, for the layers that may be split.
        file: the original as the user has it, for budgets of latency; none: the network's own model.
    """

    network: Network
    channels: Channels
    groups: tuple[ChannelGroup, ...]
    removals: Mapping[str, Removal]
    layers: tuple[str, ...]
    rounding: Mapping[str, Mapping[float, float]]
    bytes: int
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    file: onnx.ModelProto | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done to each layer and group.

    Attributes:
        keep: group name → sorted channels that stay, for the groups that lose some.
        bits: layer name → weight bits, for the layers that are quantized.
        why: group name → why it stays whole, in words for the user.
        warnings: what was asked for and is not done at all, in words for the user.
        factors: layer name → what it is split into, for the layers that are split.
        parts: name of the first of two layers that stand for one → name of that one.
    """

    keep: Mapping[str, NDArray[np.int64]]
    bits: Mapping[str, float]
    why: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    factors: Mapping[str, Factor] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


def prunable(channels: Channels, options: Options) -> tuple[ChannelGroup, ...]:
    """The groups that may lose channels: residual streams only where asked for, or where time is to be saved."""
    if not options.prunes:
        return ()
    streams = options.prune_stream == "on" or (options.prune_stream == "auto" and "latency" in options.budget)
    return tuple(g for g in channels.groups if g.kind == "inner" or streams)


def ranks_by_name(network: Network, options: Options) -> dict[str, int]:
    """Ranks that the user gave layers by their names.

    Raises:
        RequestError: a name is nowhere, or its layer cannot be split.
    """
    ranks: dict[str, int] = {}
    for pattern, rank in options.rank_layer.items():
        named = {n: rank for n, layer in network.layers.items() if can_be_factored(layer) and matches(n, (pattern,))}
        if not named:
            raise RequestError(f"--rank-layer {pattern}: no layer of this name can become two; see onnx-udfc inspect")
        ranks |= named
    return ranks


def _may_pay(options: Options) -> bool:
    """Whether fewer multiplications are less time, or time is measured: on a GPU two kernels often take longer."""
    return not TARGETS[options.target].few_kernels or ("latency" in options.budget and options.provider != "cpu")


def factorable(network: Network, channels: Channels, options: Options) -> tuple[str, ...]:
    """Names of the layers that may be split in two: for a budget, or to leave the MACs that a ratio leaves."""
    if options.rank_layer:
        return tuple(ranks_by_name(network, options))
    asked = options.budget or (options.prune and prunable(channels, options))
    free = options.factor == "on" or (options.factor == "auto" and _may_pay(options))
    fixed = options.allocate == "uniform" or options.prune_layer or not METHODS[options.method].measured
    if fixed or not (asked and free):
        return ()
    tied = {name for names in twins(network) for name in names}
    left = tied | layers_meant(options.skip, network)
    can = [n for n, layer in network.layers.items() if n not in left and not why_whole(layer)]
    least = 0 if options.factor == "on" else _least_width(network, options)
    return tuple(n for n in can if _width(network.layers[n]) >= least)


def _least_width(network: Network, options: Options) -> float:
    """Channels from which on a layer may become two where nobody insists on it."""
    if _bits_alone(options):
        return WIDE if _few_bits(network, options) else math.inf
    integers = options.activations is not None and not options.budget
    return QUICKER if integers else 0


def _bits_alone(options: Options) -> bool:
    """Whether only bytes are to be saved, by free bits: what few of them do to both of two layers is not foreseen."""
    return options.bits == "auto" and set(options.budget) == {"bytes"}


def _few_bits(network: Network, options: Options) -> bool:
    """Whether a budget of bytes leaves few bits for a weight."""
    layers = network.layers.values()
    size, weights = sum(layer.weight_bytes for layer in layers), sum(math.prod(layer.matrix_shape) for layer in layers)
    return 8 * min(budget.limit(size) for budget in options.budgets()) < FEW_BITS * weights


def _width(layer: Layer) -> int:
    """Channels at the narrower side of a spatial layer; 0 of others."""
    return min(layer.in_channels, layer.out_channels) if math.prod(layer.kernel) > 1 else 0


def is_average(options: Options) -> bool:
    """Whether the bits asked for may be spent freely: where the network is run, and between the least and the most.

    Integer kernels compute all weights in 8 bits, and a codebook is meant as it is.
    """
    asked, measured = options.bits, METHODS[options.method].measured
    free = isinstance(asked, int) and min(AUTO_WIDTHS) < asked < max(AUTO_WIDTHS)
    return free and measured and not options.bits_uniform and options.activations is None


def widths_of(options: Options) -> tuple[float, ...]:
    """Bits that a layer may get where they are free, falling; () where they are not."""
    asked = {options.bits} if isinstance(options.bits, int) else set[int]()
    free = options.bits == "auto" or is_average(options)
    return tuple(sorted({*AUTO_WIDTHS, *asked}, reverse=True)) if free else ()
