"""Float16: the ranges that a written network has on its inputs, and the network with what they allow in float16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_udfc.emit.float16 import Halved, to_float16
from onnx_udfc.emit.half_nodes import tensor_types
from onnx_udfc.emit.notes import AS_ORIGINAL
from onnx_udfc.escapes import some
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.inputs.network_inputs import NetworkInputs, batch_of, make_inputs
from onnx_udfc.inputs.sizes import input_specs_of
from onnx_udfc.numerics.halves import Span, span_of
from onnx_udfc.options import Options
from onnx_udfc.options.words import ON_GPU
from onnx_udfc.runtime.walk import Pieces, Value, Walk

if TYPE_CHECKING:
    from onnx_udfc.emit.writer import Emitted
    from onnx_udfc.model.network import Network

SAMPLES = 8  # whose values are looked at, one after another
AT_ONCE = 24  # nodes between two of which values are freed
MOST_NAMED = 8


def halve(emitted: Emitted, network: Network, inputs: NetworkInputs, options: Options) -> Emitted:
    """The written network in float16.

    The model of `emitted` is changed in place; where the repair had no inputs, they are made anew.
    """
    fed = inputs if inputs.values else make_inputs(network, options if options.calibrate else options.counted(SAMPLES))
    halved = to_float16(emitted.model, spans(emitted.model, network, fed))
    forms = dict(emitted.forms)
    for name in network.layers:
        if name in halved.nodes:
            forms[name] = f"{forms[name]}, computed in float16" if name in forms else "float16"
    form = emitted.form if emitted.form != "float" else ""
    told = [note.replace(AS_ORIGINAL, "memory and speed are those of float16") for note in emitted.notes]
    saved = sum(taken // 2 for name, taken in emitted.wide.items() if name in halved.nodes)
    return replace(
        emitted, model=halved.model, forms=forms, form="; ".join([*([form] if form else []), "float16"]),
        notes=(*told, *_notes(halved, network, options.target)), weight_memory=emitted.weight_memory - saved,
    )  # fmt: skip


def spans(model: onnx.ModelProto, network: Network, inputs: NetworkInputs) -> dict[str, Span]:
    """Name of a float32 tensor → the values that it had on a few inputs."""
    specs = input_specs_of(network)
    wanted = {name for name, kind in tensor_types(model).items() if kind == onnx.TensorProto.FLOAT}
    found: dict[str, Span] = {}

    def watcher(name: str) -> Callable[[Value], Value]:
        def watch(value: Value) -> Value:
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                found[name] = span_of(value).joined(found.get(name, Span()))
            return value

        return watch

    watched = {name: watcher(name) for name in wanted}
    pieces = Pieces()
    for sample in evenly_spaced(batch_of(network, inputs.values), SAMPLES):
        values = take(specs, inputs.values, np.array([sample]))
        walk = Walk(model, values, [], watched, pieces)
        outputs = [name for node in model.graph.node for name in node.output if name]
        for name in (*outputs[::AT_ONCE], *(o.name for o in model.graph.output)):
            if walk.available(name):  # else it has been there, and nobody reads it any more
                walk.get(name)
    return found


def _notes(halved: Halved, network: Network, target: str) -> tuple[str, ...]:
    """What a user should know."""
    wide = [name for name in halved.wide if name in network.layers]
    notes = [f"computed in float32, for float16 does not hold their values: {some(wide, MOST_NAMED)}"] if wide else []
    if target not in ON_GPU:
        notes.append("float16 is for GPUs and for small files: processors widen it to float32 in every run")
    return tuple(notes)
