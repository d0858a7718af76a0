"""Pad, Resize and CenterCropPad that name their axes, written out for all axes.

The meaning is the same. But beside integer convolutions onnxruntime turns such nodes to its inner channels-last layout
as if they named all axes (1.32), and the result does not run or runs wrong. Nodes whose rank or axes are not known are
left as they are, and so are those in subgraphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_udfc.model.graph import standard
from onnx_udfc.model.inference import inferred
from onnx_udfc.model.names import Taken, names_in, unique_name
from onnx_udfc.model.protos import attribute, constants, set_nodes, skeleton
from onnx_udfc.model.values import values

Ints = NDArray[np.int64]
Dims = tuple[int | None, ...]

SHAPES = 1 << 14  # initializers of more bytes hold no shapes


def write_axes(graph: onnx.GraphProto, model: onnx.ModelProto) -> None:
    """Writes the axes out, in place.

    The model's operators are those of opset 18 or later, or there is nothing to do.
    """
    if any(_names_axes(node) for node in graph.node):
        writer = _Writer(graph, _dims(model))
        set_nodes(graph, [new for node in graph.node for new in writer.written(node)])


def _names_axes(node: onnx.NodeProto) -> bool:
    """Whether the node works on some axes that it names."""
    if not standard(node.domain):
        return False
    if node.op_type == "Pad":
        return len(node.input) > 3 and bool(node.input[3])
    return node.op_type in ("Resize", "CenterCropPad") and attribute(node, "axes") is not None


def _dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Tensor → its dimensions, None where one is open; tensors of unknown rank are absent."""
    graph = inferred(skeleton(model, SHAPES)).graph
    return {
        info.name: tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim)
        for info in [*graph.input, *graph.value_info, *graph.output]
        if (kind := info.type.tensor_type).HasField("shape")
    }


class _Writer:
    """Makes nodes and constants for one graph."""

    def __init__(self, graph: onnx.GraphProto, dims: dict[str, Dims]) -> None:
        self._graph, self._dims = graph, dims
        self._taken = Taken(names_in(graph))
        self._known = constants(graph)
        self._nodes: list[onnx.NodeProto] = []

    def written(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that do what this one does; itself where it can stay, or has to."""
        dims = self._dims.get(node.input[0]) if node.input else None
        axes = self._axes(node, dims) if _names_axes(node) and dims is not None else None
        if axes is None or dims is None:
            return [node]
        self._nodes = []
        result = onnx.NodeProto()
        result.CopyFrom(node)
        done = {"Pad": self._pad, "Resize": self._resize, "CenterCropPad": self._center}[node.op_type]
        return [*self._nodes, result] if done(result, axes, dims) else [node]

    def _axes(self, node: onnx.NodeProto, dims: Dims | None) -> Ints | None:
        """The axes that a node names, none negative; None where they are computed or wrong."""
        named = self._value(node.input[3]) if node.op_type == "Pad" else np.array(attribute(node, "axes"), np.int64)
        if named is None or dims is None:
            return None
        axes = np.where(named < 0, named + len(dims), named).astype(np.int64)
        unique = len(set(axes.tolist())) == axes.size
        return axes if axes.size and unique and axes.min() >= 0 and axes.max() < len(dims) else None

    def _pad(self, node: onnx.NodeProto, axes: Ints, dims: Dims) -> bool:
        inputs = [node.input[0], self._spread(node, "pads", node.input[1], _both(axes, dims), np.zeros(2 * len(dims)))]
        value = list(node.input[2:3]) if node.input[2] else []
        del node.input[:]
        node.input.extend([*inputs, *value])
        return True

    def _resize(self, node: onnx.NodeProto, axes: Ints, dims: Dims) -> bool:
        roi, scales, sizes = ([*node.input, "", "", ""][i] for i in (1, 2, 3))
        policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
        if sizes and policy != "stretch":
            scale = _common_scale(self._value(sizes), axes, dims, max if policy == "not_smaller" else min)
            if scale is None:
                return False
            scales, sizes = self._constant(f"{_base(node)}.scale", np.full(axes.size, scale)), ""
        if roi and self._size(roi):
            ends = np.concatenate([np.zeros(len(dims)), np.ones(len(dims))])
            roi = self._spread(node, "roi", roi, _both(axes, dims), ends)
        if scales and self._size(scales):
            scales = self._spread(node, "scales", scales, axes, np.ones(len(dims)))
        if sizes and self._size(sizes):
            sizes = self._all_sizes(node, sizes, axes, dims)
        kept = [a for a in node.attribute if a.name not in ("axes", "keep_aspect_ratio_policy")]
        inputs = [node.input[0], roi, scales, sizes]
        while not inputs[-1]:
            inputs.pop()
        del node.attribute[:], node.input[:]
        node.attribute.extend(kept)
        node.input.extend(inputs)
        return True

    def _center(self, node: onnx.NodeProto, axes: Ints, dims: Dims) -> bool:
        """CenterCropPad(x, shape): zeros on both sides where x is too short, then the middle of what is too long."""
        base, data, shape = _base(node), node.input[0], self._value(node.input[1])
        last = onnx.NodeProto(name=node.name, doc_string=node.doc_string, output=node.output, op_type="Slice")
        last.metadata_props.extend(node.metadata_props)
        node_axes = self._constant(f"{base}.axes", axes)
        size = [dims[axis] for axis in axes.tolist()]
        if shape is not None and all(n is not None for n in size):
            lack = np.maximum(shape - np.array(size, np.int64), 0)
            start = np.maximum(np.array(size, np.int64) - shape, 0) // 2
            sides = np.concatenate([lack // 2, lack - lack // 2])
            pads = self._constant(f"{base}.some_pads", sides) if np.any(lack) else ""
            first, end = self._constant(f"{base}.start", start), self._constant(f"{base}.end", start + shape)
        else:
            pads, first, end = self._center_at_run_time(base, data, node.input[1], node_axes)
        if pads:
            all_pads = self._spread(node, "pads", pads, _both(axes, dims), np.zeros(2 * len(dims)))
            data = self._add("Pad", f"{base}.padded", [data, all_pads])
        last.input.extend([data, first, end, node_axes])
        node.CopyFrom(last)
        return True

    def _center_at_run_time(self, base: str, data: str, shape: str, axes: str) -> tuple[str, str, str]:
        """Pads, starts and ends of a CenterCropPad to or from a size that is computed."""
        zero, two = self._constant(f"{base}.zero", [0]), self._constant(f"{base}.two", [2])
        size = self._add("Gather", f"{base}.size", [self._add("Shape", f"{base}.shape", [data]), axes])
        lack = self._add("Max", f"{base}.lack", [self._add("Sub", f"{base}.short", [shape, size]), zero])
        left = self._add("Div", f"{base}.left", [lack, two])
        right = self._add("Sub", f"{base}.right", [lack, left])
        pads = self._add("Concat", f"{base}.some_pads", [left, right], axis=0)
        excess = self._add("Max", f"{base}.excess", [self._add("Sub", f"{base}.long", [size, shape]), zero])
        start = self._add("Div", f"{base}.start", [excess, two])
        return pads, start, self._add("Add", f"{base}.end", [start, shape])

    def _spread(self, node: onnx.NodeProto, what: str, name: str, places: Ints, rest: NDArray[Any]) -> str:
        """A tensor like `rest` (n,), with the values of tensor `name` (m,) at `places` (m,)."""
        value = self._value(name)
        full = rest.astype(np.int64 if what == "pads" else np.float32 if value is None else value.dtype)
        if value is not None:
            full[places] = value
            return self._constant(f"{_base(node)}.{what}", full)
        inputs = [self._constant(f"{_base(node)}.{key}", v) for key, v in ((f"no_{what}", full), ("places", places))]
        return self._add("ScatterElements", f"{_base(node)}.{what}", [*inputs, name], axis=0)

    def _all_sizes(self, node: onnx.NodeProto, sizes: str, axes: Ints, dims: Dims) -> str:
        """The sizes of all axes, of which a Resize names some: the others come from the shape of its input."""
        value, base = self._value(sizes), _base(node)
        wanted = dict(zip(axes.tolist(), range(axes.size), strict=True))
        if value is not None and all(axis in wanted or n is not None for axis, n in enumerate(dims)):
            full = np.array([n or 0 for n in dims], np.int64)
            full[axes] = value
            return self._constant(f"{base}.sizes", full)
        shape, pieces = self._add("Shape", f"{base}.shape", [node.input[0]]), []
        for first, count, own in _runs([axis in wanted for axis in range(len(dims))]):
            numbers = [wanted[axis] for axis in range(first, first + count)] if own else []
            if own and value is not None:
                pieces.append(self._constant(f"{base}.sizes{first}", value[numbers]))
            elif own:
                pieces.append(
                    self._add("Gather", f"{base}.some{first}", [sizes, self._constant(f"{base}.n{first}", numbers)])
                )
            else:
                ends = [self._constant(f"{base}.{key}{n}", [n]) for key, n in (("from", first), ("to", first + count))]
                pieces.append(self._add("Slice", f"{base}.kept{first}", [shape, *ends]))
        return self._add("Concat", f"{base}.sizes", pieces, axis=0)

    def _value(self, name: str) -> NDArray[Any] | None:
        return values(self._known[name]) if name in self._known else None

    def _size(self, name: str) -> bool:
        """Whether a tensor has values: an empty constant stands for an input that is left out."""
        value = self._value(name)
        return value is None or value.size > 0

    def _constant(self, name: str, value: Sequence[int] | NDArray[Any]) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype == np.float64 else array.dtype)
        tensor = numpy_helper.from_array(array, unique_name(name, self._taken))
        self._graph.initializer.append(tensor)
        self._known[tensor.name] = tensor
        return tensor.name

    def _add(self, op: str, output: str, inputs: Sequence[str], axis: int | None = None) -> str:
        name = unique_name(output, self._taken)
        node = helper.make_node(op, list(inputs), [name], name=name)
        node.attribute.extend([] if axis is None else [helper.make_attribute("axis", axis)])
        self._nodes.append(node)
        return name


def _base(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _both(axes: Ints, dims: Dims) -> Ints:
    """The places of an axis' begin and end among those of all axes."""
    return np.concatenate([axes, axes + len(dims)])


def _runs(flags: Sequence[bool]) -> list[tuple[int, int, bool]]:
    """Stretches of equal flags: first index, length, flag."""
    starts = [i for i, flag in enumerate(flags) if i == 0 or flags[i - 1] != flag]
    return [(s, e - s, flags[s]) for s, e in zip(starts, [*starts[1:], len(flags)], strict=True)]


def _common_scale(sizes: NDArray[Any] | None, axes: Ints, dims: Dims, choose: Any) -> float | None:
    """The one scale of a Resize that keeps the aspect ratio; None where it, or the size that it gives, is not known."""
    named = [dims[axis] for axis in axes.tolist()]
    if sizes is None or not all(named):
        return None
    lengths = np.array(named, np.float32)
    scale = np.float32(choose((sizes.astype(np.float32) / lengths).tolist()))
    exact = np.array_equal(np.floor(lengths * scale), np.floor(lengths * scale + np.float32(0.5)))
    return float(scale) if exact else None
