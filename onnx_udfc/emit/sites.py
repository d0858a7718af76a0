"""Writes the Q/DQ pairs of a placement into a draft."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.placement import Placement
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.activation_grids import ActivationParams

Writer = tuple[onnx.NodeProto, int, str]  # the node that writes a tensor, which of its outputs, after which node to add


def write_sites(
    draft: Draft,
    placement: Placement,
    activations: Mapping[str, ActivationParams],
    switches: Mapping[str, str] | None = None,
) -> None:
    """Add a QuantizeLinear → DequantizeLinear pair at every site.

    Args:
        draft: the model that is added to.
        placement: the sites.
        activations: grids of `placement.tensors`.
        switches: name of a quantized tensor → a scalar of type bool that says whether the pair counts; a tensor that is
            not named always goes through its pair.
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
    for tensor, readers in placement.sites.items():
        source = placement.grid_of(tensor)
        assert source is not None, tensor
        _write_pair(draft, tensor, readers, activations[source], writers.get(tensor), (switches or {}).get(source))


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

    Args:
        network: with the weights that the written codes stand for.
        placement: the sites.
        activations: grids of `placement.tensors`.

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


def _write_pair(
    draft: Draft,
    tensor: str,
    readers: tuple[str, ...] | None,
    grid: ActivationParams,
    writer: Writer | None,
    switch: str | None = None,
) -> None:
    """The pair of one tensor. Where everyone reads its result, the result takes the tensor's name."""
    result = draft.name(f"{tensor}.dequantized") if readers is not None or writer is None else tensor
    source = tensor
    if result == tensor and writer is not None:
        source = draft.name(f"{tensor}.float")
        writer[0].output[writer[1]] = source
    for node in draft.nodes.values():
        if result != tensor and (readers is None or node.name in readers):
            _rename_input(node, tensor, result)
    codes = draft.name(f"{tensor}.quantized")
    parameters = [
        draft.constant(f"{tensor}.scale", np.array(grid.scale, np.float32)),
        draft.constant(f"{tensor}.zero_point", np.array(grid.zero_point, grid.dtype)),
    ]
    read = result if switch is None else draft.name(f"{tensor}.read")
    pair = [
        draft.node("QuantizeLinear", f"{tensor}.quantize", [source, *parameters], codes),
        draft.node("DequantizeLinear", f"{tensor}.dequantize", [codes, *parameters], read),
    ]
    if switch is not None:
        pair.append(draft.node("Where", f"{tensor}.switch", [switch, read, source], result))
    if writer is None:
        draft.first(pair)
    else:
        draft.after(writer[2], pair)


def _rename_input(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
