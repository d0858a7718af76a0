"""Models of older opsets converted to the one the package works with; whatever the converter drops is put back.

It drops names and remarks, and changes meanings. Before opset 11, Upsample and Resize computed the source position of
output i as i / scale (now called asymmetric), and onnxruntime took its floor where a dimension grew and its ceiling
where it shrank. From 11 on the default is another, and the converter leaves it at that. Before opset 13, Hardmax worked
on all axes from `axis` on. From opset 19 on, onnxruntime before 1.25 takes the beginning of the last axis for the
end of the first where an AveragePool counts what it pads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import inferred, known_sizes
from onnx_udfc.model.names import names_in, unique_name
from onnx_udfc.model.protos import (
    all_graphs,
    attribute,
    constants,
    copy_except,
    opset_of,
    reads,
    set_nodes,
    skeleton,
    sort_nodes,
    subgraphs,
)
from onnx_udfc.model.quiet import quiet_options

OPSET = 21
IR = 10
TARGETS = (21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9)
_SAME_RANK = ("Concat", "Identity", "Cast", "Dropout", "Transpose", "Relu", "LeakyRelu", "Sigmoid", "Softmax")
LARGEST = 1 << 14  # bytes of an initializer that an operator may need to know
_ELSEWHERE = "onnx_udfc.elsewhere"  # a domain that the converter knows nothing of

Scales = NDArray[np.floating]


def upgrade(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Converts the model to opset 21 and IR 10; newer ones are kept.

    The converter sees the model without its larger weights: it is quick, and cannot touch them.
    The model is not changed; part of the result may be shared with it.

    Returns:
        The model, and notes for the user. Where a conversion fails or gives a model that onnxruntime does not load
        though it loads the original, the highest opset that works.
    """
    version = opset_of(model)
    if version is None or version >= OPSET:
        return _with_ir(model), []
    model = with_masks(model, version)
    light, reason = skeleton(model, LARGEST), ""
    if version < 13:
        _say_last(light)
    hidden, limit = _hidden(light, version), highest_faithful(model.graph, version)
    if limit < OPSET:
        reason = "a node would compute something else"
    for target in (t for t in TARGETS if version < t <= limit):
        converted, fault = _convert(hidden, target)
        if converted is not None:
            result = _restore(model, converted)
            if _accepted(skeleton(result, LARGEST), light):
                return result, [] if target == OPSET else [_note(target, version, reason)]
            fault = next(
                (f"{n.op_type} is not a standard operator" for n in _undefined(light, OPSET)),
                "onnxruntime does not load the result",
            )
        reason = reason or fault
        if converted is None and _convert(hidden, version + 1)[0] is None:
            break  # it can convert nothing of this model
    raised = _with_ir(model)
    kept = raised if _accepted(skeleton(raised, LARGEST), light) else model
    return kept, [_note(version, version, reason)]


def _say_last(light: onnx.ModelProto) -> None:
    """Writes -1 for the axis of a Softmax where it is the last; in place.

    Before opset 13 it worked on all axes from `axis` on. The converter spells that with a Flatten, and a Reshape that
    hides the sizes of what follows, unless it sees that there is only one: it does not know ranks that are computed.
    """
    nodes = [n for n in light.graph.node if n.op_type in ("Softmax", "LogSoftmax") and standard(n.domain)]
    if not nodes:
        return
    whole = inferred(light)
    sizes = known_sizes(whole)
    declared = [*whole.graph.input, *whole.graph.output, *whole.graph.value_info]
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in declared if i.type.tensor_type.HasField("shape")}
    ranks |= {name: len(size) for name, size in sizes.items()}
    for node in light.graph.node:  # those that are left, from the first on
        found = [ranks.get(name) for name in node.input]
        if node.op_type == "Reshape" and len(sizes.get(node.input[1], ())) == 1:
            ranks.setdefault(node.output[0], sizes[node.input[1]][0])
        elif node.op_type in _SAME_RANK and any(found):
            ranks.setdefault(node.output[0], max(rank for rank in found if rank))
    for node in nodes:
        if ranks.get(node.input[0]) == attribute(node, "axis", 1) + 1:
            kept = [a for a in node.attribute if a.name != "axis"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("axis", -1)])


def _convert(hidden: onnx.ModelProto, target: int) -> tuple[onnx.ModelProto | None, str]:
    """The converted model, or None and why not."""
    try:
        return _shown(version_converter.convert_version(hidden, target)), ""
    except Exception as error:  # whatever its C++ code raises
        return None, _reason(error)


def _hidden(light: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model with those nodes in another domain that the standard's does not have in its opset; itself if none.

    onnxruntime has some in every opset, and writes them into files: LayerNormalization, before opset 17.
    """
    if not any(_undefined(light, version)):
        return light
    hidden = onnx.ModelProto()
    hidden.CopyFrom(light)
    for node in _undefined(hidden, version):
        node.domain = _ELSEWHERE
    hidden.opset_import.append(helper.make_opsetid(_ELSEWHERE, 1))
    return hidden


def _undefined(model: onnx.ModelProto, version: int) -> Iterator[onnx.NodeProto]:
    """Nodes of the standard's domain whose operator it does not have in this opset."""
    for node in (node for graph in all_graphs(model.graph) for node in graph.node):
        try:
            onnx.defs.get_schema(node.op_type if standard(node.domain) else "Identity", version)
        except onnx.defs.SchemaError:
            yield node


def _shown(converted: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what was hidden from the converter in the standard's domain again; in place."""
    for node in (n for graph in all_graphs(converted.graph) for n in graph.node):
        if node.domain == _ELSEWHERE:
            node.domain = ""
    for i in reversed(range(len(converted.opset_import))):
        if converted.opset_import[i].domain == _ELSEWHERE:
            del converted.opset_import[i]
    return converted


def _note(target: int, version: int, reason: str) -> str:
    """What the user is told when opset 21 was not reached."""
    kept = f"kept at opset {version}" if target == version else f"converted from opset {version} to {target} only"
    return f"{kept}: conversion to opset {OPSET} failed ({reason})"


def _reason(error: Exception) -> str:
    """What the converter said, without its source positions and its unfilled place holders."""
    line = " ".join(str(error).split())
    return (line.rsplit("failed:", 1)[-1] if "failed:" in line else line).strip()[:160]


def _with_ir(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at IR 10, as newer opsets are defined from some IR on."""
    if model.ir_version >= IR:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = IR
    return result


def _restore(model: onnx.ModelProto, converted: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes of the converted model in everything else of the original."""
    result = onnx.ModelProto()
    copy_except(result, model, {"graph", "opset_import", "ir_version"})
    copy_except(result.graph, model.graph, {"node"})
    result.ir_version = max(model.ir_version, IR)
    result.opset_import.extend(converted.opset_import)
    result.graph.node.extend(converted.graph.node)
    known = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    result.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in known)
    mend_nodes(result.graph, model.graph, opset_of(model) or OPSET, opset_of(converted) or OPSET)
    return result


def _accepted(converted: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the converted model, or does not load the original either."""
    return _loads(converted) or not _loads(original)


def _loads(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the model; nothing is optimized, so it is quick."""
    import onnxruntime as ort

    options = quiet_options()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions share no base class
        return False
    return True


def mend_nodes(converted: onnx.GraphProto, original: onnx.GraphProto, version: int, target: int) -> None:
    """Gives the nodes of a converted graph what those of the original had; in place, subgraphs included.

    `version` is the opset of the original, `target` that of the converted graph.
    """
    writers = {name: node for node in converted.node for name in node.output if name}
    written = {tuple(node.output): node for node in converted.node}
    known = {name for node in original.node for name in node.output}
    padding: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
    for source in original.node:
        writer = written.get(tuple(source.output))
        node = None if writer is None else _successor(source, writer, writers, known)
        if node is None:
            continue
        if node.op_type == "Resize" and version < 11 <= target:
            _make_asymmetric(node, _shrinks(source, original))
        if node.op_type == "AveragePool" and version < 19 <= target and _counts_unevenly(node):
            padding[tuple(node.output)] = _pad_before(node, set(names_in(converted)))
        copy_except(node, source, {"input", "output", "attribute", "op_type", "domain"})
        inner = {a.name: a.g for a in source.attribute if a.HasField("g")}
        for held in (a for a in node.attribute if a.HasField("g") and a.name in inner):
            mend_nodes(held.g, inner[held.name], version, target)
    if padding:
        set_nodes(converted, [n for node in converted.node for n in [*padding.get(tuple(node.output), []), node]])


def _counts_unevenly(node: onnx.NodeProto) -> bool:
    """Whether an AveragePool counts what it pads, and does not pad alike on all sides."""
    counts = attribute(node, "count_include_pad", 0) and not attribute(node, "ceil_mode", 0)
    return bool(counts) and len(set(attribute(node, "pads", []))) > 1


def _pad_before(node: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """Nodes that pad in place of a pooling, which then does not."""
    pads = attribute(node, "pads")
    sides = [0, 0, *pads[: len(pads) // 2], 0, 0, *pads[len(pads) // 2 :]]
    name, padded = (unique_name(f"{node.output[0]}.{what}", taken) for what in ("pads", "padded"))
    inputs = [node.input[0], name]
    node.input[0] = padded
    kept = [a for a in node.attribute if a.name != "pads"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [helper.make_node("Constant", [], [name], value_ints=sides), helper.make_node("Pad", inputs, [padded])]


def _successor(
    source: onnx.NodeProto, writer: onnx.NodeProto, writers: dict[str, onnx.NodeProto], known: set[str]
) -> onnx.NodeProto | None:
    """The converted node that does what `source` did.

    The one that writes its output now may be new: Softmax below opset 13 becomes Flatten → Softmax → Reshape. What has
    the name, and the remarks, of the old node is the Softmax.
    `writer` writes its outputs; behind tensors that are `known` are other nodes of the original.
    """
    while writer.op_type != source.op_type and (source.op_type, writer.op_type) != ("Upsample", "Resize"):
        before = writers.get(writer.input[0]) if writer.input and writer.input[0] not in known else None
        if before is None:
            return None
        writer = before
    return writer


def _make_asymmetric(node: onnx.NodeProto, shrinks: bool) -> None:
    """Writes out what Resize meant before opset 11."""
    new = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if shrinks else "floor"}
    kept = [a for a in node.attribute if a.name not in new]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in new.items())])


def _shrinks(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether an old Resize is known to make its input smaller."""
    scales = _scales(node, graph)
    return scales is not None and bool((scales < 1).any())


def _scales(node: onnx.NodeProto, graph: onnx.GraphProto) -> Scales | None:
    """The scales of an old Upsample or Resize, None where they are computed."""
    scales = attribute(node, "scales")
    if scales is not None:
        return np.array(scales)
    tensor = constants(graph).get(node.input[1]) if len(node.input) > 1 else None
    return None if tensor is None else numpy_helper.to_array(tensor)


def with_masks(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model with every mask of a Dropout that is read computed by a node of its own; the same if there is none.

    From opset 7 to 11 the masks are 0; at others nothing is done.
    """
    if not 7 <= version < 12 or not any(_read_masks(graph) for graph in all_graphs(model.graph)):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for graph in all_graphs(result.graph):
        for node in _read_masks(graph):
            data, mask = node.input[0], node.output.pop()
            name = f"{node.name or mask}.mask"
            if version < 10:  # of the type of the data
                graph.node.append(helper.make_node("Clip", [data], [mask], name, min=0.0, max=0.0))
            else:
                graph.node.append(helper.make_node("Less", [data, data], [mask], name))
        set_nodes(graph, sort_nodes(graph))
    return result


def _read_masks(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The Dropout nodes of a graph whose mask is used."""
    used = {name for node in graph.node for name in reads(node)} | {output.name for output in graph.output}
    dropouts = (n for n in graph.node if n.op_type == "Dropout" and standard(n.domain))
    return [node for node in dropouts if len(node.output) > 1 and node.output[1] in used]


def highest_faithful(graph: onnx.GraphProto, version: int) -> int:
    """The highest opset up to 21 in which all nodes can compute what they compute at opset `version`."""
    limits = [OPSET]
    for node in graph.node:
        if node.op_type == "Hardmax" and version < 13 and attribute(node, "axis", 1) != -1:
            limits.append(12)
        if node.op_type == "Resize" and version < 11 and attribute(node, "mode", "nearest") == "nearest":
            scales = _scales(node, graph)
            mixed = scales is not None and bool((scales < 1).any() and (scales > 1).any())
            limits.extend([10] if mixed else [])
        limits.extend(highest_faithful(inner, version) for inner in subgraphs(node))
    return min(limits)
