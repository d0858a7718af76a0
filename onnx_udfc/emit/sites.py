"""Writes the Q/DQ pairs of a placement into a draft.

A hard sigmoid between two pairs needs no kernel of its own: clip(α·x + β, 0, 1) = α·clip(x + β/α, 0, 1/α), and codes
clip by themselves. So it is written as the Add of a constant, whose codes are taken at the scale 1/(255·α) and read at
1/255; a hard swish is x times that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.placement import Placement
from onnx_udfc.numerics.activation_grids import ActivationParams

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

GATE_STEPS = 255  # codes of a gate, 0 to 1
Writer = tuple[onnx.NodeProto, int, str]  # the node that writes a tensor, which of its outputs, after which node to add


@dataclass(frozen=True)
class _Ends:
    """What a pair stands between.

    Attributes:
        readers: the nodes that read its result; None for all of the tensor's.
        writer: of the tensor; None of a graph input.
        slope: what is read is so many times what is written.
    """

    readers: tuple[str, ...] | None
    writer: Writer | None
    slope: float = 1.0


def write_sites(
    draft: Draft,
    placement: Placement,
    activations: Mapping[str, ActivationParams],
    switches: Mapping[str, str] | None = None,
) -> None:
    """Add a QuantizeLinear → DequantizeLinear pair at every site.

    `activations` are grids of `placement.tensors`. `switches` is name of a quantized tensor → a scalar of type bool
    that says whether the pair counts; a tensor that is not named always goes through its pair.
    """
    writers: dict[str, Writer] = {
        name: (node, index, node.name) for node in draft.nodes.values() for index, name in enumerate(node.output)
    }
    for node in placement.additions:
        draft.nodes[node].op_type = "Add"
    for node in placement.barriers:
        _write_barrier(draft, draft.nodes[node], writers)
    for node in placement.layout_bound:
        _write_reshape(draft, draft.nodes[node], writers)
    gates = {} if switches is not None else placement.gates
    steeper = {draft.nodes[n].output[0]: a for n, (a, _) in gates.items() if draft.nodes[n].op_type == "HardSigmoid"}
    for tensor, readers in placement.sites.items():
        source = placement.grid_of(tensor)
        assert source is not None, tensor
        ends = _Ends(readers, writers.get(tensor), steeper.get(tensor, 1.0))
        _write_pair(draft, tensor, activations[source], ends, (switches or {}).get(source))
    for name, (slope, shift) in gates.items():
        _write_gate(draft, draft.nodes[name], slope, shift)


def _write_gate(draft: Draft, node: onnx.NodeProto, slope: float, shift: float) -> None:
    """A hard sigmoid as an Add, whose pair is there already; a hard swish as an Add, its pair, and a Mul."""
    added = _codes_of(draft, f"{node.name}.shift", shift / slope)
    swish = node.op_type == "HardSwish"
    del node.attribute[:]
    if not swish:
        node.op_type = "Add"
        node.input.append(added[-1].output[0])
        draft.before(node.name, added)
        return
    step = 1 / GATE_STEPS
    zero = draft.constant(f"{node.name}.zero_point", np.array(0, np.uint8))
    entered = draft.constant(f"{node.name}.gate_entered", np.array(step / slope, np.float32))
    read = draft.constant(f"{node.name}.gate_scale", np.array(step, np.float32))
    total, codes, gate = (draft.name(f"{node.name}.{end}") for end in ("sum", "gate_codes", "gate"))
    added += [
        draft.node("Add", f"{node.name}.add", [node.input[0], added[-1].output[0]], total),
        draft.node("QuantizeLinear", f"{node.name}.gate_quantize", [total, entered, zero], codes),
        draft.node("DequantizeLinear", f"{node.name}.gate_dequantize", [codes, read, zero], gate),
    ]
    node.op_type = "Mul"
    node.input.append(gate)
    draft.before(node.name, added)


def _codes_of(draft: Draft, name: str, value: float) -> list[onnx.NodeProto]:
    """A node that reads a number, as an integer kernel of two inputs wants it, from the code at an end of a grid."""
    code, zero = (GATE_STEPS, 0) if value >= 0 else (0, GATE_STEPS)
    parts = [
        draft.constant(f"{name}.code", np.array(code if value else zero, np.uint8)),
        draft.constant(f"{name}.scale", np.array(abs(value) / GATE_STEPS or 1.0, np.float32)),
        draft.constant(f"{name}.zero_point", np.array(zero, np.uint8)),
    ]
    return [draft.node("DequantizeLinear", f"{name}.dequantize", parts, draft.name(name))]


def _write_reshape(draft: Draft, node: onnx.NodeProto, writers: dict[str, Writer]) -> None:
    """A Reshape to the same shape after the node: it copies nothing, and onnxruntime moves no layout past it."""
    tensor = node.output[0]
    node.output[0] = draft.name(f"{tensor}.placed")
    shape = draft.node("Shape", f"{tensor}.get_shape", [node.output[0]], draft.name(f"{tensor}.shape"))
    kept = draft.node("Reshape", f"{tensor}.keeps_layout", [node.output[0], shape.output[0]], tensor)
    draft.after(node.name, [shape, kept])
    writers[tensor] = (kept, 0, node.name)


def _write_barrier(draft: Draft, node: onnx.NodeProto, writers: dict[str, Writer]) -> None:
    """A Sum of one tensor after the node: it changes nothing, but onnxruntime sees no layer between a DQ and a Q."""
    tensor = node.output[0]
    node.output[0] = draft.name(f"{tensor}.unchanged")
    barrier = draft.node("Sum", f"{tensor}.stays_float", [node.output[0]], tensor)
    draft.after(node.name, [barrier])
    writers[tensor] = (barrier, 0, node.name)


def switchable(
    network: Network, placement: Placement, activations: Mapping[str, ActivationParams]
) -> tuple[onnx.ModelProto, str]:
    """The network in float with a pair at every site that counts only where it is asked for.

    Its weights are those that the written codes stand for; `activations` are grids of `placement.tensors`.

    Returns:
        The model, and the name of its last input: a bool (n,) for each of `placement.tensors`.
    """
    draft = Draft(network.to_model())
    flags = draft.name("quantized")
    switches = {}
    for index, tensor in enumerate(placement.tensors):
        place = draft.constant(f"{tensor}.place", np.array(index, np.int64))
        switches[tensor] = draft.name(f"{tensor}.counts")
        draft.first([draft.node("Gather", f"{tensor}.is_quantized", [flags, place], switches[tensor])])
    write_sites(draft, placement, activations, switches)
    model = draft.finish()
    model.graph.input.append(onnx.helper.make_tensor_value_info(flags, onnx.TensorProto.BOOL, [len(switches)]))
    return model, flags


def _write_pair(draft: Draft, tensor: str, grid: ActivationParams, ends: _Ends, switch: str | None = None) -> None:
    """The pair of one tensor. Where everyone reads its result, the result takes the tensor's name."""
    readers, writer = ends.readers, ends.writer
    result = draft.name(f"{tensor}.dequantized") if readers is not None or writer is None else tensor
    source = tensor
    if result == tensor and writer is not None:
        source = draft.name(f"{tensor}.float")
        writer[0].output[writer[1]] = source
    for node in draft.nodes.values():
        if result != tensor and (readers is None or node.name in readers):
            node.input[:] = [result if name == tensor else name for name in node.input]
    codes = draft.name(f"{tensor}.quantized")
    scale = draft.constant(f"{tensor}.scale", np.array(grid.scale, np.float32))
    zero = draft.constant(f"{tensor}.zero_point", np.array(grid.zero_point, grid.dtype))
    entered = scale
    if ends.slope != 1.0:
        entered = draft.constant(f"{tensor}.entered", np.array(grid.scale / ends.slope, np.float32))
    read = result if switch is None else draft.name(f"{tensor}.read")
    pair = [
        draft.node("QuantizeLinear", f"{tensor}.quantize", [source, entered, zero], codes),
        draft.node("DequantizeLinear", f"{tensor}.dequantize", [codes, scale, zero], read),
    ]
    if switch is not None:
        pair.append(draft.node("Where", f"{tensor}.switch", [switch, read, source], result))
    if writer is None:
        draft.first(pair)
    else:
        draft.after(writer[2], pair)
