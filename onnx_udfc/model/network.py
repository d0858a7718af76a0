"""The network in a canonical form: unique names, constants as initializers of one user each, batch norm folded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_udfc.errors import ModelError
from onnx_udfc.model.activations import join_activations
from onnx_udfc.model.branches import join_branches
from onnx_udfc.model.checks import refuse_blocked
from onnx_udfc.model.constants import fold_constants, unshare
from onnx_udfc.model.export import SHAPES, export_model
from onnx_udfc.model.fold import fold_into_layer, plain_gemm, recorded
from onnx_udfc.model.graph import copy_graph
from onnx_udfc.model.layers import BatchNorm, Layer, find_layers
from onnx_udfc.model.layout import move_transposes
from onnx_udfc.model.lossless import Origin, Stored, import_graph, sorted_nodes, tensors_read
from onnx_udfc.model.no_ops import drop_no_ops
from onnx_udfc.model.pads import fold_pads
from onnx_udfc.model.pooling import write_pooling
from onnx_udfc.model.products import write_layers, write_pointwise
from onnx_udfc.model.protos import inner_reads, skeleton
from onnx_udfc.model.squeezes import move_squeezes
from onnx_udfc.model.sums import write_sums
from onnx_udfc.model.values import all_finite, forget

__all__ = ["BatchNorm", "Layer", "Network", "read"]

Found = TypeVar("Found")

# Operators behind which values no longer have the scale of the input; a Sqrt is that of a norm in single steps.
STEADYING = frozenset((
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization",
    "MeanVarianceNormalization", "Softmax", "Sqrt",
))  # fmt: skip
MOST_SHAPES = 8  # of a network and its copies whose shapes are remembered


class Memo:
    """Answers by all that they depend on."""

    def __init__(self, most: int = 64) -> None:
        """Nothing is known yet.

        At most so many answers are kept, the latest ones.
        """
        self._known: dict[Hashable, Any] = {}
        self._most = most

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """The answer that is known under a key, else what `find` returns.

        The key has everything that the answer depends on: whoever asks with equal keys wants the same thing.
        """
        if key not in self._known:
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = find()
        found: Found = self._known[key]
        return found


@dataclass(eq=False)
class Network:
    """A network that can be changed: the graph, and its layers.

    Attributes:
        graph: the top-level graph; change it freely. Arrays of constants are read-only: replace them.
        layers: node name → layer, in topological order.
        notes: what was done to the model on reading that a user should know.
        origin: the model it was read from; `to_model` takes whatever is unchanged from there.
        scale: tensor → (C,) what its channels are divided by here, compared with the network that was read.
        sizes: input name → sizes of one run, also where the file leaves them open; empty as long as nobody chose them.
        branches: input name → values with which it runs, of an input whose value selects a branch.
        ran: whether it ran with some of the sizes that were tried.
        together: how many samples it takes at a time, no more and no less, though its file leaves their number open; 0
            where it takes any number.
        expects: what was found out about the inputs that it expects, by what was asked.
        resolved: shapes of its tensors, by all that they depend on; of its copies too.
    """

    graph: gs.Graph
    layers: dict[str, Layer]
    origin: Origin
    notes: list[str] = field(default_factory=list)
    scale: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    branches: dict[str, tuple[float, ...]] = field(default_factory=dict)
    ran: bool = True
    together: int = 0
    expects: Memo = field(default_factory=Memo, repr=False)
    resolved: Memo = field(default_factory=lambda: Memo(MOST_SHAPES), repr=False)

    def copy(self) -> Network:
        """A network with its own nodes and tensors; the arrays are shared until one of the two replaces them."""
        nodes: dict[int, gs.Node] = {}
        graph = copy_graph(self.graph, nodes)
        layers = {
            name: type(layer)(
                nodes[id(layer.node)],
                graph,
                layer.batch_norm,
                None if layer.bias_node is None else nodes.get(id(layer.bias_node)),
            )
            for name, layer in self.layers.items()
            if id(layer.node) in nodes
        }
        notes, scale, sizes = list(self.notes), dict(self.scale), dict(self.sizes)
        return Network(
            graph, layers, self.origin, notes, scale, sizes, together=self.together, resolved=self.resolved
        )  # fmt: skip

    def to_model(self, without: Collection[str] = ()) -> onnx.ModelProto:
        """The network as a model of its own: nothing in it is shared with this network.

        `without` are names of constants that are left out; `weights` for what runs the layers itself.
        """
        model = export_model(self.graph, self.origin, without)
        if self.together:
            for info in model.graph.input:
                self._declare(info)
        return model

    def _declare(self, info: onnx.ValueInfoProto) -> None:
        """Fix the sizes of a model's input that are fixed here."""
        tensor = next((t for t in self.graph.inputs if t.name == info.name), None)
        dims = info.type.tensor_type.shape.dim
        for dim, size in zip(dims, (tensor.shape if tensor is not None else None) or (), strict=False):
            if isinstance(size, int | np.integer):
                dim.dim_value = int(size)

    def source_of(self, constant: gs.Constant) -> onnx.TensorProto | None:
        """The initializer of the original that a constant was read from, None for one that is new."""
        stored = self.origin.stored.get(self.origin.shared.get(constant.name, constant.name))
        return None if stored is None else stored.source

    def half_constants(self) -> dict[str, int]:
        """Float32 constants that were stored as 16-bit floats, by name with their type."""
        shared, halves = self.origin.shared, self.origin.halves
        found = {name: halves.get(shared.get(name, name)) for name in self.graph.tensors()}
        return {name: half[0] for name, half in found.items() if half is not None}

    @property
    def reshaped(self) -> bool:
        """Whether a constant that was stored as 16-bit floats has another shape than in the original."""
        shared, halves, tensors = self.origin.shared, self.origin.halves, self.graph.tensors()
        return any(
            tuple(tensors[name].shape) != halves[shared.get(name, name)][1]
            for name in self.half_constants()
            if isinstance(tensors[name], gs.Constant)
        )

    def lighten(self) -> None:
        """Gives back what a network with weights in large files does not need now: pages read, copies dropped."""
        mapped = [s.array for s in self.origin.stored.values() if isinstance(s.array, np.memmap)]
        if mapped:
            gc.collect()  # graphs are cycles
        for array in mapped:
            forget(array)

    @property
    def has_batch_norms(self) -> bool:
        """Whether a layer has the statistics of a batch norm behind it, by which its outputs can be matched."""
        return any(layer.batch_norm is not None for layer in self.layers.values())

    @property
    def compact(self) -> bool:
        """Whether a fifth of the layers or more have groups, as depthwise ones do: little is redundant."""
        return bool(self.layers) and sum(layer.groups > 1 for layer in self.layers.values()) >= len(self.layers) / 5

    def first_norm(self) -> tuple[str, NDArray[np.float64], NDArray[np.float64]] | None:
        """The first batch norm: the tensor that it normalizes, mean and variance (C,) that it recorded of its channels.

        Of one that is folded into a layer the layer's output, and the mean and variance behind the norm. What comes
        behind other norms or an attention tells nothing of the input's scale, and is passed over.
        """
        folded = {id(layer.node): layer.batch_norm for layer in self.layers.values() if layer.batch_norm}
        steady = set[int]()
        for node in self.graph.nodes:
            moved = any(not isinstance(t, gs.Constant) for t in node.inputs)
            if (node.op in STEADYING and moved) or any(id(t) in steady for t in node.inputs):
                steady.update(id(t) for t in node.outputs)
                continue
            norm = folded.get(id(node))
            if norm is not None:
                share = norm.var / (norm.var + norm.epsilon)
                return node.outputs[0].name, norm.beta, np.square(norm.gamma) * share
            own = recorded(node)
            if own is not None:
                return node.inputs[0].name, own.mean, own.var
        return None

    @property
    def weights(self) -> frozenset[str]:
        """Names of the constants that are weights of layers."""
        return frozenset(layer.constant.name for layer in self.layers.values())


def read(model: onnx.ModelProto) -> Network:
    """Reads a model into the canonical form. The model itself is not changed, and must not be changed after.

    Raises:
        ModelError: the graph is damaged, written for one kind of processor, or the weights of a layer are not finite.
    """
    refuse_blocked(model)
    G_LOGGER.severity = G_LOGGER.CRITICAL + 1  # it prints what it also raises
    try:
        return _read(model)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        _blame(model, error)
        raise


def _blame(model: onnx.ModelProto, error: Exception) -> None:
    """A model that onnx's checker refuses too is to blame for an error; if it does not, the error is ours."""
    try:
        onnx.checker.check_model(skeleton(model, SHAPES))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as fault:
        reason = " ".join(str(fault).split())[:160]
        raise ModelError(f"the model is damaged ({reason}); export it again") from error


def _read(model: onnx.ModelProto) -> Network:
    """`read`, with whatever errors a damaged model causes."""
    graph, origin = import_graph(model)
    overridable = len(model.graph.input) - len(graph.inputs)
    text = f"{overridable} weights were graph inputs too (an old form of ONNX); they are plain weights now"
    fold_constants(graph, origin)
    graph.nodes[:] = sorted_nodes(graph)
    unshare(graph, origin)
    kept = {t.name for t in graph.outputs} | inner_reads(model.graph)
    _drop_dead(graph)
    write_layers(graph)
    write_sums(graph, kept)
    drop_no_ops(graph, kept)
    graph = move_squeezes(move_transposes(graph, kept), kept)
    write_pointwise(graph, kept)
    join_activations(graph, kept)
    write_pooling(graph, kept)
    fold_pads(graph, kept)
    _drop_dead(graph)
    layers = join_branches(graph, _fold_batch_norms(graph, kept), kept, {*origin.shared, *origin.shared.values()})
    live = _live(graph)
    sound = [layer for layer in layers if id(layer.node) in live or _finite(layer)]
    for layer in sound:
        computed = [t for t in (layer.constant, layer.bias_tensor) if t is not None and not _as_loaded(t, origin)]
        if not all(all_finite(tensor.values) for tensor in computed):
            raise ModelError(f"the weights of '{layer.name}' are not finite; train or export the model again")
    return Network(graph, {layer.name: layer for layer in sound}, origin, [text] if overridable else [])


def _live(graph: gs.Graph) -> set[int]:
    """The nodes that an output depends on."""
    live: set[int] = set()
    pending: list[gs.Tensor] = list(graph.outputs)
    while pending:
        for node in pending.pop().inputs:
            if id(node) not in live:
                live.add(id(node))
                pending.extend(tensors_read(node))
    return live


def _drop_dead(graph: gs.Graph) -> None:
    """Takes out nodes that no output depends on: as further readers they would keep a batch norm from its layer."""
    live = _live(graph)
    for node in graph.nodes:
        if id(node) not in live:
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) in live]


def _finite(layer: Layer) -> bool:
    """Whether all weights are finite; those of layers that nothing depends on need not be."""
    return all(all_finite(t.values) for t in (layer.constant, layer.bias_tensor) if t is not None)


def _as_loaded(tensor: gs.Constant, origin: Origin) -> bool:
    """Whether the values are those of an initializer, which loading has checked; computed ones are unchecked."""
    values = tensor._values
    return isinstance(values, Stored) and origin.stored.get(values.source.name) is values


def _fold_batch_norms(graph: gs.Graph, kept: set[str]) -> list[Layer]:
    """Folds what can be folded into every layer and returns the layers."""
    for node in graph.nodes:
        plain_gemm(node)
    folded: set[int] = set()
    layers = find_layers(graph, kept)
    for layer in layers:
        folded.update(id(node) for node in fold_into_layer(layer, kept))
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in folded]
    return layers
