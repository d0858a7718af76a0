"""A model rewritten node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper, shape_inference

Array = NDArray[Any]
Rule = Callable[["Editor"], None]
Flavour = Callable[[onnx.ModelProto], onnx.ModelProto]


class Editor:
    """A copy of a model whose nodes are written anew, one after the other.

    Attributes:
        model: the copy.
        node: the node that is written anew.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Copy a model, its Constant nodes made initializers."""
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.written: list[onnx.NodeProto] = []
        self.node = onnx.NodeProto()
        for node in [n for n in self.graph.node if n.op_type == "Constant"]:
            array = numpy_helper.to_array(node.attribute[0].t)
            self.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            self.graph.node.remove(node)
        self.arrays = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        inferred = shape_inference.infer_shapes(self.model, data_prop=True).graph
        infos = [*inferred.value_info, *inferred.input, *inferred.output]
        self.shapes: dict[str, list[int]] = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}

    def rewritten(self, rules: Mapping[str, Rule]) -> onnx.ModelProto:
        """The model with every node of an operator written by its rule; where that writes nothing the node stays."""
        for node in list(self.graph.node):
            self.node, before = node, len(self.written)
            if node.op_type in rules:
                rules[node.op_type](self)
            if len(self.written) == before:
                self.written.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.written)
        return self.swept()

    def swept(self) -> onnx.ModelProto:
        """The model without initializers that nothing reads."""
        read = {name for node in self.graph.node for name in node.input} | {o.name for o in self.graph.output}
        for tensor in [t for t in self.graph.initializer if t.name not in read]:
            self.graph.initializer.remove(tensor)
        return self.model

    def put(self, op: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        """Write a node; returns the name of its output."""
        name = f"{self.node.name}/{op}_{len(self.written)}"
        out = out or f"{name}_output_0"
        self.written.append(helper.make_node(op, inputs, [out], name, **attributes))
        return out

    def last(self, op: str, inputs: list[str], **attributes: Any) -> None:
        """Write the node that gives what the old one gave."""
        self.put(op, inputs, self.node.output[0], **attributes)

    def again(self, inputs: list[str], out: str = "", **attributes: Any) -> str:
        """Write the old node with other inputs, another output and some other attributes (None: left out)."""
        copy = onnx.NodeProto()
        copy.CopyFrom(self.node)
        copy.input[:] = inputs
        copy.output[:] = [out or f"{self.node.name}/inner_{len(self.written)}"]
        kept = [a for a in copy.attribute if a.name not in attributes]
        del copy.attribute[:]
        copy.attribute.extend(kept)
        copy.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items() if v is not None)
        copy.name = f"{self.node.name}_{len(self.written)}" if copy.output[0] != self.node.output[0] else copy.name
        self.written.append(copy)
        return str(copy.output[0])

    def keep(self, values: ArrayLike, dtype: Any = np.float32) -> str:
        """A new constant; returns its name."""
        name = f"const_{len(self.graph.initializer)}"
        array = np.asarray(values, dtype)
        self.graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
        self.arrays[name] = array
        return name

    def ints(self, *values: int) -> str:
        """A list of whole numbers."""
        return self.keep(values, np.int64)

    def value(self, name: str) -> Array:
        """A constant's value."""
        return self.arrays[name]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node that is written anew."""
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def norm(self) -> tuple[Array, Array]:
        """Scale and shift (C,) of a batch norm that is written anew."""
        gamma, beta, mean, var = (self.value(n).astype(np.float64) for n in self.node.input[1:5])
        scale = gamma / np.sqrt(var + self.attribute("epsilon", 1e-5))
        return scale, beta - mean * scale


def by(op: str, rule: Rule, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all nodes of an operator written anew."""
    return Editor(model).rewritten({op: rule})
