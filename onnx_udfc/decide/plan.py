"""What is to be done to each layer, decided before anything is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.decide.allocate import allowed_counts, keep_sets
from onnx_udfc.decide.asked import Plan, ranks_by_name
from onnx_udfc.decide.first_layers import integer_placement
from onnx_udfc.decide.unrepaired import unseen_to_round
from onnx_udfc.emit.placement import Placement, integer_bits
from onnx_udfc.errors import RequestError
from onnx_udfc.model.factored import Factor, bits_of_parts, factor
from onnx_udfc.numerics.elimination import CRITERIA, MEASURED, Removal, removal_by_score, shares_by_score
from onnx_udfc.numerics.reconstruct import METHODS
from onnx_udfc.options.words import FLOAT
from onnx_udfc.repair.absorb import producer_of

if TYPE_CHECKING:
    from onnx_udfc.channels.groups import ChannelGroup
    from onnx_udfc.channels.prune import Pruned
    from onnx_udfc.decide.asked import Decision, Subject
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.factors import Curve
    from onnx_udfc.options import Options


def removals(
    network: Network, groups: tuple[ChannelGroup, ...], options: Options, measured: Mapping[str, Removal]
) -> dict[str, Removal]:
    """Nested order of removal of each group, by the criterion asked for.

    `measured` are orders from moments; a group that has none is ordered by its weights, and priced in the same unit.
    """
    name = options.select or METHODS[options.method].selection
    assert name in CRITERIA or METHODS[options.method].measured, "the table of options refuses it"
    if name not in MEASURED:
        return {g.name: removal_by_score(_score(network, g, name)) for g in groups}
    multiply = not measured or any(removal.shares for removal in measured.values())
    left = {g.name: g for g in groups if g.name not in measured}
    priced = {name: shares_by_score(_score(network, g, "l2"), multiply) for name, g in left.items()}
    return {g.name: measured.get(g.name) or priced[g.name] for g in groups}


def _score(network: Network, group: ChannelGroup, criterion: str) -> NDArray[np.float64]:
    """(C,) score of each channel by its weights."""
    return CRITERIA[criterion](producer_of(network, group))


def plan_of(subject: Subject, decision: Decision, options: Options) -> Plan:
    """The plan by what was decided, with what the user named, and what is told of it."""
    network, groups = subject.network, subject.groups
    keep = keep_sets(groups, subject.removals, decision.counts)
    keep = {name: kept for name, kept in keep.items() if len(kept) < subject.channels[name].channels}
    why = {g.name: _why_not_asked(options) for g in subject.channels.groups} | dict(decision.why)
    quantizable = (*subject.layers, *unseen_to_round(network, options))
    factors = dict(decision.factors) | _named_factors(network, subject.curves, options)
    warnings = (*_too_narrow(groups, options), *_nothing_done(quantizable, keep or factors, why, options))
    whole = {name: why[name] for name in why if name not in keep}
    return Plan(keep, decision.bits, whole, warnings, factors)


def _why_not_asked(options: Options) -> str:
    """Why a group is not among the prunable ones: see `prunable`."""
    if not options.prunes:
        return "nothing was to be pruned"
    return "residual streams stay whole unless --prune-stream on asks for them"


def _too_narrow(groups: tuple[ChannelGroup, ...], options: Options) -> tuple[str, ...]:
    """Groups that the multiple asked for does not fit into twice, or once and a bit."""
    if not isinstance(options.align, int):
        return ()
    count = sum(len(allowed_counts(g, options.align)) == 1 for g in groups if g.channels > 1)
    text = f"--align {options.align}: {count} of {len(groups)} groups are too narrow for it and stay whole"
    return (text,) if count else ()


def _nothing_done(
    quantizable: tuple[str, ...], less: Mapping[str, object], why: Mapping[str, str], options: Options
) -> tuple[str, ...]:
    """What was asked for and could not be done in any layer; `less` are channels that go, or layers that become two."""
    found = []
    if options.prunes and not less and (options.prune or options.prune_layer):
        reason, _ = Counter(why.values()).most_common(1)[0] if why else ("no channels can go", 0)
        found.append(f"nothing was pruned: {reason} (onnx-udfc inspect shows each layer)")
    elif options.budget and not why and not quantizable:  # half of nothing is met
        found.append("nothing was done for --budget: no layer may change (onnx-udfc inspect shows each)")
    if options.bits != FLOAT and not quantizable:
        found.append("nothing was quantized: no layer has float weights that may change (onnx-udfc inspect shows each)")
    return tuple(found)


def split_layers(pruned: Pruned, plan: Plan) -> Plan:
    """Split the layers of a pruned network, in place; both parts get the bits of the whole.

    What was kept stays by the name of the whole: its inputs are the first part's, its outputs those of the second.
    """
    parts = factor(pruned.network, plan.factors)
    return replace(plan, bits=bits_of_parts(plan.bits, parts), parts=parts)


def _named_factors(network: Network, curves: Mapping[str, Sequence[Curve]], options: Options) -> dict[str, Factor]:
    """What the layers that the user gave a rank become: split in the way that loses least."""
    chosen = {}
    for name, rank in ranks_by_name(network, options).items():
        losses = [(float(c.lost[min(rank, len(c.lost) - 1)]), i) for i, c in enumerate(curves.get(name, ()))]
        layer = network.layers[name]
        if losses:
            chosen[name] = Factor(curves[name][min(losses)[1]].split, rank)
            if chosen[name].parameters(layer.out_channels, layer.in_channels) >= np.prod(layer.matrix_shape):
                raise RequestError(f"--rank-layer {name}={rank}: two layers would be larger than the one; take less")
    return chosen


def placed(network: Network, plan: Plan, options: Options) -> tuple[Plan, Placement | None]:
    """Where activations are quantized, and the plan with the weight bits that integer kernels compute exactly."""
    if options.activations is None:
        return plan, None
    placement = integer_placement(network, plan.bits, options.target)
    return replace(plan, bits=integer_bits(network, plan.bits, placement)), placement
