"""What each layer of a network takes on this machine, from onnxruntime's own profile.

A profile names the nodes of the graph that was made of the model. A layer is found there by its name, by a name that
begins with it, or, where onnxruntime names a node after the tensor that it writes, by what that tensor comes from. What
is no layer's own (reshapes, additions, conversions between layouts) is summed up beside them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.model.quiet import quiet_options
from onnx_udfc.outputs import temporary_folder
from onnx_udfc.runtime.sessions import loadable

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

KERNEL, BLOCKED = "_kernel_time", "_nchwc"  # ends of names: of an event, of a node in another layout
FUSED = (
    "BatchNormalization",
    "Clip",
    "DequantizeLinear",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "QuantizeLinear",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Tanh",
)  # what becomes a part of the layer before it
LEAST, MOST = 3, 200  # runs that are counted


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one run.

    Attributes:
        layers: Name → of the layer's kernels; layers that were not found again are left out.
        others: Of everything else.
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
    import onnxruntime as ort

    options = quiet_options()
    options.enable_profiling = True
    options.intra_op_num_threads = 1
    with temporary_folder(tempfile.gettempdir()) as folder, loadable(model) as source:
        options.profile_file_prefix = str(folder / "profile")
        try:
            session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            _runs(session, feed, seconds)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise ModelError(f"onnxruntime cannot run the model ({one_line(error)})") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _summed(_durations(events), _Owners(model, frozenset(names)))


def _runs(session: Any, feed: Mapping[str, NDArray[Any]], seconds: float) -> None:
    start, done = time.perf_counter(), 0
    while done < LEAST + 1 or (done < MOST and time.perf_counter() - start < seconds):
        session.run(None, dict(feed))
        done += 1


def _durations(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Node of the optimized graph → milliseconds of every run."""
    taken: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            taken[name.removesuffix(KERNEL)].append(event["dur"] / 1000)
    return taken


def _summed(taken: Mapping[str, list[float]], owners: _Owners) -> LayerTimes:
    """Medians by layer; of the first run, which warms up, nothing is taken."""
    layers, others = defaultdict[str, float](float), 0.0
    for node, durations in taken.items():
        middle = statistics.median(durations[1:] or durations)
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
