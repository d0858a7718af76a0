"""What can be pruned in a network and what cannot, before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.shapes import Shapes
from onnx_udfc.evaluate.report import GroupReport, LayerReport, Size, SkipReport, plain
from onnx_udfc.model.counts import count, totals
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
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


def inspect_model(source: Source, skip: Sequence[str] = ()) -> Inspection:
    """Inspect a model.

    Args:
        source: Path, bytes or ModelProto.
        skip: Patterns of node and tensor names to leave alone.

    Raises:
        ModelError: It cannot be read.
    """
    loaded = load(source)
    network = read(loaded.model)
    channels = find_groups(network, skip)
    layers = _layers(network, channels.shapes)
    opset = next((int(d.version) for d in loaded.model.opset_import if d.domain in ("", "ai.onnx")), 0)
    total = totals({name: count(layer, channels.shapes.sizes) for name, layer in network.layers.items()})
    return Inspection(
        tool=this_tool(),
        size=Size(total.parameters, total.macs, loaded.bytes),
        opset=opset,
        ir_version=int(loaded.model.ir_version),
        groups=tuple(
            GroupReport(g.name, g.channels, g.channels, g.producers, g.consumers, "kept", "", _kind(g.kind))
            for g in channels.groups
        ),
        layers=layers,
        skips=tuple(SkipReport(s.node, s.reason, s.detail) for s in channels.skips),
        notes=(*loaded.notes, *network.notes, *channels.notes),
    )


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
            )
        )
    return tuple(rows)
