"""Which tables of Gather nodes are rounded, to how many bits, and what to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.names import matches
from onnx_udfc.model.tables import Table, find_tables
from onnx_udfc.numerics.grids import FORMATS, QuantParams, round_nearest, search_scale, width_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options

FLOAT, AUTO = 32, 8  # bits: nothing repairs a table, so that budgets take none of its bits


def tables_to_round(network: Network, options: Options) -> dict[str, Table]:
    """Name of a Gather → its table, where it is to be rounded; none where the target has no form for tables."""
    if options.bits == FLOAT or TARGETS[options.target].table is None:
        return {}
    return find_tables(network, lambda name: matches(name, options.skip))


def rounded_tables(network: Network, options: Options) -> dict[str, QuantParams]:
    """Name of a Gather → the codes of its table, rounded to nearest with the scales of least error.

    Args:
        network: as it will be written; it is left as it is.
        options: `bits`, `skip` and `target` are read.
    """
    found = {}
    for name, table in tables_to_round(network, options).items():
        matrix, fmt = table.matrix(), FORMATS[bits_of_tables(options)]
        scale = search_scale(matrix, fmt)
        found[name] = QuantParams(fmt.bits, round_nearest(matrix, scale, fmt), scale)
    return found


def table_notes(network: Network, options: Options, forms: Mapping[str, str]) -> tuple[str, ...]:
    """How the tables are written.

    Args:
        network: that was written.
        options: what was asked for.
        forms: name of a layer or a Gather → its form, in words.
    """
    if options.bits == FLOAT:
        return ()
    every = find_tables(network, lambda name: matches(name, options.skip))
    written = {f"{t.text} as {forms[name]}": None for name, t in every.items() if name in forms}
    left = {t.text: None for name, t in every.items() if name not in forms}
    notes = [f"tables of Gather nodes, {bits_of_tables(options):g} bits: {', '.join(written)}"] if written else []
    if left:
        notes.append(f"tables of Gather nodes stay in float for --target {options.target}: {', '.join(left)}")
    return tuple(notes)


def bits_of_tables(options: Options) -> float:
    """Bits that tables are rounded to."""
    return AUTO if options.bits == "auto" else width_of(options.bits)
