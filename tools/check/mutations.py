"""Models changed in their structure rather than in their bytes; each mutation is a thing that an export gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Random = np.random.Generator
Mutation = Callable[[onnx.ModelProto, Random], None]
NUMBERS = (0, 1, -1, 2, 3, 7, 64, -9, 1 << 20, (1 << 31) - 1, 1 << 40, -(1 << 62))
REALS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))


def mutated(model: onnx.ModelProto, rng: Random) -> onnx.ModelProto:
    """A copy with one to three mutations; the model itself is not changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(int(rng.integers(1, 4))):
        MUTATIONS[int(rng.integers(len(MUTATIONS)))](copy, rng)
    return copy


def _node(model: onnx.ModelProto, rng: Random) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = list(model.graph.node)
    return nodes[int(rng.integers(len(nodes)))]


def _constant(model: onnx.ModelProto, rng: Random) -> TensorProto | None:
    found: list[TensorProto] = list(model.graph.initializer)
    return found[int(rng.integers(len(found)))] if found else None


def _values(tensor: TensorProto) -> NDArray[Any] | None:
    """What a constant holds; None of one that an earlier mutation emptied or gave a shape that is not its own."""
    try:
        return numpy_helper.to_array(tensor).copy()
    except ValueError:
        return None


def _attributes(model: onnx.ModelProto, rng: Random) -> Iterator[AttributeProto]:
    """The attributes of nodes, in random order."""
    found = [attribute for node in model.graph.node for attribute in node.attribute]
    yield from (found[i] for i in rng.permutation(len(found)))


def attribute_value(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute of another value."""
    for attribute in _attributes(model, rng):
        if attribute.type == AttributeProto.INT:
            attribute.i = NUMBERS[int(rng.integers(len(NUMBERS)))]
        elif attribute.type == AttributeProto.INTS and attribute.ints:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = NUMBERS[int(rng.integers(len(NUMBERS)))]
        elif attribute.type == AttributeProto.FLOAT:
            attribute.f = REALS[int(rng.integers(len(REALS)))]
        else:
            continue
        return


def attribute_length(model: onnx.ModelProto, rng: Random) -> None:
    """A list that is empty, or longer."""
    for attribute in _attributes(model, rng):
        if attribute.type == AttributeProto.INTS:
            if rng.integers(2):
                del attribute.ints[:]
            else:
                attribute.ints.append(1)
            return


def attribute_gone(model: onnx.ModelProto, rng: Random) -> None:
    """One attribute less."""
    node = _node(model, rng)
    if node.attribute:
        del node.attribute[int(rng.integers(len(node.attribute)))]


def attribute_type(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute of another type."""
    for attribute in _attributes(model, rng):
        name = attribute.name
        attribute.CopyFrom(helper.make_attribute(name, [1.5, "text", [1.0], 3][int(rng.integers(4))]))
        return


def constant_type(model: onnx.ModelProto, rng: Random) -> None:
    """A constant of another type, its bytes the same or converted."""
    tensor = _constant(model, rng)
    if tensor is None:
        return
    types = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT8, TensorProto.INT4)
    other = types[int(rng.integers(len(types)))]
    if rng.integers(2) or other == TensorProto.INT4:
        tensor.data_type = other
        return
    values = _values(tensor)
    if values is not None:
        with np.errstate(all="ignore"):
            changed = values.astype(helper.tensor_dtype_to_np_dtype(other))
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def constants_swapped(model: onnx.ModelProto, rng: Random) -> None:
    """Two constants under each other's names."""
    first, second = _constant(model, rng), _constant(model, rng)
    if first is not None and second is not None:
        first.name, second.name = second.name, first.name


def constant_emptied(model: onnx.ModelProto, rng: Random) -> None:
    """A constant without elements, without data, or with a dimension less."""
    tensor = _constant(model, rng)
    if tensor is None:
        return
    kind = int(rng.integers(3))
    if kind == 0:
        empty = np.zeros((0,) * max(1, len(tensor.dims)), helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.CopyFrom(numpy_helper.from_array(empty, tensor.name))
    elif kind == 1:
        tensor.ClearField("raw_data")
    elif tensor.dims:
        del tensor.dims[0]


def constant_shape(model: onnx.ModelProto, rng: Random) -> None:
    """The same values in another shape."""
    tensor = _constant(model, rng)
    if tensor is not None:
        dims = list(tensor.dims)
        shapes = ([*dims, 1], [1, *dims], dims[::-1], [int(np.prod(dims))], [2**62, *dims])
        tensor.ClearField("dims")
        tensor.dims.extend(shapes[int(rng.integers(len(shapes)))])


def constant_values(model: onnx.ModelProto, rng: Random) -> None:
    """Zeros, infinite values or NaN in a constant."""
    tensor = _constant(model, rng)
    values = _values(tensor) if tensor is not None and tensor.data_type == TensorProto.FLOAT else None
    if tensor is not None and values is not None:
        value = (0.0, np.inf, np.nan, 1e38)[int(rng.integers(4))]
        if values.size and rng.integers(2):
            values.reshape(-1)[0] = value
        else:
            values[...] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def tensor_renamed(model: onnx.ModelProto, rng: Random) -> None:
    """One use, or one definition, of a tensor under another name."""
    node = _node(model, rng)
    names = node.input if rng.integers(2) else node.output
    if names:
        names[int(rng.integers(len(names)))] = ("renamed", "x", "", "t0")[int(rng.integers(4))]


def rewired(model: onnx.ModelProto, rng: Random) -> None:
    """An input that reads another tensor of the graph, which may come later: a cycle."""
    node, other = _node(model, rng), _node(model, rng)
    if node.input and other.output:
        node.input[int(rng.integers(len(node.input)))] = other.output[0]


def input_gone(model: onnx.ModelProto, rng: Random) -> None:
    """An input less, or one more."""
    node = _node(model, rng)
    if rng.integers(2) and node.input:
        del node.input[int(rng.integers(len(node.input)))]
    else:
        node.input.append(node.input[0] if node.input else "x")


def node_twice(model: onnx.ModelProto, rng: Random) -> None:
    """A node a second time, writing the same tensors or others."""
    node = onnx.NodeProto()
    node.CopyFrom(_node(model, rng))
    if rng.integers(2):
        for i, name in enumerate(node.output):
            node.output[i] = f"{name}_again"
    model.graph.node.append(node)


def node_gone(model: onnx.ModelProto, rng: Random) -> None:
    """A node less."""
    if len(model.graph.node) > 1:
        del model.graph.node[int(rng.integers(len(model.graph.node)))]


def other_operator(model: onnx.ModelProto, rng: Random) -> None:
    """A node of another operator."""
    operators = ("Relu", "Conv", "Gemm", "Softmax", "Transpose", "Squeeze", "NonZero", "Nonsense", "LSTM", "Resize")
    _node(model, rng).op_type = operators[int(rng.integers(len(operators)))]


def order(model: onnx.ModelProto, rng: Random) -> None:
    """The nodes in another order."""
    nodes = [model.graph.node[i] for i in rng.permutation(len(model.graph.node))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def output_gone(model: onnx.ModelProto, rng: Random) -> None:
    """An output of the graph less, or one more that is written inside."""
    node = _node(model, rng)
    if rng.integers(2) and model.graph.output:
        del model.graph.output[int(rng.integers(len(model.graph.output)))]
    elif node.output:
        model.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))


def input_shape(model: onnx.ModelProto, rng: Random) -> None:
    """An input of the graph of another shape or type."""
    if not model.graph.input:
        return
    kind = model.graph.input[int(rng.integers(len(model.graph.input)))].type.tensor_type
    if rng.integers(3) == 0:
        kind.elem_type = (TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8)[int(rng.integers(3))]
    elif kind.shape.dim:
        dim = kind.shape.dim[int(rng.integers(len(kind.shape.dim)))]
        if rng.integers(2):
            dim.dim_param = "open"
        else:
            dim.dim_value = (0, 1, 2, 3, 9)[int(rng.integers(5))]
    else:
        kind.ClearField("shape")


def sparse(model: onnx.ModelProto, rng: Random) -> None:
    """A weight stored as the places and values of what is not zero."""
    tensor = _constant(model, rng)
    held = None if tensor is None or tensor.data_type != TensorProto.FLOAT else _values(tensor)
    if tensor is None or held is None:
        return
    values = held.reshape(-1)
    places = np.flatnonzero(np.arange(values.size) % 3 == 0).astype(np.int64)
    stored = numpy_helper.from_array(values[places], tensor.name)
    made = helper.make_sparse_tensor(
        stored, numpy_helper.from_array(places, f"{tensor.name}_places"), list(tensor.dims)
    )
    model.graph.sparse_initializer.append(made)
    model.graph.initializer.remove(tensor)


def constant_node(model: onnx.ModelProto, rng: Random) -> None:
    """A weight in a Constant node."""
    tensor = _constant(model, rng)
    if tensor is not None:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], f"{tensor.name}_node", value=tensor))
        model.graph.initializer.remove(tensor)


def function(model: onnx.ModelProto, rng: Random) -> None:
    """A node wrapped in functions, one in another."""
    node = _node(model, rng)
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inputs, outputs = [f"i{i}" for i in range(len(node.input))], [f"o{i}" for i in range(len(node.output))]
    del inner.input[:], inner.output[:]
    inner.input.extend(inputs)
    inner.output.extend(outputs)
    opsets = [*model.opset_import, helper.make_opsetid("own", 1)]
    made = len(model.functions)
    for level in range(2):
        model.functions.append(helper.make_function("own", f"f{made + level}", inputs, outputs, [inner], opsets))
        inner = helper.make_node(f"f{made + level}", inputs, outputs, node.name, domain="own")
    if not any(d.domain == "own" for d in model.opset_import):
        model.opset_import.append(helper.make_opsetid("own", 1))
    node.op_type, node.domain = f"f{made + 1}", "own"
    del node.attribute[:]


def opset(model: onnx.ModelProto, rng: Random) -> None:
    """Another opset or IR version."""
    if rng.integers(2):
        model.ir_version = (0, 3, 4, 8, 99)[int(rng.integers(5))]
    elif model.opset_import:
        model.opset_import[0].version = (0, 1, 7, 9, 13, 17, 25, 1 << 31)[int(rng.integers(8))]


MUTATIONS: tuple[Mutation, ...] = (
    attribute_value, attribute_length, attribute_gone, attribute_type, constant_type, constants_swapped,
    constant_emptied, constant_shape, constant_values, tensor_renamed, rewired, input_gone, node_twice, node_gone,
    other_operator, order, output_gone, input_shape, sparse, constant_node, function, opset,
)  # fmt: skip
