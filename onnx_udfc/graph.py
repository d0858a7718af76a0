"""The network in a canonical form: unique names, constants as initializers of one user each, batch norm folded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_udfc.carry import Origin, export_model, import_graph, sorted_nodes
from onnx_udfc.constants import fold_constants, unshare
from onnx_udfc.fold import fold_into_layer
from onnx_udfc.layers import BatchNorm, Layer, find_layers

__all__ = ["BatchNorm", "Layer", "Network", "read"]


@dataclass(eq=False)
class Network:
    """A network that can be changed: the graph, and its layers.

    Attributes:
        graph: the top-level graph; change it freely. Arrays of constants are read-only: replace them.
        layers: node name → layer, in topological order.
        notes: what was done to the model on reading that a user should know.
        origin: the model it was read from; `to_model` takes whatever is unchanged from there.
    """

    graph: gs.Graph
    layers: dict[str, Layer]
    origin: Origin
    notes: list[str] = field(default_factory=list)

    def copy(self) -> Network:
        """A network with its own nodes and tensors; the arrays are shared until one of the two replaces them."""
        nodes: dict[int, gs.Node] = {}
        graph = _copy_graph(self.graph, nodes)
        layers = {
            name: Layer(
                nodes[id(layer.node)],
                layer.kind,
                graph,
                layer.batch_norm,
                None if layer.bias_node is None else nodes.get(id(layer.bias_node)),
            )
            for name, layer in self.layers.items()
            if id(layer.node) in nodes
        }
        return Network(graph, layers, self.origin, list(self.notes))

    def to_model(self) -> onnx.ModelProto:
        """The network as a model of its own: nothing in it is shared with this network."""
        return export_model(self.graph, self.origin)


def read(model: onnx.ModelProto) -> Network:
    """Reads a model into the canonical form. The model itself is not changed, and must not be changed after.

    Raises:
        ModelError: the graph is damaged: a tensor is written twice, or depends on itself.
    """
    G_LOGGER.severity = G_LOGGER.CRITICAL
    graph, origin = import_graph(model)
    notes = []
    dropped = sum(1 for i in model.graph.input if i.name not in {t.name for t in graph.inputs})
    if dropped:
        notes.append(f"{dropped} weights were graph inputs too (an old form of ONNX); they are plain weights now")
    fold_constants(graph, origin)
    graph.nodes[:] = sorted_nodes(graph)
    unshare(graph, origin)
    layers = _fold_batch_norms(graph)
    return Network(graph, {layer.name: layer for layer in layers}, origin, notes)


def _fold_batch_norms(graph: gs.Graph) -> list[Layer]:
    """Folds what can be folded into every layer and returns the layers."""
    outputs = {id(t) for t in graph.outputs}
    folded: set[int] = set()
    layers = find_layers(graph)
    for layer in layers:
        folded.update(id(node) for node in fold_into_layer(layer, outputs))
    graph.nodes[:] = [node for node in graph.nodes if id(node) not in folded]
    return layers


def _copy_graph(graph: gs.Graph, nodes: dict[int, gs.Node]) -> gs.Graph:
    """A copy with its own nodes and tensors; fills `nodes`: id of a node → its copy."""
    tensors: dict[int, gs.Tensor] = {}
    names: OrderedDict[str, gs.Tensor] = OrderedDict()
    for tensor in [*graph.inputs, *graph.outputs, *(t for n in graph.nodes for t in [*n.inputs, *n.outputs])]:
        if id(tensor) not in tensors:
            tensors[id(tensor)] = names[tensor.name] = _copy_tensor(tensor)
    for node in graph.nodes:
        inputs, outputs = [tensors[id(t)] for t in node.inputs], [tensors[id(t)] for t in node.outputs]
        nodes[id(node)] = node.copy(inputs, outputs, names)
    return gs.Graph(
        [nodes[id(n)] for n in graph.nodes], [tensors[id(t)] for t in graph.inputs],
        [tensors[id(t)] for t in graph.outputs], graph.name, graph.doc_string, graph.opset,
        list(graph.import_domains), ir_version=graph.ir_version,
    )  # fmt: skip


def _copy_tensor(tensor: gs.Tensor) -> gs.Tensor:
    """A tensor without users; a constant shares its array."""
    if isinstance(tensor, gs.Constant):
        return gs.Constant(tensor.name, tensor._values)
    shape = None if tensor.shape is None else list(tensor.shape)
    return gs.Variable(tensor.name, tensor.dtype, shape, tensor.type)
