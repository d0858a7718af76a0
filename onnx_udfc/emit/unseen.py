"""Writes unseen weights (`model.unseen`) as codes, in the graphs that hold them.

They get a form that onnxruntime folds when it loads the file, inside of branches and loop bodies too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.forms import StoredWeight, describe, stored_unseen, write_weight
from onnx_udfc.emit.once import rescaled
from onnx_udfc.model.graph import peek
from onnx_udfc.model.lossless import Stored
from onnx_udfc.model.unseen import Path, RoundedUnseen, Unseen, inner_weights
from onnx_udfc.numerics.grids import storable
from onnx_udfc.numerics.halves import holds

if TYPE_CHECKING:
    from onnx_udfc.emit.targets import Target
    from onnx_udfc.model.network import Network

FOLDED = {"dq": "cast_mul", "cast_dq": "cast_mul", "packed_dq": "packed_mul"}  # for a reader that is no integer kernel
NEAR = 9.0  # times the squared error of the nearest codes: how far the codes of a layer may be from its weight


@dataclass(frozen=True)
class Written:
    """A weight of a layer as it was written, and its form."""

    stored: StoredWeight
    form: str


def write_unseen(
    draft: Draft,
    network: Network,
    rounded: Mapping[str, RoundedUnseen],
    target: Target,
    layers: Mapping[str, Written],
) -> dict[str, str]:
    """Write unseen weights that nodes with graphs inside hold or read, from the innermost outwards.

    All layers of the model are written. `rounded` is key of an unseen weight → its codes; `layers` name of an
    initializer → what a layer that was read from it has become.

    Returns:
        Key → the form, in words, of those that were written: one that another node needs in float is not.
    """
    forms = {}
    inner: dict[Path, dict[str, RoundedUnseen]] = {}
    needed = {
        name
        for node in draft.nodes.values()
        for name in (list(node.input)[:2] if node.op_type == "Loop" else node.input)  # a loop begins with the others
    }
    for key, one in rounded.items():
        if one.weight.path:
            inner.setdefault(one.weight.path, {})[key] = one
            continue
        name = one.weight.constant.name
        if name in needed:
            continue
        plain = _as_layer(layers.get(name), as_stored(network, one, target), one.weight)
        draft.drop_constant(name)
        draft.first(write_weight(draft, plain.stored, plain.form))
        forms[key] = describe(plain.form, plain.stored)
    for path in sorted(inner, key=len, reverse=True):
        inside = Draft(draft.model, (_graph_at(draft, path), draft))
        for key, one in inner[path].items():
            plain = as_stored(network, one, target)
            inside.drop_constant(one.weight.constant.name)
            inside.first(write_weight(inside, plain.stored, plain.form))
            forms[key] = describe(plain.form, plain.stored)
        inside.finish()
    return {key: forms[key] for key in rounded if key in forms}


def halve_inside(model: onnx.ModelProto) -> None:
    """Store the float32 weights of inner graphs as float16, in place; what computes with them stays in float32."""
    draft, inner = Draft(model), dict[Path, list[Unseen]]()
    for one in inner_weights(model.graph, list(draft.nodes)):
        if one.path and one.constant.dtype == np.float32 and holds(peek(one.constant)):
            inner.setdefault(one.path, []).append(one)
    for path in sorted(inner, key=len, reverse=True):
        inside = Draft(model, (_graph_at(draft, path), draft))
        for name, weight in ((one.constant.name, peek(one.constant)) for one in inner[path]):
            inside.drop_constant(name)
            stored = inside.constant(f"{name}.half", weight.astype(np.float16), inside.constants.get(name))
            inside.first([inside.node("Cast", f"{name}.widen", [stored], name, {"to": onnx.TensorProto.FLOAT})])
        inside.finish()


def as_stored(network: Network, one: RoundedUnseen, target: Target) -> Written:
    """The weight as the file holds it, and its form: as layers have it where a target has none of its own for it."""
    dtype = one.weight.constant.dtype
    params = rescaled(one.params, storable(one.params.scale, dtype))
    choice = (target.table or target.choose)(one.weight, params.bits, False, network.graph.opset)
    stored = stored_unseen(one.weight, params, choice.bits, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    held = one.weight.constant._values
    source = held.source if isinstance(held, Stored) else network.source_of(one.weight.constant)
    return Written(replace(stored, source=source, alone=choice.form == "dq"), choice.form)


def _as_layer(layer: Written | None, plain: Written, weight: Unseen) -> Written:
    """The codes of a layer that shares the weight, where they still stand for it; then they are in the file once.

    A repair moves the weights of a layer: not far where its inputs are nearly what they were.
    """
    if layer is None or layer.stored.codes.shape != plain.stored.codes.shape:
        return plain
    values = np.asarray(peek(weight.constant), np.float64)
    lost, least = (float(np.square(_values(w.stored) - values).sum()) for w in (layer, plain))
    shared = replace(layer.stored, name=plain.stored.name, source=plain.stored.source)
    form = layer.form if plain.form == "dq" else FOLDED.get(layer.form, layer.form)
    return Written(shared, form) if lost <= NEAR * least else plain


def _values(stored: StoredWeight) -> NDArray[Any]:
    """The weights that codes stand for."""
    values: NDArray[Any] = stored.format.decode(stored.codes) * np.asarray(stored.broadcast_scale, np.float64)
    return values if stored.finer is None else values + _values(stored.finer)


def _graph_at(draft: Draft, path: Path) -> onnx.GraphProto:
    """The graph that a path leads to."""
    graph = draft.graph
    for step, name in path:
        node = draft.nodes[step] if isinstance(step, str) else graph.node[step]
        graph = next(a.g for a in node.attribute if a.name == name)
    return graph
