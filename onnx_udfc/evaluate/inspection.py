"""What can be pruned in a network and what cannot, before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.shapes import Shapes
from onnx_udfc.evaluate.report import GroupReport, LayerReport, Size, SkipReport, plain
from onnx_udfc.inputs.sizes import settle
from onnx_udfc.model.counts import count
from onnx_udfc.model.factored import why_whole
from onnx_udfc.model.files import LoadedModel, load
from onnx_udfc.model.inventory import INTEGER_OPS, Holding, already_quantized, inventory, left_out
from onnx_udfc.model.named import check_named
from onnx_udfc.model.names import matches
from onnx_udfc.model.network import Network, read
from onnx_udfc.model.tables import find_tables, table_lines
from onnx_udfc.options.shared_rows import read_shape
from onnx_udfc.runtime.blame import blamed
from onnx_udfc.runtime.sessions import Source
from onnx_udfc.version import Tool, this_tool

FLOAT = 32


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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-clean values."""
        result = plain(self)
        assert isinstance(result, dict)
        return result


def inspect_model(source: Source, skip: Sequence[str] = (), input_shape: Sequence[str] = ()) -> Inspection:
    """Inspect a model.

    Args:
        source: Path, bytes or ModelProto.
        skip: Patterns of node and tensor names to leave alone.
        input_shape: Sizes that the file leaves open, as in Options.

    Raises:
        ModelError: It cannot be read.
        RequestError: An asked shape does not fit, or nothing has a name that is to be skipped.
    """
    asked = [read_shape(text) for text in input_shape]
    with blamed(source):
        return _inspected(load(source), skip, asked)


def _inspected(loaded: LoadedModel, skip: Sequence[str], asked: Sequence[str]) -> Inspection:
    network = read(loaded.model)
    check_named("skip", skip, loaded.model, network)
    settle(network, asked)
    channels = find_groups(network, skip)
    held = inventory(loaded.model)
    tables = find_tables(network, lambda name: matches(name, skip))
    layers = (*_layers(network, channels.shapes), *_quantized(held, network, channels.shapes))
    return Inspection(
        tool=this_tool(),
        size=Size(
            sum(layer.parameters_before for layer in layers), sum(layer.macs_before or 0 for layer in layers),
            loaded.bytes,
        ),
        opset=loaded.opset,
        ir_version=loaded.ir_version,
        groups=tuple(
            GroupReport(g.name, g.channels, g.channels, g.producers, g.consumers, "kept", "", _kind(g.kind))
            for g in channels.groups
        ),
        layers=layers,
        skips=tuple(SkipReport(s.node, s.reason, s.detail) for s in channels.skips),
        notes=(
            *loaded.notes, *network.notes, *channels.notes, *already_quantized(held, loaded.bytes),
            *left_out(held, loaded.bytes),
            *table_lines(tables, loaded.bytes),
        ),
    )  # fmt: skip


def _kind(kind: str) -> Any:
    assert kind in ("inner", "stream"), kind
    return kind


def _layers(network: Network, shapes: Shapes) -> tuple[LayerReport, ...]:
    """Return every layer as it is."""
    rows = []
    for name, layer in network.layers.items():
        counted = count(layer, shapes.sizes)
        rows.append(
            LayerReport(
                name=name,
                op_type=str(layer.node.op),
                bits=FLOAT,
                parameters_before=counted.parameters,
                parameters_after=counted.parameters,
                relative_error=None,
                channels_before=layer.out_channels,
                channels_after=layer.out_channels,
                macs_before=counted.macs,
                macs_after=counted.macs,
                stays_one=why_whole(layer),
            )
        )
    return tuple(rows)


def _quantized(held: Sequence[Holding], network: Network, shapes: Shapes) -> tuple[LayerReport, ...]:
    """Return what is quantized already: it cannot be compressed again, but it is there."""
    nodes = {node.name: node for node in network.graph.nodes}
    rows = []
    for holding in (h for h in held if h.quantized or h.op_type in INTEGER_OPS):
        node = nodes.get(holding.node)
        output = () if node is None else shapes.sizes.get(node.outputs[0].name, ())
        channels = _channels(holding.op_type, output)
        macs = None if channels is None else holding.parameters * math.prod(output[1:]) // channels
        rows.append(
            LayerReport(
                name=holding.node,
                op_type=holding.op_type,
                bits=holding.bits,
                parameters_before=holding.parameters + holding.biases,
                parameters_after=holding.parameters + holding.biases,
                relative_error=None,
                channels_before=channels,
                channels_after=channels,
                macs_before=macs,
                macs_after=macs,
                form=holding.form or holding.op_type,
            )
        )
    return tuple(rows)


def _channels(op_type: str, output: Sequence[int]) -> int | None:
    """Return the output channels of a layer by the shape of its output, None where unknown."""
    if not output or op_type == "Gather":
        return None
    return int(output[1] if "Conv" in op_type else output[-1]) or None
