"""`--bits N` as an average: every layer gets bits of its own, in a file that is not larger than with N in each.

All layers start at the widest. Then the step to fewer bits that does the least damage for each byte that it saves is
taken, until the weights of all layers fit into what they take with N bits everywhere, as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.decide.asked import is_average, widths_of
from onnx_udfc.decide.file_size import CORRECTIONS, short_bytes, with_biases, written, written_bytes
from onnx_udfc.emit.writer import Bases
from onnx_udfc.model.factored import bits_of_parts
from onnx_udfc.model.layer_bytes import layer_bytes
from onnx_udfc.numerics.knapsack import Demand, UnreachableError, levels, solve

if TYPE_CHECKING:
    from onnx_udfc.decide.asked import Plan
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

Double = NDArray[np.float64]


def averaged(network: Network, plan: Plan, rounding: Mapping[str, Mapping[float, float]], options: Options) -> Plan:
    """The plan with bits spent freely over its layers, or itself where equal bits are as good.

    `rounding` is layer name → bits → damage, of the original's layers.
    """
    if not is_average(options):
        return plan
    wholes = [name for name in plan.bits if name not in plan.parts and rounding.get(name) and _alone(network, name)]
    if len(wholes) < 2:
        return plan
    widths, small = widths_of(options), with_biases(network)
    damage = np.array([[rounding[name][width] for width in widths] for name in wholes])
    bases: Bases = {}
    sizes, limit = _sizes(small, plan, wholes, options, bases), written_bytes(small, plan.bits, options, bases)
    asked = [float(width) for width in widths].index(float(options.bits))
    rows = np.arange(len(wholes))
    even, room = float(damage[:, asked].sum()), float(sizes[:, asked].sum())
    for _ in range(CORRECTIONS):
        chosen = _spent(sizes, damage, room)
        if chosen is None or damage[rows, chosen].sum() >= even:
            return plan
        spent = {name: widths[at] for name, at in zip(wholes, chosen, strict=True)}
        bits = dict(plan.bits) | bits_of_parts(spent, plan.parts)
        over = written_bytes(small, bits, options, bases) - limit
        if over <= 0:
            return replace(plan, bits=bits)
        room = float(sizes[rows, chosen].sum()) - over
    return plan


def _alone(network: Network, name: str) -> bool:
    """Whether no other layer reads the same weight: several that do keep one."""
    shared = network.origin.shared
    root = shared.get(network.layers[name].constant.name)
    return root is None or sum(shared.get(o.constant.name) == root for o in network.layers.values()) == 1


def _sizes(network: Network, plan: Plan, wholes: list[str], options: Options, bases: Bases) -> Double:
    """Bytes (L, widths) that layers, with both of their parts, take in the file."""
    widths = widths_of(options)
    sizes = np.zeros((len(wholes), len(widths)))
    firsts = {whole: first for first, whole in plan.parts.items()}
    for k, width in enumerate(widths):
        model = written(network, dict.fromkeys(plan.bits, width), options, bases)
        held = layer_bytes(model, plan.bits)
        rest = short_bytes(model, network) - sum(held.values())  # names and all that unpacks codes
        nodes = rest / max(1, len(plan.bits))
        for i, name in enumerate(wholes):
            both = [name, firsts[name]] if name in firsts else [name]
            sizes[i, k] = sum(held.get(part, 0) + nodes for part in both)
    return sizes


def _spent(sizes: Double, damage: Double, room: float) -> NDArray[np.int64] | None:
    """The width (L,) of each layer, by its place among those; None where they do not fit."""
    steps = [_worth(size, cost) for size, cost in zip(sizes, damage, strict=True)]
    table = levels([(size[s], cost[s] - cost[s[0]]) for size, cost, s in zip(sizes, damage, steps, strict=True)])
    try:
        chosen = solve(table, [Demand("bytes", room, lambda values: np.asarray(values.sum(-1)))])
    except UnreachableError:
        return None
    return np.array([step[at] for step, at in zip(steps, chosen, strict=True)], np.int64)


def _worth(size: Double, damage: Double) -> list[int]:
    """Places of the widths on the lower hull of damage over bytes saved, from the least damage on."""
    order = sorted(range(len(size)), key=lambda k: (damage[k], size[k]))
    hull = order[:1]
    for k in order[1:]:
        if size[k] >= size[hull[-1]]:
            continue
        while len(hull) > 1 and _rate(size, damage, hull[-2], hull[-1]) >= _rate(size, damage, hull[-1], k):
            hull.pop()
        hull.append(k)
    return hull


def _rate(size: Double, damage: Double, before: int, after: int) -> float:
    """Damage for each byte of a step."""
    return float((damage[after] - damage[before]) / (size[before] - size[after]))
