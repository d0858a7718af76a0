"""CHANNEL_RULES: how channels flow through every operator. A new operator is one row here and one in the tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import onnx_graphsurgeon as gs

from onnx_udfc.channels.labels import Flow, Rule
from onnx_udfc.channels.rules import elementwise as value_ops
from onnx_udfc.channels.rules import layers as layer_ops
from onnx_udfc.channels.rules import products as product_ops
from onnx_udfc.channels.rules import shape as shape_ops
from onnx_udfc.channels.targets import READS_SIZES
from onnx_udfc.model.graph import BROADCASTING, BY_VALUE, standard


def _quantized(flow: Flow, node: gs.Node) -> None:
    for tensor in node.inputs:
        flow.bar(flow.get(tensor), node, "it is already quantized")


READS_ENDS = {"Slice": (1, 2)}  # where the rule looks at counts of channels itself
PASSING = (*BY_VALUE, "CastLike", "Dropout", "Identity")
RESIDUAL = ("Add", "Mean", "Sub", "Sum")
ELEMENTWISE = tuple(op for op in BROADCASTING if op not in RESIDUAL)
SPATIAL = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
REDUCTION = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
OVER_AXIS = ("Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "TopK")
QUANTIZED = (
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear",
)  # fmt: skip

CHANNEL_RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING, value_ops.passing),
    **dict.fromkeys(ELEMENTWISE, value_ops.elementwise),
    **dict.fromkeys(RESIDUAL, partial(value_ops.elementwise, residual=True)),
    **dict.fromkeys(SPATIAL, value_ops.spatial),
    **dict.fromkeys(REDUCTION, value_ops.reduction),
    **dict.fromkeys(OVER_AXIS, value_ops.over_axis),
    **dict.fromkeys(QUANTIZED, _quantized),
    "ArgMax": value_ops.arg_reduction,
    "ArgMin": value_ops.arg_reduction,
    "Attention": product_ops.attention,
    "BatchNormalization": layer_ops.channel_norm,
    "Affine": value_ops.passing,
    "Concat": shape_ops.concat,
    "Conv": layer_ops.weighted,
    "ConvTranspose": layer_ops.weighted,
    "Crop": value_ops.spatial,
    "CumSum": value_ops.cumulative,
    "DepthToSpace": shape_ops.depth_to_space,
    "Einsum": product_ops.einsum,
    "Expand": shape_ops.expand,
    "Flatten": shape_ops.reshape,
    "Gather": shape_ops.gather,
    "Gemm": layer_ops.weighted,
    "GroupNormalization": layer_ops.group_norm,
    "InstanceNormalization": layer_ops.channel_norm,
    "LRN": layer_ops.local_response_norm,
    "LayerNormalization": value_ops.layer_norm,
    "MatMul": product_ops.two_tensors,
    "MeanVarianceNormalization": value_ops.mean_variance_norm,
    "Pad": shape_ops.pad,
    "Reshape": shape_ops.reshape,
    "Resize": shape_ops.resize,
    "Slice": shape_ops.slice_,
    "SpaceToDepth": shape_ops.space_to_depth,
    "Split": shape_ops.split,
    "Squeeze": shape_ops.reshape,
    "Tile": shape_ops.tile,
    "Transpose": shape_ops.transpose,
    "Unsqueeze": shape_ops.reshape,
    "Upsample": shape_ops.resize,
}


def propagate(flow: Flow) -> None:
    """Run the rules over all nodes, in order; the outputs of the network are barriers."""
    graph = flow.network.graph
    for node in graph.nodes:
        outer = _outer_names(node)
        names = {t.name for t in node.inputs} | outer
        if not outer and flow.reckon(node):
            continue
        if node.name in flow.network.layers or not names.isdisjoint(flow.labels):
            _apply(flow, node, outer)
        else:
            _escape(flow, node, outer, ())
    for tensor in graph.outputs:
        end = tensor.inputs[0] if tensor.inputs else None
        if tensor.name in flow.labels:
            flow.bar(flow.labels[tensor.name], end, "it is an output of the network", tensor.name)
        if end is not None:
            flow.escape(end, tensor.name)


def _escape(flow: Flow, node: gs.Node, outer: set[str], handled: Collection[int]) -> None:
    """Counts of channels that a node reads otherwise than as a size that its rule looks at."""
    for name in {t.name for i, t in enumerate(node.inputs) if i not in handled} | outer:
        flow.escape(node, name)


def _apply(flow: Flow, node: gs.Node, outer: set[str]) -> None:
    rule = layer_ops.weighted if node.name in flow.network.layers else CHANNEL_RULES.get(node.op)
    blocked: str | None = None
    if not standard(node.domain):
        blocked = f"it feeds {node.domain}.{node.op}, an operator that is not of the ONNX standard"
    elif outer:
        blocked = f"it feeds the control flow of a {node.op} node"
    elif rule is None:
        blocked = f"it feeds {node.op}, through which channels cannot be followed"
    elif not all(flow.sized(t) for t in [*node.inputs, *node.outputs] if t.name):
        blocked = f"shapes around {node.op} are not known"
    if blocked is None and rule is not None:
        blocked = flow.apply(rule, node)
    if blocked:
        for name in {t.name for t in node.inputs} | outer:
            flow.bar(flow.labels.get(name), node, blocked)
    _escape(flow, node, outer, () if blocked else (*READS_SIZES.get(node.op, ()), *READS_ENDS.get(node.op, ())))


def _outer_names(node: gs.Node) -> set[str]:
    """Names of all tensors that the node's subgraphs read; inner names do no harm, they carry no labels."""
    names: set[str] = set()
    for graph in _subgraphs(node):
        for inner in graph.nodes:
            names |= {t.name for t in inner.inputs} | _outer_names(inner)
        names |= {t.name for t in graph.outputs}
    return names


def _subgraphs(node: gs.Node) -> Iterator[gs.Graph]:
    for value in node.attrs.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, gs.Graph):
                yield item
