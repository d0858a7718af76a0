"""The forms in which a quantized weight is written: a table, one function a form.

Each puts codes into the file and nodes before the layer that give the weight back under its old name, so the layer
itself stays as it is. What onnxruntime makes of each form (tools/measure/form_latency.py measures it):

- cast_mul: Cast(codes → float) → Mul(scale). Constant, so it is folded into a float weight when the model is loaded:
  small on disk, as fast as float. Products of 16-bit floats are never folded, so they are computed in float32, and a
  Cast follows.
- dq: DequantizeLinear(codes). An integer kernel where the activations are quantized, otherwise computed in every run.
- cast_dq: Cast(4 bit → INT8) → DequantizeLinear(INT8). The Cast is folded; then the integer kernel of int8 weights.
- packed_mul, packed_dq: the same two for codes in packed words (`packing`): Div and Mod take a word apart, Gather turns
  digits into codes. All of it is folded at load, by any onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnx_udfc.emit.draft import CODE_TYPES, Draft
from onnx_udfc.numerics.grids import FORMATS, Codes, Floats, QuantFormat, QuantParams
from onnx_udfc.numerics.words import best_count, pack_words, powers

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.unseen import Unseen

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class StoredWeight:
    """A weight as it goes into the file.

    Attributes:
        name: of the float tensor that the layer reads.
        codes: int8, in the layout of the layer's weight.
        scale: one value a channel (n,), or shaped so that codes·scale broadcasts where axis is None.
        axis: the axis of codes that scale runs along; None where there is none (a grouped ConvTranspose).
        bits: that a code takes in the file: 8 or 4.
        format: of the codes.
        float_type: the ONNX type of the float tensor.
        source: the initializer that the weight was read from, for its doc string and metadata.
        finer: of what these codes leave of the weight, where they are not enough; added to them.
        alone: whether its initializers have to be its own: onnxruntime makes another kernel of a DequantizeLinear and
            its layer, takes the codes away, and fails at the next reader.
    """

    name: str
    codes: Codes
    scale: Floats
    axis: int | None
    bits: int
    format: QuantFormat
    float_type: int
    source: TensorProto | None = None
    alone: bool = False
    finer: StoredWeight | None = None

    @property
    def compute_type(self) -> int:
        """The type in which codes are multiplied: onnxruntime folds no product of 16-bit floats at load."""
        return TensorProto.FLOAT if self.float_type in HALVES else self.float_type

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        """The same as numpy has it."""
        return helper.tensor_dtype_to_np_dtype(self.compute_type)

    @property
    def broadcast_scale(self) -> NDArray[Any]:
        """The scale in the float type, shaped so that codes·scale broadcasts."""
        scale = self.scale.astype(helper.tensor_dtype_to_np_dtype(self.float_type))
        if self.axis is None:
            return scale
        return scale.reshape([-1 if i == self.axis else 1 for i in range(self.codes.ndim)])


@dataclass(frozen=True)
class WeightForm:
    """A row of the table.

    Attributes:
        write: adds initializers to a draft and returns the nodes that give the weight.
        text: for the report; {type} is the type of the codes, {levels} their number.
        memory: bytes that one weight takes once the model is loaded, from its stored bits and its float size.
    """

    write: Callable[[Draft, StoredWeight], list[NodeProto]]
    text: str
    memory: Callable[[int, int], float]


def write_weight(draft: Draft, weight: StoredWeight, form: str) -> list[NodeProto]:
    """Add the initializers of a weight to a draft, and return the nodes that give it, by a row of WEIGHT_FORMS."""
    write = WEIGHT_FORMS[form].write
    if weight.finer is None:
        return write(draft, weight)
    parts = [
        replace(part, name=draft.name(f"{weight.name}.{word}"), finer=None, alone=weight.alone)
        for word, part in (("coarse", weight), ("fine", weight.finer))
    ]
    nodes = [node for part in parts for node in write(draft, part)]
    return [*nodes, draft.node("Add", f"{weight.name}.sum", [part.name for part in parts], weight.name)]


def _cast_mul(draft: Draft, weight: StoredWeight) -> list[NodeProto]:
    codes = draft.codes(f"{weight.name}.codes", weight.codes, weight.bits, weight.source)
    cast, book = draft.name(f"{weight.name}.cast"), bool(weight.format.values)
    kind = TensorProto.INT32 if book else weight.compute_type
    nodes = [draft.node("Cast", f"{weight.name}.to_float", [codes], cast, {"to": kind})]
    if book:
        values = np.roll(weight.format.book, weight.format.qmin)  # Gather counts negative codes from the end
        table = draft.shared(f"book{weight.format.bits:g}.from0", values.astype(weight.compute_dtype))
        nodes.append(draft.step("Gather", [table, cast]))
    return [*nodes, *_rescaled(draft, weight, nodes[-1].output[0])]


def _rescaled(draft: Draft, weight: StoredWeight, codes: str) -> list[NodeProto]:
    """Codes in `compute_type` times the scale, in the weight's type."""
    scale = draft.constant(f"{weight.name}.scale", weight.broadcast_scale.astype(weight.compute_dtype))
    if weight.compute_type == weight.float_type:
        return [draft.node("Mul", f"{weight.name}.rescale", [codes, scale], weight.name)]
    wide = draft.name(f"{weight.name}.wide")
    return [
        draft.node("Mul", f"{weight.name}.rescale", [codes, scale], wide),
        draft.node("Cast", f"{weight.name}.narrow", [wide], weight.name, {"to": weight.float_type}),
    ]


def _dq(draft: Draft, weight: StoredWeight) -> list[NodeProto]:
    codes = draft.codes(f"{weight.name}.codes", weight.codes, weight.bits, weight.source, weight.alone)
    return [_dequantize(draft, weight, codes, weight.bits)]


def _cast_dq(draft: Draft, weight: StoredWeight) -> list[NodeProto]:
    codes = draft.codes(f"{weight.name}.codes", weight.codes, weight.bits, weight.source)
    wide = draft.name(f"{weight.name}.int8")
    cast = draft.node("Cast", f"{weight.name}.to_int8", [codes], wide, {"to": TensorProto.INT8})
    return [cast, _dequantize(draft, weight, wide, 8)]


def _packed_mul(draft: Draft, weight: StoredWeight) -> list[NodeProto]:
    nodes = _unpacked(draft, weight, weight.compute_dtype)
    return [*nodes, *_rescaled(draft, weight, nodes[-1].output[0])]


def _packed_dq(draft: Draft, weight: StoredWeight) -> list[NodeProto]:
    nodes = _unpacked(draft, weight, np.dtype(np.int8))
    return [*nodes, _dequantize(draft, weight, nodes[-1].output[0], 8)]


def _unpacked(draft: Draft, weight: StoredWeight, dtype: np.dtype[Any]) -> list[NodeProto]:
    """Words → digits → codes of a type, in the weight's shape; everything but the words is shared between layers."""
    levels, size, book = weight.format.levels, weight.codes.size, weight.format.values
    count = best_count(size, levels, SLICE_BYTES)
    words = draft.constant(f"{weight.name}.codes", pack_words(weight.codes, levels, count), weight.source)
    base = draft.shared(f"base{levels}", np.array(levels, np.int64))
    values = weight.format.book if book else np.arange(weight.format.qmin, weight.format.qmax + 1)
    table = draft.shared(f"{'book' if book else 'codes'}{levels}.{dtype.name}", values.astype(dtype))
    nodes = [draft.step("Div", [words, draft.shared(f"base{levels}.{count}", powers(levels, count))])]
    nodes.append(draft.step("Mod", [nodes[-1].output[0], base]))
    nodes.append(draft.step("Gather", [table, nodes[-1].output[0]]))
    if size % count:
        flat, first = draft.shared("flat", np.array([-1])), draft.shared("first", np.array([0]))
        nodes.append(draft.step("Reshape", [nodes[-1].output[0], flat]))
        nodes.append(draft.step("Slice", [nodes[-1].output[0], first, draft.shared(f"n{size}", np.array([size]))]))
    shape = draft.shared("x".join(map(str, weight.codes.shape)), np.array(weight.codes.shape))
    return [*nodes, draft.step("Reshape", [nodes[-1].output[0], shape])]


def _dequantize(draft: Draft, weight: StoredWeight, codes: str, bits: int) -> NodeProto:
    """DequantizeLinear with an explicit zero point: without one, QGemm is not used or fails."""
    assert weight.axis is not None
    scale = draft.constant(f"{weight.name}.scale", weight.broadcast_scale.reshape(-1), alone=weight.alone)
    zero = draft.codes(f"{weight.name}.zero_point", np.zeros(weight.scale.size, np.int8), bits, None, weight.alone)
    return draft.node(
        "DequantizeLinear", f"{weight.name}.dequantize", [codes, scale, zero], weight.name, {"axis": weight.axis}
    )


WEIGHT_FORMS: dict[str, WeightForm] = {
    "cast_mul": WeightForm(_cast_mul, "Cast({type}→{float})→Mul", lambda _, width: width),
    "dq": WeightForm(_dq, "DequantizeLinear({type})", lambda bits, _: bits / 8),
    "cast_dq": WeightForm(_cast_dq, "Cast({type}→INT8)→DequantizeLinear", lambda _bits, _width: 1),
    "packed_mul": WeightForm(_packed_mul, "words of {levels} levels→{float}→Mul", lambda _, width: width),
    "packed_dq": WeightForm(_packed_dq, "words of {levels} levels→INT8→DequantizeLinear", lambda _bits, _width: 1),
}
SLICE_BYTES = 120  # what two more nodes take in the file


def describe(form: str, weight: StoredWeight) -> str:
    """Return a form in words, e.g. Cast(INT4→FLOAT)→Mul."""
    names = {value: key for key, value in TensorProto.DataType.items()}
    kind, real = names[CODE_TYPES[weight.bits]], names[weight.compute_type]
    text = WEIGHT_FORMS[form].text.format(type=kind, float=real, levels=weight.format.levels)
    if weight.format.values:
        text = text.replace("→Mul", f"→Gather({weight.format.levels} values)→Mul")
    if weight.finer is not None:
        text = f"{text} + {describe(form, weight.finer)}"
    narrowed = text.endswith("Mul") and weight.compute_type != weight.float_type
    return f"{text}→Cast({names[weight.float_type]})" if narrowed else text


def stored_weight(layer: Layer, params: QuantParams, bits: int, float_type: int) -> StoredWeight:
    """Lay codes and scales out as the layer's weight.

    `params` are in the layout of `Layer.matrix()`; a code takes `bits` in the file; `float_type` is the ONNX type of
    the weight.
    """
    codes = np.ascontiguousarray(layer.layout(params.codes))
    axis = layer.channel_axis
    scale = params.scale.reshape(-1)
    if axis is None:
        per_row = np.repeat(params.scale, codes.shape[0] // layer.groups, axis=0)
        scale = per_row.reshape(*codes.shape[:2], *[1] * (codes.ndim - 2))
    stored = StoredWeight(layer.constant.name, codes, scale, axis, bits, FORMATS[params.bits], float_type)
    if params.finer is None:
        return stored
    return replace(
        stored, finer=stored_weight(layer, params.finer, min(bits, FORMATS[params.finer.bits].storage), float_type)
    )


def stored_unseen(unseen: Unseen, params: QuantParams, bits: int, float_type: int) -> StoredWeight:
    """Lay codes and scales out as an unseen weight: arguments as of `stored_weight`, in `Unseen.matrix`."""
    axes, fmt = unseen.axes, FORMATS[params.bits]
    codes = np.ascontiguousarray(unseen.layout(params.codes, axes))
    if len(axes) == 1:
        return StoredWeight(unseen.constant.name, codes, params.scale.reshape(-1), axes[0], bits, fmt, float_type)
    scale = params.scale.reshape([n if a in axes else 1 for a, n in enumerate(codes.shape)])
    return StoredWeight(unseen.constant.name, codes, scale, None, bits, fmt, float_type)
