"""Recurrent layers: their weights are rounded by what they are multiplied with.

The gates of an LSTM, a GRU or a plain recurrence compute W x_t + R h_{t-1} + b. W and R are rounded in the metric of
the second moments E[x xᵀ], of what the compressed network reads, and E[h hᵀ], of the original's states
(`numerics.rounding`): moments about zero, not about the means, so that no bias has to be put right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.graph import is_dense, peek, standard
from onnx_udfc.model.unseen import RECURRENT, RoundedUnseen, Unseen
from onnx_udfc.numerics.moments import shrunk
from onnx_udfc.numerics.products import product
from onnx_udfc.numerics.rounding import quantize_layer

if TYPE_CHECKING:
    import onnx

    from onnx_udfc.model.network import Network
    from onnx_udfc.runtime.walk import Value, Walk

Double = NDArray[np.float64]

INPUT, STATE = 1, 2  # the inputs of a recurrent node that are its weights
MOST = 8192  # steps that moments are taken of


def cells_of(network: Network) -> frozenset[str]:
    """Names of the recurrent nodes of the network's own graph whose weights are constant and theirs alone."""
    shared = network.origin.shared
    return frozenset(
        node.name
        for node in network.graph.nodes
        if node.op in RECURRENT
        and standard(node.domain)
        and not node.attrs.get("layout", 0)
        and all(is_dense(t) and t.name not in shared for t in node.inputs[INPUT : STATE + 1])
    )


class States:
    """The moments of what recurrent layers of a model give, as it is run.

    Attributes:
        watched: what a walk takes: tensor → what sees its value.
        tensors: name of a layer → the output that has its states.
    """

    def __init__(self, model: onnx.ModelProto, cells: Collection[str]) -> None:
        """Watch the nodes of these names; an output that the model leaves out is named in it."""
        self.watched: dict[str, Callable[[Value], Value]] = {}
        self.tensors: dict[str, str] = {}
        self._moments: dict[str, Double] = {}
        for node in (node for node in model.graph.node if node.name in cells):
            if not node.output:
                node.output.append("")
            node.output[0] = node.output[0] or f"{node.name}.states"
            self.tensors[node.name] = node.output[0]
            self.watched[node.output[0]] = self._seer(node.name)

    def _seer(self, name: str) -> Callable[[Value], Value]:
        def see(value: Value) -> Value:
            """States (steps, directions, samples, h)."""
            self._moments[name] = np.stack([second_moments(states) for states in np.moveaxis(value, 1, 0)])
            return value

        return see

    def moments(self, walk: Walk) -> dict[str, Double]:
        """Name of a layer → second moments (directions, h, h); those that nothing follows are run for it."""
        for name, tensor in self.tensors.items():
            if name not in self._moments and walk.available(tensor):
                walk.run_to(tensor)
        return self._moments


def round_cell(
    node: gs.Node, states: Double, walk: Walk, unseen: Mapping[str, tuple[Unseen, float]]
) -> dict[str, RoundedUnseen]:
    """Round a recurrent layer by what it reads and remembers; what follows it in the walk sees the result.

    Args:
        node: of the network that is walked.
        states: (directions, h, h) second moments of its states in the original.
        walk: over the compressed network, up to the node.
        unseen: key → weight that is to be rounded, and its bits.

    Returns:
        Key → weight with its codes; those are missing whose moments tell nothing, or whose rows share their scales.
    """
    codes = {}
    for key, (one, bits) in unseen.items():
        if one.slot is None or one.slot[0] != node.name or one.axes != (0, 1):
            continue
        gram = second_moments(walk.get(node.inputs[0].name))[None] if one.slot[1] == INPUT else states
        weight, dtype = np.asarray(peek(one.constant), np.float64), one.constant.dtype
        if not np.isfinite(gram).all():
            continue
        params, useless = quantize_layer(weight.reshape(len(gram), -1, weight.shape[-1]), gram, bits, dtype)
        if not useless:
            codes[key] = RoundedUnseen(one, params.as_one_group())
            walk.change(one.constant.name, params.dequantize().reshape(weight.shape).astype(dtype))
    return codes


def second_moments(values: Value) -> Double:
    """Second moments (d, d) of values (..., d), at some of many steps.

    These are drawn, the same each time: evenly spaced ones might all be of one sample, for samples lie side by side.
    Of few steps the moments are shrunk toward their diagonal, as those of layers are: they seem to hang together.
    """
    rows = values.reshape(-1, values.shape[-1])
    if len(rows) > MOST:
        rows = rows[np.random.default_rng(len(rows)).choice(len(rows), MOST, replace=False)]
    seen = np.ascontiguousarray(rows, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is found by who asks
        found = np.asarray(product(np.ascontiguousarray(seen.T), seen), np.float64) / max(1, len(seen))
        return shrunk(found, len(seen))
