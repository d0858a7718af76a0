"""Concrete shapes of all tensors of a network, and the values of its small integer tensors.

Channel labels need sizes, not symbols: dynamic dimensions are replaced by plausible ones. The shapes come from onnx
shape inference on a copy without its large weights; what it cannot know is asked of onnxruntime, run once on zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnx_udfc.channels.outline import LARGE, outline
from onnx_udfc.errors import ModelError
from onnx_udfc.model.export import export_model, value_info
from onnx_udfc.model.graph import is_closed, standard
from onnx_udfc.model.inference import inferred, known_sizes
from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.protos import subgraphs
from onnx_udfc.runtime.sessions import run_limited

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Size = tuple[int, ...]
SPATIAL = (224, 32, 28, 64, 96, 112, 128, 192, 256, 299, 320, 384, 416, 512, 640)  # tried in this order
DEFAULT_LENGTH = 64
LARGEST_GUESS = 1 << 25  # elements of a tensor, one sample: attention over all pixels grows with the square of them
MAX_ELEMENTS = 1 << 28  # no run that is known to have more elements in a tensor
MOST_ELEMENTS = 1 << 30  # a tensor of more is none to compute with
SECONDS, LOOP_SECONDS = 20.0, 4.0  # that a run on zeros may take; one that does not end is far over both
SEQUENCES = ("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence")
NORMS = ("BatchNormalization", "InstanceNormalization")
CUTTING_INPUTS = {"Slice": (1, 2, 3, 4), "Gather": (1,), "Split": (1,), "Pad": (1, 3), "Tile": (1,)}


@dataclass(frozen=True)
class Shapes:
    """What is known of the tensors of a network.

    Attributes:
        sizes: tensor name → shape, with dynamic dimensions replaced by plausible ones; absent where unknown.
        values: tensor name → value, of those that are computed and say where to slice, split, pad and so on.
        unbounded: why the network cannot be run; empty if nothing speaks against it.
    """

    sizes: Mapping[str, Size]
    values: Mapping[str, NDArray[Any]]
    unbounded: str = ""

    def value(self, tensor: gs.Tensor) -> NDArray[Any] | None:
        """The value of a tensor, if it is a constant or known to be computed from shapes; None otherwise."""
        return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else self.values.get(tensor.name)


def resolve(network: Network, inputs: Mapping[str, Size] | None = None) -> Shapes:
    """Shapes of all tensors of the top-level graph, found once for it and its copies as long as they are the same.

    `inputs` are shapes of graph inputs; those that were settled for the network if there are none.
    """
    known = inputs or network.sizes
    return network.resolved.once(outline(network, known), lambda: _first_that_fits(network, known))


def _first_that_fits(network: Network, known: Mapping[str, Size]) -> Shapes:
    """Shapes with the first of `SPATIAL` with which layers get the channels that they expect, else with the first."""
    first = None
    for spatial in SPATIAL:
        shapes = _resolve(network, known, spatial)
        first = first or shapes
        if shapes.unbounded or _fit(network, shapes):
            return shapes
        if all(_is_fixed(t.shape) or t.name in known for t in network.graph.inputs):
            break
    assert first is not None
    return first


def check_fit(network: Network, shapes: Shapes) -> None:
    """Refuse a network with a fixed input whose layers or norms read another number of channels than they have.

    Raises:
        ModelError: it names the node.
    """
    if not all(is_closed(tensor.shape) for tensor in network.graph.inputs):
        return
    for node in network.graph.nodes:
        axis, channels = _expected(network, node)
        size = shapes.sizes.get(node.inputs[0].name) if channels else None
        if size is None:
            continue
        if len(size) <= max(axis, 0) or size[axis] != channels:
            raise ModelError(
                f"node '{node.name}' ({node.op}) reads a tensor of shape {list(size)}, but has weights for {channels}"
                " channels; the file is damaged, export it again"
            )


def _expected(network: Network, node: gs.Node) -> tuple[int, int]:
    """The axis of its input along which a node expects channels, and how many; 0 if it expects none."""
    layer = network.layers.get(node.name)
    if layer is not None:
        return layer.axis, layer.in_channels
    if (
        node.op in NORMS
        and not node.domain
        and isinstance(node.inputs[1], gs.Constant)
        and len(node.inputs[1].shape) == 1
    ):
        return 1, int(node.inputs[1].shape[0])
    return 0, 0


def fits(network: Network, inputs: Mapping[str, Size]) -> bool:
    """Whether layers get as many channels as they expect from inputs of these shapes, and no tensor is too large."""
    shapes = resolve(network, inputs)
    largest = max((math.prod(size) for size in shapes.sizes.values()), default=0)
    return largest <= LARGEST_GUESS and _fit(network, shapes)


def _is_fixed(shape: Any) -> bool:
    """Whether an image input leaves nothing but its batch open."""
    return shape is None or len(shape) < 4 or all(isinstance(d, int | np.integer) and d > 0 for d in shape[2:])


def _fit(network: Network, shapes: Shapes) -> bool:
    """Whether every layer whose input's shape is known gets as many channels as it expects: a Flatten may not fit."""
    found = 0
    for layer in network.layers.values():
        size = shapes.sizes.get(layer.node.inputs[0].name)
        found += size is not None
        axis = layer.axis
        if size is not None and (len(size) <= max(axis, 0) or size[axis] != layer.in_channels):
            return False
    return found > 0 or not network.layers


def _resolve(network: Network, inputs: Mapping[str, Size], spatial: int) -> Shapes:
    """Shapes for images of one size."""
    model, values = _skeleton(network, inputs, spatial)
    described = inferred(model)
    sizes = known_sizes(described)
    sizes |= {k: tuple(t.shape) for k, t in network.graph.tensors().items() if isinstance(t, gs.Constant)}
    written = {name for node in model.graph.node for name in node.output if name}
    huge = next((name for name in sorted(written) if _elements(sizes.get(name, ())) > MOST_ELEMENTS), None)
    if huge is not None:
        reason = f"its tensor '{huge}' has {_elements(sizes[huge]):,} elements for one input"
        return Shapes({k: v for k, v in sizes.items() if _elements(v) <= MAX_ELEMENTS}, {}, reason)
    loops = [node for node in model.graph.node if _loops(node, model)]
    unsized = sorted(((written - set(sizes)) | {n for node in loops for n in node.output if n}) - _lists(described))
    unvalued = sorted(_unvalued(model, values) & written)
    if any(_elements(size) > MAX_ELEMENTS for size in sizes.values()) or not (unsized or unvalued):
        return Shapes(sizes, {})
    try:
        measured, computed = _measure(model, unsized, unvalued, LOOP_SECONDS if loops else SECONDS)
    except TimeoutError:
        steps = (
            f"the steps of '{loops[0].name or loops[0].output[0]}' do not end within {LOOP_SECONDS:g} s"
            if loops
            else ""
        )
        return Shapes(sizes, {}, steps)
    return Shapes(sizes | measured, computed)


def _elements(size: Size) -> int:
    """Elements of a tensor."""
    return math.prod(int(d) for d in size)


def _loops(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a node repeats a graph, as often as it likes; at any depth, in functions too."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current.op_type in ("Loop", "Scan", "SequenceMap") and standard(current.domain):
            return True
        pending.extend(inner for graph in subgraphs(current) for inner in graph.node)
        key = (current.domain, current.op_type)
        if key in bodies and key not in seen:
            seen.add(key)
            pending.extend(bodies[key])
    return False


def _skeleton(
    network: Network, inputs: Mapping[str, Size], spatial: int
) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The network with its large weights as inputs and with concrete input shapes; values of small constants."""
    copy = network.copy().graph
    channels = _input_channels(copy)
    named: dict[str, int] = {}
    for tensor in copy.inputs:
        image = (channels.get(tensor.name, 3), spatial)
        tensor.shape = inputs.get(tensor.name) or _concrete(tensor.shape, image, named)
    values: dict[str, NDArray[Any]] = {}
    for name, tensor in copy.tensors().items():
        if not isinstance(tensor, gs.Constant):
            if not any(tensor is t for t in copy.inputs):
                tensor.shape = None  # what the file says may be stale
            continue
        if int(np.prod(tensor.shape)) > LARGE:
            copy.inputs.append(_as_input(tensor))
        else:
            values[name] = np.asarray(tensor.values)
    model = export_model(copy, network.origin)  # graphsurgeon's own writes int4 and its like unpacked
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.extend(value_info(tensor) for tensor in copy.inputs)
    for output in model.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return model, values


def _as_input(constant: gs.Constant) -> gs.Variable:
    """A variable in the place of a constant."""
    variable = gs.Variable(constant.name, constant.dtype, list(constant.shape))
    for node in list(constant.outputs):
        for i, tensor in enumerate(node.inputs):
            if tensor is constant:
                node.inputs[i] = variable
    return variable


def _input_channels(graph: gs.Graph) -> dict[str, int]:
    """Number of channels that the convolutions on the graph's inputs expect."""
    return {
        node.inputs[0].name: int(node.inputs[1].shape[1]) * int(node.attrs.get("group", 1))
        for node in graph.nodes
        if kind_of(node.op).convolves and isinstance(node.inputs[1], gs.Constant)
    }


def _concrete(shape: Any, image: tuple[int, int], named: dict[str, int]) -> Size | None:
    """A shape without unknown dimensions: batch 1, images of these channels and width; equal names, equal sizes."""
    if shape is None:
        return None
    sizes = []
    for axis, dim in enumerate(shape):
        known = isinstance(dim, int | np.integer) and dim > 0
        is_image = len(shape) >= 4
        guess = 1 if axis == 0 else image[min(axis - 1, 1)] if is_image else DEFAULT_LENGTH
        name = f"{dim}/{axis > 0}" if dim else f"?{axis}{is_image}"
        sizes.append(int(dim) if known else named.setdefault(name, guess))
    return tuple(sizes)


def _lists(model: onnx.ModelProto) -> set[str]:
    """Names of the sequences in a model: they have no shape to ask for."""
    known = {i.name for i in model.graph.value_info if i.type.WhichOneof("value") not in (None, "tensor_type")}
    return known | {name for node in model.graph.node if node.op_type in SEQUENCES for name in node.output}


def _unvalued(model: onnx.ModelProto, values: Mapping[str, Any]) -> set[str]:
    """Names of the computed tensors that say where to slice, split, pad and so on."""
    return {
        node.input[i]
        for node in model.graph.node
        for i in CUTTING_INPUTS.get(node.op_type, ())
        if i < len(node.input) and node.input[i] and node.input[i] not in values
    }


def _measure(
    model: onnx.ModelProto, unsized: list[str], unvalued: list[str], seconds: float
) -> tuple[dict[str, Size], dict[str, NDArray[Any]]]:
    """Run once on zeros: shapes of some tensors, values of others; nothing where onnxruntime cannot run it."""
    feeds = {}
    for info in model.graph.input:
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if not info.type.HasField("tensor_type") or int(np.prod(dims, dtype=np.float64)) > MAX_ELEMENTS:
            return {}, {}
        feeds[info.name] = np.zeros(dims, helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:], probe.graph.value_info[:]
    for i, name in enumerate(unsized):
        probe.graph.node.append(helper.make_node("Shape", [name], [f"udfc_shape_{i}"]))
        probe.graph.output.append(onnx.ValueInfoProto(name=f"udfc_shape_{i}"))
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unvalued)
    try:
        results = run_limited(probe, [output.name for output in probe.graph.output], feeds, seconds)
    except ModelError:
        return {}, {}
    sizes = {name: tuple(int(d) for d in shape) for name, shape in zip(unsized, results, strict=False)}
    return sizes, dict(zip(unvalued, results[len(unsized) :], strict=True))
