"""What can be pruned in a network and what cannot, before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.shapes import Shapes
from onnx_udfc.errors import RequestError
from onnx_udfc.evaluate.report import GroupReport, LayerReport, Size, SkipReport, plain
from onnx_udfc.inputs.network_inputs import settle_as_line
from onnx_udfc.inputs.sizes import settle
from onnx_udfc.model.counts import count
from onnx_udfc.model.factored import why_whole
from onnx_udfc.model.files import LoadedModel
from onnx_udfc.model.inventory import INTEGER_OPS, Holding, already_quantized, inventory, left_out
from onnx_udfc.model.named import check_named
from onnx_udfc.model.network import Network, read
from onnx_udfc.model.samples import load_with_samples
from onnx_udfc.model.tied import repeated, twins
from onnx_udfc.model.unseen import find_unseen, unseen_lines
from onnx_udfc.options import Options
from onnx_udfc.options.shared_rows import read_shape
from onnx_udfc.runtime.blame import blamed
from onnx_udfc.runtime.sessions import Source
from onnx_udfc.version import Tool, this_tool

FLOAT = 32
LITTLE = 0.1  # of the bytes are float weights: compressing them is hardly worth it


@dataclass(frozen=True)
class Inspection:
    """Groups of channels that can be pruned, layers that cannot with their reasons, and what all weighs."""

    tool: Tool
    size: Size
    opset: int
    ir_version: int
    groups: tuple[GroupReport, ...]
    layers: tuple[LayerReport, ...]
    skips: tuple[SkipReport, ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Inspection({len(self.layers)} layers, {len(self.groups)} groups, {self.size.bytes:,} bytes)"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values."""
        result: dict[str, Any] = plain(self)
        return result


def inspect_model(source: Source, skip: Sequence[str] = (), input_shape: Sequence[str] = ()) -> Inspection:
    """Inspect a model.

    `skip` are patterns of node and tensor names to leave alone, `input_shape` sizes that the file leaves open, as in
    Options.

    Raises:
        ModelError: It cannot be read.
        RequestError: An asked shape does not fit, or nothing has a name that is to be skipped.
    """
    asked = [read_shape(text) for text in input_shape]
    with blamed(source):
        return _inspected(load_with_samples(source)[0], skip, asked)


def _inspected(loaded: LoadedModel, skip: Sequence[str], asked: Sequence[str]) -> Inspection:
    network = read(loaded.model)
    check_named(skip, loaded.model, network)
    settle(network, asked)
    if not asked:
        with suppress(RequestError):  # what cannot be made up has no size that is tried out
            settle_as_line(network, Options())
    channels = find_groups(network, skip)
    held = inventory(loaded.model)
    unseen = find_unseen(network, skip)
    sizes = {one.text: one.bytes for one in unseen.values()}
    plain_layers = _layers(network, channels.shapes)
    layers = (*plain_layers, *_quantized(held, network, channels.shapes))
    again = repeated(network)
    return Inspection(
        tool=this_tool(),
        size=Size(
            sum(layer.parameters_before for layer in layers if layer.name not in again),
            sum(layer.macs_before or 0 for layer in layers),
            loaded.bytes,
        ),
        opset=loaded.opset,
        ir_version=loaded.ir_version,
        groups=tuple(
            GroupReport(g.name, g.channels, g.channels, g.producers, g.consumers, "kept", "", g.kind)
            for g in channels.groups
        ),
        layers=layers,
        skips=tuple(SkipReport(s.node, s.reason, s.detail) for s in channels.skips),
        notes=(
            *loaded.notes, *network.notes, *channels.notes, *already_quantized(held, loaded.bytes),
            *left_out(held, loaded.bytes),
            *unseen_lines(unseen, loaded.bytes),
        ),
        advice=advice_for(
            plain_layers, len(channels.groups), loaded.bytes, compact=network.compact, besides=sum(sizes.values()),
        ),
    )  # fmt: skip


def advice_for(
    layers: Sequence[LayerReport], groups: int, size: int, *, compact: bool, besides: int = 0
) -> tuple[str, ...]:
    """Return two lines: what to begin with, and what to think of next.

    `size` are the bytes of the file, `besides` those of tables, and of weights of recurrent layers and branches;
    `compact` says whether little in it is redundant.
    """
    held = sum(layer.parameters_before for layer in layers) * 4 / max(size, 1)
    if besides > held * size and besides >= LITTLE * size:
        return (
            "begin with `onnx-udfc IN OUT`: 8-bit weights where they do no harm; --for small saves more bytes",
            "most weights are of tables, recurrent layers or branches: --bits rounds them, and no channels go",
        )
    if not layers or held < LITTLE:
        share = f"{100 * held:.0f} % of the bytes" if layers else "none"
        return (
            f"little can be gained: {share} are float weights of layers",
            "look at what else is in the file: tables, constants, or weights that are quantized already",
        )
    first = (
        "begin with `onnx-udfc IN OUT`: 8-bit weights and activations where they do no harm; --for small saves bytes"
    )
    if compact:
        return first, "the network is compact: take bits before channels, and no more than --prune 0.2"
    if not groups:
        return first, "no channels can go: --for small or --budget bytes=0.1, and --float16 for a GPU"
    return first, f"{groups} groups of channels may lose some: --budget macs=0.5 takes them where they do least"


def _layers(network: Network, shapes: Shapes) -> tuple[LayerReport, ...]:
    """Return every layer as it is."""
    rows, tied = [], {name for names in twins(network) for name in names}
    for name, layer in network.layers.items():
        counted = count(layer, shapes.sizes)
        row = _as_it_is(name, str(layer.node.op), FLOAT, counted.parameters, layer.out_channels, counted.macs)
        rows.append(replace(row, stays_one=why_whole(layer) or ("weight of several layers" if name in tied else "")))
    return tuple(rows)


def _as_it_is(
    name: str, op_type: str, bits: float, parameters: int, channels: int | None, macs: int | None
) -> LayerReport:
    """The report of a layer that nothing is done to."""
    return LayerReport(
        name, op_type, bits, parameters, parameters, None,
        channels_before=channels, channels_after=channels, macs_before=macs, macs_after=macs,
    )  # fmt: skip


def _quantized(held: Sequence[Holding], network: Network, shapes: Shapes) -> tuple[LayerReport, ...]:
    """Return what is quantized already: it cannot be compressed again, but it is there."""
    nodes = {node.name: node for node in network.graph.nodes}
    rows = []
    for holding in (h for h in held if h.quantized or h.op_type in INTEGER_OPS):
        node = nodes.get(holding.node)
        output = () if node is None else shapes.sizes.get(node.outputs[0].name, ())
        channels = _channels(holding.op_type, output)
        macs = None if channels is None else holding.parameters * math.prod(output[1:]) // channels
        row = _as_it_is(
            holding.node, holding.op_type, holding.bits, holding.parameters + holding.biases, channels, macs
        )
        rows.append(replace(row, form=holding.form or holding.op_type))
    return tuple(rows)


def _channels(op_type: str, output: Sequence[int]) -> int | None:
    """Return the output channels of a layer by the shape of its output, None where unknown."""
    if not output or op_type == "Gather":
        return None
    return int(output[1] if "Conv" in op_type else output[-1]) or None
