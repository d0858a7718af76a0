"""Writes a quantized network for a target; the only module that decides which QDQ form a file has.

A row of `targets.TARGETS` chooses a row of `forms.WEIGHT_FORMS` for each layer and each unseen weight; `placement`
says where activations are quantized. The network itself is not changed: its float weights are replaced by the codes in
a model of its own.

Always: initializers in raw_data (never Constant nodes, which onnxruntime miscomputes behind a DequantizeLinear), an
explicit zero point, symmetric codes, float32 biases. onnxruntime makes int32 biases of those at load with the step
input scale · weight scale, so a channel with tiny weights and a real bias would overflow: its scale is raised first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.fills import compute_fills
from onnx_udfc.emit.forms import WEIGHT_FORMS, StoredWeight, describe, stored_weight
from onnx_udfc.emit.notes import form_notes, oldest_onnxruntime
from onnx_udfc.emit.once import rescaled, write_once
from onnx_udfc.emit.placement import Placement
from onnx_udfc.emit.sites import write_sites
from onnx_udfc.emit.targets import TARGETS, Choice, Target, activation_tensors, check_activations, choose
from onnx_udfc.emit.unseen import Written, as_stored, write_unseen
from onnx_udfc.model.values import values
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.grids import FORMATS, QuantParams, storable

if TYPE_CHECKING:
    from onnx_udfc.model.network import Layer, Network
    from onnx_udfc.model.unseen import RoundedUnseen

__all__ = ["TARGETS", "Bases", "Emitted", "Placement", "activation_tensors", "check_activations", "emit"]

Bases = dict[frozenset[str], onnx.ModelProto]  # names of constants that were left out → the model without them

MOST_LOST = 2.0**-8  # of a weight's norm, where it goes back to 16 bits
WEIGHT_SLOT = 1  # the input of a layer that is its weight
SIGNED_EXACT = 64  # two products of such codes and uint8 ones fit into int16
WIDEST_BIAS = 2.0**30  # an int32 bias stays below this, so that the products added to it cannot overflow


@dataclass(frozen=True)
class Emitted:
    """A written network.

    Attributes:
        model: the model.
        form: its form in words.
        forms: layer name, or key of an unseen weight → its form in words.
        notes: what a user should know.
        onnxruntime_min: the oldest onnxruntime that runs it.
        slower: whether it is expected to run slower than the float original on its target.
        weight_memory: bytes of all layers' weights once the model is loaded.
        wide: layer name → how many of them are its float32 weights'.
    """

    model: onnx.ModelProto
    form: str
    forms: Mapping[str, str]
    notes: tuple[str, ...]
    onnxruntime_min: str
    slower: bool
    weight_memory: int
    wide: Mapping[str, int] = field(default_factory=dict)


def emit(
    network: Network,
    weights: Mapping[str, QuantParams],
    activations: Mapping[str, ActivationParams] | None,
    target: str,
    placement: Placement | None = None,
    unseen: Mapping[str, RoundedUnseen] | None = None,
    bases: Bases | None = None,
) -> Emitted:
    """Write a network with quantized weights, and activations if there are any.

    The network, with the biases that go with the codes, is left as it is. `weights` is layer name → codes and scales;
    other layers stay in float. `activations` is tensor → grid, for `placement.tensors` at least; None for weights only.
    Without a placement they are quantized everywhere that `weights` allows. `unseen`, by key of `find_unseen`, are for
    a target that takes them. `bases` of this network, where it is written several times, are filled here.

    Raises:
        RequestError: the target cannot run activations in integers, or the network cannot hold them.
    """
    opset, row = network.graph.opset, TARGETS[target]
    if activations is None:
        placement = None
    elif placement is not None:
        check_activations(network, weights, target)
    else:
        placement = activation_tensors(network, weights, target)
    inner = unseen or {}
    own: dict[str, list[str]] = {}
    for key, one in inner.items():
        own.setdefault(one.weight.slot[0] if one.weight.slot else "", []).append(key)
    replaced = {network.layers[name].constant.name for name in weights}
    replaced |= {one.weight.constant.name for one in inner.values() if one.weight.slot}
    draft = Draft(_bare(network, frozenset(replaced), bases))
    _keep_halves(draft, network, lossless=not weights and not inner and not network.reshaped)
    written: dict[str, Written] = {}
    forms, memory = {}, {name: float(layer.weight_bytes) for name, layer in network.layers.items()}
    twins: dict[Hashable, str] = {}
    for name in draft.nodes:
        for key in own.get(name, ()):
            forms[key] = _write_own(draft, network, inner[key], row, twins)
        if name not in weights:
            continue
        layer, params = network.layers[name], weights[name]
        integer = placement is not None and name in placement.integer
        choice = choose(row, layer, params.bits, integer, opset)
        grid = _input_grid(layer, placement, activations) if integer else None
        stored = _stored(layer, params, choice, grid, row)
        stored = replace(
            stored,
            source=network.source_of(layer.constant),
            alone=choice.form == "dq" and (not integer or row.codes_alone or _made_unsigned(stored)),
        )
        write_once(draft, name, WEIGHT_SLOT, stored, choice.form, twins)
        written.setdefault(network.origin.shared.get(stored.name, stored.name), Written(stored, choice.form))
        if placement is not None and grid is not None and name in placement.float_outputs:
            _write_int32_bias(draft, layer, stored, grid)
        forms[name] = describe(choice.form, stored)
        taken = WEIGHT_FORMS[choice.form].memory(stored.bits, stored.broadcast_scale.itemsize)
        memory[name] = taken * stored.codes.size
    if placement is not None and activations is not None:
        write_sites(draft, placement, activations)
    forms |= write_unseen(draft, network, {key: inner[key] for key in own.get("", ())}, row, written)
    model = draft.finish()
    compute_fills(model, network)
    plain = {key: one.params for key, one in inner.items() if key in forms}
    slower, notes = form_notes(network, weights, plain, placement, row, forms)
    form = "; ".join(
        [
            *dict.fromkeys(forms.values()),
            *([f"activations {placement.dtype}"] if placement and placement.integer else []),
        ]
    )
    oldest, whole = oldest_onnxruntime(model), round(sum(memory.values()))
    wide = {name: round(taken) for name, taken in memory.items() if _is_float32(network.layers[name], taken)}
    return Emitted(model, form or "float", forms, notes, oldest, slower, whole, wide)


def _bare(network: Network, without: frozenset[str], bases: Bases | None) -> onnx.ModelProto:
    """The network's model without some constants, a copy of the one that is there already if there is one."""
    if bases is None:
        return network.to_model(without=without)
    if without not in bases:
        bases[without] = network.to_model(without=without)
    model = onnx.ModelProto()
    model.CopyFrom(bases[without])
    return model


def _is_float32(layer: Layer, taken: float) -> bool:
    """Whether the bytes that a weight takes are those of float32, not of codes."""
    return layer.constant.dtype == np.float32 and taken == layer.weight_bytes


def _stored(
    layer: Layer, params: QuantParams, choice: Choice, grid: ActivationParams | None, target: Target
) -> StoredWeight:
    """The weight as the file holds it."""
    dtype = layer.constant.dtype
    float_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    if dtype == np.float16:  # a scale found for float32 may vanish there
        params = rescaled(params, storable(params.scale, dtype))
    if target.by_input and layer.stuffed and choice.form == "dq":
        return _per_input_channel(layer, params, float_type)
    if grid is not None:
        params = _bias_in_range(params, layer.bias, grid.scale)
    return stored_weight(layer, params, choice.bits, float_type)


def _made_unsigned(stored: StoredWeight) -> bool:
    """Whether onnxruntime may turn codes beside uint8 activations into uint8 ones, by `session.x64quantprecision`.

    It does where products could clip, and names the new initializers, of codes and zero points, by the old ones: it
    fails at a second layer that reads the same. Codes in 7 bits are left alone.
    """
    return int(np.abs(stored.codes.astype(np.int16)).max(initial=0)) > SIGNED_EXACT


def _input_grid(
    layer: Layer, placement: Placement | None, activations: Mapping[str, ActivationParams] | None
) -> ActivationParams | None:
    if placement is None or activations is None:
        return None
    source = placement.grid_of(layer.node.inputs[0].name)
    return None if source is None else activations[source]


def _bias_in_range(params: QuantParams, bias: NDArray[np.floating], input_scale: float) -> QuantParams:
    """Raise the scale of channels whose bias would overflow int32 at the step input_scale·scale."""
    least = np.abs(bias.reshape(params.scale.shape).astype(np.float64)) / (input_scale * WIDEST_BIAS)
    return rescaled(params, storable(np.maximum(params.scale, least), np.float32))


def _per_input_channel(layer: Layer, params: QuantParams, float_type: int) -> StoredWeight:
    """Codes in 8 bits with a scale for each input channel: the axis that TensorRT wants of a ConvTranspose."""
    weight = layer.layout(params.dequantize())
    axes = tuple(range(1, weight.ndim))
    largest = np.abs(weight).max(axis=axes)
    scale = np.where(largest > 0, largest / FORMATS[8].qmax, 1.0).astype(np.float32).astype(np.float64)
    codes = np.rint(weight / np.expand_dims(scale, axes)).astype(np.int8)
    return StoredWeight(layer.constant.name, codes, scale, 0, 8, FORMATS[8], float_type)


def _keep_halves(draft: Draft, network: Network, *, lossless: bool) -> None:
    """Constants that were stored as 16-bit floats and cast are stored so again: a float32 one would be twice as large.

    With `lossless` nothing was to be changed, so that only what is the same in 16 bits is.
    """
    for name, kind in network.half_constants().items():
        tensor = draft.constants.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        real = values(tensor)
        with np.errstate(over="ignore"):
            half = real.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        lost = float(np.linalg.norm((half.astype(np.float32) - real).ravel()))
        if lost > (0.0 if lossless else MOST_LOST * float(np.linalg.norm(real.ravel()))) or not np.isfinite(lost):
            continue
        draft.drop_constant(name)
        stored = draft.constant(f"{name}.half", half, tensor)
        draft.first([draft.node("Cast", f"{name}.widen", [stored], name, {"to": onnx.TensorProto.FLOAT})])


def _write_own(draft: Draft, network: Network, one: RoundedUnseen, target: Target, twins: dict[Hashable, str]) -> str:
    """An unseen weight that a node of the network's own graph reads; returns its form in words."""
    assert one.weight.slot is not None
    plain = as_stored(network, one, target)
    write_once(draft, *one.weight.slot, plain.stored, plain.form, twins)
    return describe(plain.form, plain.stored)


def _write_int32_bias(draft: Draft, layer: Layer, stored: StoredWeight, grid: ActivationParams) -> None:
    """The bias in int32 steps of input scale · weight scale: a Gemm without a Q after it gets no help at load."""
    tensor = layer.bias_tensor
    if tensor is None:
        return
    scale = np.float32(grid.scale) * stored.scale.astype(np.float32)
    codes = np.rint(layer.bias.astype(np.float64) / scale).astype(np.int32)
    inputs = [
        draft.constant(f"{tensor.name}.codes", codes),
        draft.constant(f"{tensor.name}.scale", scale),
        draft.constant(f"{tensor.name}.zero_point", np.zeros(codes.size, np.int32)),
    ]
    draft.drop_constant(tensor.name)
    draft.before(
        layer.name, [draft.node("DequantizeLinear", f"{tensor.name}.dequantize", inputs, tensor.name, {"axis": 0})]
    )
