"""What each layer of a network takes on this machine, from onnxruntime's own profile.

A profile names the nodes of the graph that was made of the model. A layer is found there by its name, by a name that
begins with it, or, where onnxruntime names a node after the tensor that it writes, by what that tensor comes from. What
is no layer's own (reshapes, additions, conversions between layouts) is summed up beside them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_udfc.runtime.profiles import durations, profile

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

BLOCKED = "_nchwc"  # ends the name of a node in another layout
FUSED = (  # what becomes a part of the layer before it
    "BatchNormalization", "Clip", "DequantizeLinear", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "QuantizeLinear", "Relu", "Sigmoid", "Softplus", "Tanh",
)  # fmt: skip


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one run.

    Layers that were not found again are left out.
    """

    layers: Mapping[str, float]
    others: float


def layer_times(
    model: onnx.ModelProto, names: Collection[str], feed: Mapping[str, NDArray[Any]], seconds: float = 0.25
) -> LayerTimes:
    """Return what layers take, on one thread of the CPU, each the median over runs.

    Three runs are made at least.

    Raises:
        ModelError: It does not load or run.
    """
    return _summed(durations(profile(model, feed, seconds=seconds)), _Owners(model, frozenset(names)))


def _summed(taken: Mapping[str, list[float]], owners: _Owners) -> LayerTimes:
    """Medians by layer; of the first run, which warms up, nothing is taken."""
    layers, others = defaultdict[str, float](float), 0.0
    for node, times in taken.items():
        middle = statistics.median(times[1:] or times)
        owner = owners.find(node)
        if owner is None:
            others += middle
        else:
            layers[owner] += middle
    return LayerTimes(dict(layers), others)


class _Owners:
    """Finds the layer that a node of the optimized graph stands for."""

    def __init__(self, model: onnx.ModelProto, names: frozenset[str]) -> None:
        self._names = names
        self._makers = {tensor: node for node in model.graph.node for tensor in node.output if tensor}

    def find(self, name: str) -> str | None:
        """Return the layer's name, or None."""
        if name.endswith(BLOCKED):
            return self._behind(name.removesuffix(BLOCKED))
        if name in self._names:
            return name
        ends = (i for i in range(len(name) - 1, 0, -1) if name[i] in "/_:" and name[:i] in self._names)
        return next((name[:i] for i in ends), None)

    def _behind(self, tensor: str) -> str | None:
        """The layer that a tensor comes from, by way of what is fused with it."""
        node = self._makers.get(tensor)
        while node is not None and node.name not in self._names:
            node = self._makers.get(node.input[0]) if node.op_type in FUSED else None
        return None if node is None else node.name
