"""New nodes behind a network: what rules of gradients are written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.model.names import Taken, unique_name

Size = tuple[int, ...]


class Tape:
    """Appends nodes and constants to a model; what each gives goes by its name.

    Attributes:
        sizes: shape of each tensor of the network, as far as it is known.
    """

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Size]) -> None:
        """Args: the model, changed in place, and the shapes of its tensors."""
        self.model, self.sizes = model, sizes
        graph = model.graph
        tensors = (name for node in graph.node for name in (*node.input, *node.output))
        self._taken = Taken([*tensors, *(t.name for t in graph.initializer), *(i.name for i in graph.input)])
        self.constants = {t.name for t in graph.initializer} | {
            name for node in graph.node if node.op_type == "Constant" for name in node.output
        }
        self._known: dict[tuple[str, Size, bytes], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One more node with one output."""
        name = self.fresh()
        self.model.graph.node.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def fresh(self) -> str:
        """A name that nothing has."""
        return unique_name("gradient", self._taken)

    def constant(self, values: NDArray[Any]) -> str:
        """A constant; the same one where it was asked for before."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh()
            self.model.graph.initializer.append(numpy_helper.from_array(values, self._known[key]))
        return self._known[key]

    def number(self, value: float) -> str:
        """A scalar float32."""
        return self.constant(np.array(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """(n,) int64."""
        return self.constant(np.array(values, np.int64))

    def zeros(self, like: str) -> str:
        """Zeros of another tensor's shape."""
        return self.op("ConstantOfShape", self.op("Shape", like), value=helper.make_tensor("value", 1, [1], [0.0]))

    def reshaped(self, value: str, like: str) -> str:
        """The values in another tensor's shape."""
        return self.op("Reshape", value, self.op("Shape", like), allowzero=1)

    def rank(self, tensor: str) -> int:
        """How many axes a tensor has; -1 if nobody knows."""
        return len(self.sizes[tensor]) if tensor in self.sizes else -1

    def summed_to(self, value: str, given: Size, tensor: str) -> str:
        """The sum over the axes along which a tensor was repeated, in its shape.

        `value` is of the shape after repeating, which is `given` for one run.
        """
        size = self.sizes[tensor]
        ahead = len(given) - len(size)
        axes = [*range(ahead), *(ahead + i for i, n in enumerate(size) if n == 1 and given[ahead + i] != 1)]
        if not axes:
            return value
        return self.reshaped(self.op("ReduceSum", value, self.integers(axes), keepdims=1), tensor)
