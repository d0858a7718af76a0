"""Which unseen weights (`model.unseen`) are rounded, to how many bits, and what to say about them: as of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx_udfc.decide.tables import FLOAT, bits_of_tables
from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.inventory import TABLES
from onnx_udfc.model.names import matches
from onnx_udfc.model.unseen import RECURRENT, RoundedUnseen, Unseen, find_unseen
from onnx_udfc.numerics.grids import FORMATS, QuantParams, round_nearest, search_scale

Bits = Mapping[str, float]

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options


def unseen_to_round(network: Network, options: Options) -> dict[str, Unseen]:
    """Key → unseen weight, where it is to be rounded.

    For a target that has no form for them these are the ones that a layer shares: its codes beside the same weight in
    float would make the file larger.
    """
    if options.bits == FLOAT:
        return {}
    found = find_unseen(network, lambda name: matches(name, options.skip))
    if TARGETS[options.target].table is not None:
        return found
    shared = network.origin.shared
    roots = {shared.get(layer.constant.name) for layer in network.layers.values()}
    return {key: one for key, one in found.items() if not one.path and key in roots and _multiplied(one)}


def _multiplied(weight: Unseen) -> bool:
    """Whether it has the scales of a layer and is read by layers."""
    return len(weight.axes) == 1 and not any(r.op in (*RECURRENT, *TABLES) for r in weight.readers)


def bits_of_unseen(network: Network, unseen: Mapping[str, Unseen], options: Options, bits: Bits) -> dict[str, float]:
    """Key of an unseen weight → its bits: those of the layer that shares it, or else those of tables.

    Args:
        network: as it will be written.
        unseen: its unseen weights.
        options: what was asked for.
        bits: layer name → its bits.
    """
    shared = network.origin.shared
    roots = {shared.get(network.layers[n].constant.name): b for n, b in bits.items() if n in network.layers}
    return {
        key: bits_of_tables(options) if one.path else roots.get(key, bits_of_tables(options))
        for key, one in unseen.items()
    }


def rounded_unseen(network: Network, options: Options, bits: Bits) -> dict[str, RoundedUnseen]:
    """Key → unseen weight with its codes, rounded to nearest with the scales of least error.

    Args:
        network: as it will be written; it is left as it is.
        options: `bits`, `skip` and `target` are read.
        bits: layer name → its bits.
    """
    found, unseen = {}, unseen_to_round(network, options)
    widths = bits_of_unseen(network, unseen, options, bits)
    for key, weight in unseen.items():
        matrix, fmt = weight.matrix(weight.axes), FORMATS[widths[key]]
        scale = search_scale(matrix, fmt)
        found[key] = RoundedUnseen(weight, QuantParams(fmt.bits, round_nearest(matrix, scale, fmt), scale))
    return found


def unseen_notes(network: Network, options: Options, forms: Mapping[str, str]) -> tuple[str, ...]:
    """How the unseen weights are written.

    Args:
        network: that was written.
        options: what was asked for.
        forms: key of an unseen weight → its form, in words.
    """
    if options.bits == FLOAT:
        return ()
    every = find_unseen(network, lambda name: matches(name, options.skip))
    written = {f"{one.text} as {forms[key]}": None for key, one in every.items() if key in forms}
    left = {one.text: None for key, one in every.items() if key not in forms}
    what = "weights of recurrent layers, and inside of branches and loops"
    notes = [f"{what}, {bits_of_tables(options):g} bits, to nearest: {', '.join(written)}"] if written else []
    if left and TARGETS[options.target].table is None:
        notes.append(f"{what}, stay in float for --target {options.target}: {', '.join(left)}")
    return tuple(notes)
