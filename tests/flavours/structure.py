"""What stands around the layers: names, opsets, functions, branches, other outputs, types, other packages' rewrites."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

from tests.flavours.editing import Editor, Flavour

IR = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7}
BLOCKS = ("Conv", "BatchNormalization", "Relu", "Gemm", "Add", "Clip")


def opset(number: int, model: onnx.ModelProto) -> onnx.ModelProto:
    """The same nodes at another opset, where they mean the same."""
    copy = Editor(model).model
    copy.opset_import[0].version, copy.ir_version = number, IR.get(number, 8 if number < 19 else 10)
    for node in copy.graph.node if number < 14 else ():
        for attribute in [a for a in node.attribute if a.name == "training_mode"]:
            node.attribute.remove(attribute)
    return copy


def converted(number: int, model: onnx.ModelProto) -> onnx.ModelProto:
    """By onnx's converter."""
    result: onnx.ModelProto = version_converter.convert_version(Editor(model).model, number)
    return result


def _named(
    node_name: Callable[[int], str], tensor_name: Callable[[int], str], model: onnx.ModelProto
) -> onnx.ModelProto:
    """Other names for all nodes and inner tensors."""
    copy = Editor(model).model
    ends = {info.name for info in [*copy.graph.input, *copy.graph.output]}
    names: dict[str, str] = {"": ""} | {name: name for name in ends}
    for i, node in enumerate(copy.graph.node):
        node.name = node_name(i)
        for held in (node.input, node.output):
            held[:] = [names.setdefault(name, tensor_name(len(names))) for name in held]
    for tensor in [*copy.graph.initializer, *copy.graph.value_info]:
        tensor.name = names.get(tensor.name, tensor.name)
    return copy


def dropouts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dropout and Identity were left in."""

    def rule(edit: Editor) -> None:
        x, *others = edit.node.input
        given = [edit.put("Identity", [x]), edit.keep(np.float32(0.5)), edit.keep(False, np.bool_)]
        edit.again([edit.put("Dropout", given), *others], edit.node.output[0])

    return Editor(model).rewritten({"Conv": rule, "Gemm": rule})


def casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Casts to the type that is there."""

    def rule(edit: Editor) -> None:
        x, *others = edit.node.input
        edit.again([edit.put("Cast", [x], to=TensorProto.FLOAT), *others], edit.node.output[0])

    return Editor(model).rewritten({"Conv": rule, "Gemm": rule, "Relu": rule})


def _info(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _ended(make: Callable[[Editor, str], list[onnx.ValueInfoProto]], model: onnx.ModelProto) -> onnx.ModelProto:
    """Other outputs, made of the one there is."""
    edit = Editor(model)
    infos = make(edit, edit.graph.output[0].name)
    edit.graph.node.extend(edit.written)
    del edit.graph.output[:]
    edit.graph.output.extend(infos)
    return edit.model


def _probabilities(edit: Editor, logits: str) -> list[onnx.ValueInfoProto]:
    return [_info(edit.put("Softmax", [logits], "probabilities", axis=1), ["N", 10])]


def _both(edit: Editor, logits: str) -> list[onnx.ValueInfoProto]:
    return [_info(logits, ["N", 10]), *_probabilities(edit, logits)]


def _twice(edit: Editor, logits: str) -> list[onnx.ValueInfoProto]:
    return [_info(logits, ["N", 10]), _info(edit.put("Identity", [logits], "again"), ["N", 10])]


def _renamed(edit: Editor, logits: str) -> list[onnx.ValueInfoProto]:
    return [_info(edit.put("Identity", [logits], "StatefulPartitionedCall:0"), ["N", 10])]


def _label(edit: Editor, logits: str) -> list[onnx.ValueInfoProto]:
    return [_info(edit.put("ArgMax", [logits], "label", axis=1, keepdims=0), ["N"], TensorProto.INT64)]


def unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers, nodes and an input that nothing needs."""
    copy = Editor(model).model
    copy.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "left_over"))
    copy.graph.node.append(helper.make_node("Sigmoid", [copy.graph.node[0].output[0]], ["unread"], "unread_node"))
    copy.graph.input.append(_info("unused_input", [1]))
    return copy


def late_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Of the nodes that may come next, the last one comes."""
    copy = Editor(model).model
    waiting, ordered = list(copy.graph.node), []
    done = {"", *(i.name for i in copy.graph.input), *(t.name for t in copy.graph.initializer)}
    while waiting:
        node = [n for n in waiting if done.issuperset(n.input)][-1]
        waiting.remove(node)
        ordered.append(node)
        done.update(node.output)
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    return copy


def one_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """The whole network is a function of the model."""
    copy = Editor(model).model
    inputs = [copy.graph.input[0].name, *(t.name for t in copy.graph.initializer)]
    outputs, nodes = [copy.graph.output[0].name], list(copy.graph.node)
    copy.functions.append(helper.make_function("local", "Network", inputs, outputs, nodes, copy.opset_import))
    copy.opset_import.append(helper.make_opsetid("local", 1))
    del copy.graph.node[:]
    copy.graph.node.append(helper.make_node("Network", inputs, outputs, "call", domain="local"))
    return copy


def block_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every layer is a call of a function of its own, as modules are."""
    copy = Editor(model).model
    for i, node in enumerate(copy.graph.node):
        if node.op_type not in BLOCKS:
            continue
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.input[:] = [f"in_{k}" for k in range(len(node.input))]
        inner.output[:] = ["out"]
        domains = [model.opset_import[0]]
        copy.functions.append(helper.make_function("modules", f"Layer{i}", inner.input, ["out"], [inner], domains))
        node.op_type, node.domain = f"Layer{i}", "modules"
        del node.attribute[:]
    copy.opset_import.append(helper.make_opsetid("modules", 1))
    return copy


def in_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network is a branch of an If whose condition is a constant."""
    copy = Editor(model).model
    value = numpy_helper.from_array(np.zeros((1, 10), np.float32))
    then = helper.make_graph(list(copy.graph.node), "then", [], [copy.graph.output[0]])
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["other"], value=value)], "else", [], [_info("other", [1, 10])]
    )
    copy.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    del copy.graph.node[:]
    copy.graph.node.append(helper.make_node("If", ["flag"], ["result"], "i", then_branch=then, else_branch=other))
    copy.graph.output[0].name = "result"
    return copy


def squeezed_if(model: onnx.ModelProto) -> onnx.ModelProto:
    """A squeeze of PyTorch before 2.0: an If that asks whether a size is 1."""

    def rule(edit: Editor) -> None:
        x, name = edit.node.input[0], edit.node.name
        size = edit.put("Gather", [edit.put("Shape", [x]), edit.ints(2)], axis=0)
        squeeze = helper.make_node("Squeeze", [x, edit.ints(2, 3)], [f"{name}_t"])
        pass_on = helper.make_node("Identity", [x], [f"{name}_e"])
        then = helper.make_graph([squeeze], "then", [], [_info(f"{name}_t", None)])
        other = helper.make_graph([pass_on], "else", [], [_info(f"{name}_e", None)])
        edit.last("If", [edit.put("Equal", [size, edit.ints(1)])], then_branch=then, else_branch=other)

    edit = Editor(model)
    for node in list(edit.graph.node):
        edit.node = node
        if node.op_type == "Flatten":
            rule(edit)
        else:
            edit.written.append(node)
    del edit.graph.node[:]
    edit.graph.node.extend(edit.written)
    return edit.model


def halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """All in half precision, input and output cast."""
    copy = Editor(model).model
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    ends = {copy.graph.input[0].name: "input_half", copy.graph.output[0].name: "output_half"}
    for node in copy.graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    (x, _), (y, _) = ends.items()
    copy.graph.node.insert(0, helper.make_node("Cast", [x], ["input_half"], "cast_in", to=TensorProto.FLOAT16))
    copy.graph.node.append(helper.make_node("Cast", ["output_half"], [y], "cast_out", to=TensorProto.FLOAT))
    del copy.graph.value_info[:]
    return copy


def optimized(level: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime writes when it is asked for its optimized graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(Editor(model).model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


STRUCTURES: dict[str, Flavour] = {
    **{f"opset_{n}": partial(opset, n) for n in (7, 9, 11, 13, 15, 22)},
    **{f"converted_{n}": partial(converted, n) for n in (18, 21, 23)},
    "names_of_tf": partial(_named, lambda i: f"m/b{i}/Conv2D;add{i}/add:0", lambda i: f"m/l{i}/ReadVariableOp:{i}"),
    "names_empty": partial(_named, lambda _: "", lambda i: f"t{i}"),
    "names_unicode": partial(_named, lambda i: f"卷积 {i} é", lambda i: f"テンソル/{i} ☃"),
    "names_numbers": partial(_named, str, str),
    "names_patterns": partial(_named, lambda i: f"a b*?[{i}]", lambda i: f"t [{i}] *"),
    "dropouts": dropouts,
    "casts": casts,
    "softmax_end": partial(_ended, _probabilities),
    "softmax_both": partial(_ended, _both),
    "output_twice": partial(_ended, _twice),
    "output_renamed": partial(_ended, _renamed),
    "label_end": partial(_ended, _label),
    "unread": unread,
    "late_order": late_order,
    "one_function": one_function,
    "block_functions": block_functions,
    "in_branch": in_branch,
    "squeezed_if": squeezed_if,
    "halves": halves,
    "ort_basic": partial(optimized, "BASIC"),
    "ort_extended": partial(optimized, "EXTENDED"),
}  # fmt: skip
