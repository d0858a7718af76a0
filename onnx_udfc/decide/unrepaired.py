"""Weights that nothing repairs: which unseen ones are rounded, and to what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.unseen import RECURRENT, TABLES, RoundedUnseen, Unseen, find_unseen
from onnx_udfc.numerics.grids import nearest, width_of
from onnx_udfc.options.words import FLOAT

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

AUTO = 8  # bits: nothing repairs these weights, so that budgets take none of their bits

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

    The layers that count are those beside which nodes inside of others read it; `bits` are layers'.
    """
    shared, asked = network.origin.shared, _bits_asked(options)
    roots = {shared.get(network.layers[n].constant.name): b for n, b in bits.items() if n in network.layers}
    return {
        key: (one, asked if one.path or one.slot else roots.get(key, asked))
        for key, one in unseen_to_round(network, options).items()
    }


def _bits_asked(options: Options) -> float:
    return AUTO if options.bits == "auto" else width_of(options.bits)


def rounded_unseen(
    asked: Mapping[str, tuple[Unseen, float]], known: Mapping[str, RoundedUnseen]
) -> dict[str, RoundedUnseen]:
    """Key → unseen weight with its codes: those that are known, others to nearest with the scales of least error."""
    return {
        key: known.get(key) or RoundedUnseen(one, nearest(one.matrix(one.axes), width))
        for key, (one, width) in asked.items()
    }


def unrepaired_notes(
    network: Network, options: Options, forms: Mapping[str, str], known: Collection[str]
) -> tuple[str, ...]:
    """How the unseen weights are written; `forms` is in words, by their keys, `known` the keys of rounded ones.

    Those were not rounded to nearest, but by what they are multiplied with.
    """
    if options.bits == FLOAT:
        return ()
    bits, left = f"{_bits_asked(options):g} bits", f"stay in float for --target {options.target}"
    found = find_unseen(network, options.skip)
    if TARGETS[options.target].table is not None:
        found = {key: one for key, one in found.items() if key in forms}
    tables, unseen = (
        {key: one.text for key, one in found.items() if one.is_table == is_table} for is_table in (True, False)
    )
    met = {key: unseen.pop(key) for key in [*unseen] if key in known}
    cells, what = "weights of recurrent layers", "weights of recurrent layers, and inside of branches and loops"
    return (
        *_notes(tables, forms, f"tables of Gather nodes, {bits}", f"tables of Gather nodes {left}"),
        *_notes(met, forms, f"{cells}, {bits}, rounded by what they are multiplied with", f"{cells}, {left}"),
        *_notes(unseen, forms, f"{what}, {bits}, to nearest", f"{what}, {left}"),
    )


def _notes(texts: Mapping[str, str], forms: Mapping[str, str], written: str, left: str) -> list[str]:
    """A line for what has a form, and one for what has none; each named once."""
    named = dict.fromkeys(f"{text} as {forms[key]}" for key, text in texts.items() if key in forms)
    others = dict.fromkeys(text for key, text in texts.items() if key not in forms)
    return [f"{begin}: {', '.join(names)}" for begin, names in ((written, named), (left, others)) if names]
