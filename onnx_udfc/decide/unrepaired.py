"""Weights that nothing repairs: which unseen ones are rounded, and to what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.decide.asked import AUTO_WIDTHS
from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.unseen import RECURRENT, TABLES, RoundedUnseen, Unseen, find_unseen
from onnx_udfc.numerics.grids import nearest, width_of
from onnx_udfc.options.words import FLOAT

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

AUTO = 8  # bits of what nothing repairs, so that budgets take none of its bits
NODE_BYTES = 150  # of one more node with its names
_ROW = 12  # bytes of the scale and biases of a row of weights, about

Bits = Mapping[str, float]


def unseen_to_round(network: Network, options: Options) -> dict[str, Unseen]:
    """Key → unseen weight, where it is to be rounded.

    For a target that has no form for them these are the ones that a layer shares: its codes beside the same weight in
    float would make the file larger.
    """
    if options.bits == FLOAT:
        return {}
    found = find_unseen(network, options.skip)
    if TARGETS[options.target].table is not None:
        return found
    shared = network.origin.shared
    roots = {shared.get(layer.constant.name) for layer in network.layers.values()}
    return {key: one for key, one in found.items() if not one.path and key in roots and _multiplied(one)}


def _multiplied(weight: Unseen) -> bool:
    """Whether it has the scales of a layer and is read by layers."""
    return len(weight.axes) == 1 and not any(r.op in (*RECURRENT, *TABLES) for r in weight.readers)


def asked_of_unseen(network: Network, options: Options, bits: Bits) -> dict[str, tuple[Unseen, float]]:
    """Key → unseen weight that is to be rounded, and its bits: those of the layer that shares it, or what is asked.

    The layers that count are those beside which nodes inside of others read it; `bits` are layers'. Those of recurrent
    layers are what every weight may have.
    """
    shared, unseen = network.origin.shared, unseen_to_round(network, options)
    roots = {shared.get(network.layers[n].constant.name): b for n, b in bits.items() if n in network.layers}
    asked, cells = AUTO if options.bits == "auto" else width_of(options.bits), _average(network, unseen, options)

    def width(key: str, one: Unseen) -> float:
        if one.slot and one.readers[0].op in RECURRENT:
            return cells
        return asked if one.path or one.slot else roots.get(key, asked)

    return {key: (one, width(key, one)) for key, one in unseen.items()}


def _average(network: Network, unseen: Mapping[str, Unseen], options: Options) -> float:
    """Bits of recurrent layers: what is asked, or what a budget of bytes leaves every weight on average, AUTO at most.

    More or fewer than layers have gain nothing at equal bytes.
    """
    if options.bits != "auto":
        return width_of(options.bits)
    layers, others = network.layers.values(), list(unseen.values())
    weights = [*(layer.constant for layer in layers), *(one.constant for one in others)]
    held = sum(layer.weight_bytes for layer in layers) + sum(one.bytes for one in others)
    rows = sum(layer.out_channels for layer in layers) + sum(int(np.prod(one.constant.shape[:-1])) for one in others)
    count, beside = sum(int(np.prod(t.shape)) for t in weights), _ROW * rows + NODE_BYTES * len(network.graph.nodes)
    left = [8 * (b.limit(held + beside) - beside) / count for b in options.budgets() if b.key == "bytes"]
    widths = [width for width in AUTO_WIDTHS if width <= min([AUTO, *left])]
    return max(widths, default=min(AUTO_WIDTHS))


def rounded_unseen(
    asked: Mapping[str, tuple[Unseen, float]], known: Mapping[str, RoundedUnseen]
) -> dict[str, RoundedUnseen]:
    """Key → unseen weight with its codes: those that are known, others to nearest with the scales of least error."""
    return {
        key: known.get(key) or RoundedUnseen(one, nearest(one.matrix(one.axes), width))
        for key, (one, width) in asked.items()
    }


def unrepaired_notes(
    network: Network,
    options: Options,
    forms: Mapping[str, str],
    rounded: Mapping[str, RoundedUnseen],
    known: Collection[str],
) -> tuple[str, ...]:
    """How the unseen weights are written, by their keys: `forms` in words, `rounded` with their codes.

    The `known` ones were not rounded to nearest, but by what they are multiplied with.
    """
    if options.bits == FLOAT:
        return ()

    def bits(texts: Mapping[str, str]) -> str:
        widths = {rounded[key].params.bits for key in texts if key in rounded}
        return f"{' and '.join(f'{width:g}' for width in sorted(widths))} bits"

    left = f"stay in float for --target {options.target}"
    found = find_unseen(network, options.skip)
    if TARGETS[options.target].table is not None:
        found = {key: one for key, one in found.items() if key in forms}
    tables, unseen = (
        {key: one.text for key, one in found.items() if one.is_table == is_table} for is_table in (True, False)
    )
    met = {key: unseen.pop(key) for key in [*unseen] if key in known}
    cells, what = "weights of recurrent layers", "weights of recurrent layers, and inside of branches and loops"
    return (
        *_notes(tables, forms, f"tables of Gather nodes, {bits(tables)}", f"tables of Gather nodes {left}"),
        *_notes(met, forms, f"{cells}, {bits(met)}, rounded by what they are multiplied with", f"{cells}, {left}"),
        *_notes(unseen, forms, f"{what}, {bits(unseen)}, to nearest", f"{what}, {left}"),
    )


def _notes(texts: Mapping[str, str], forms: Mapping[str, str], written: str, left: str) -> list[str]:
    """A line for what has a form, and one for what has none; each named once."""
    named = dict.fromkeys(f"{text} as {forms[key]}" for key, text in texts.items() if key in forms)
    others = dict.fromkeys(text for key, text in texts.items() if key not in forms)
    return [f"{begin}: {', '.join(names)}" for begin, names in ((written, named), (left, others)) if names]
