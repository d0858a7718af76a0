"""Small files that ask for more than any machine has: elements, bytes, steps or nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = [helper.make_opsetid("", 21)]


def _model(
    nodes: list[onnx.NodeProto], rank: int = 2, functions: list[onnx.FunctionProto] | None = None, **constants: object
) -> onnx.ModelProto:
    """A model from x (1, 8) to y, with a MatMul by w (8, 4) before y."""
    arrays = {"w": np.ones((8, 4), np.float32)} | {n: np.asarray(v) for n, v in constants.items()}
    graph = helper.make_graph(
        nodes,
        "bomb",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    opsets = [*OPSET, *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], f"{output}_{op}", **attributes)


def tile() -> onnx.ModelProto:
    """A constant of 10^10 elements, added to what the layer gives."""
    return _model(
        [node("Tile", "one many", "big"), node("MatMul", "x w", "h"), node("Add", "h big", "y")],
        one=np.ones((1, 1), np.float32), many=np.array([10**10, 1]),
    )  # fmt: skip


def tile_of_input() -> onnx.ModelProto:
    return _model([node("MatMul", "x w", "h"), node("Tile", "h many", "y")], many=np.array([10**5, 10**5]))


def expand_of_input() -> onnx.ModelProto:
    return _model([node("MatMul", "x w", "h"), node("Expand", "h shape", "y")], 4, shape=np.array([10**5, 10**4, 1, 4]))


def constant_of_shape() -> onnx.ModelProto:
    return _model(
        [node("ConstantOfShape", "shape", "big"), node("MatMul", "x w", "h"), node("Add", "h big", "y")],
        shape=np.array([10**9, 4]),
    )


def range_into_weight() -> onnx.ModelProto:
    """A weight (2·10^9, 1) made of a Range."""
    return _model(
        [
            node("MatMul", "x w", "h"),
            node("Range", "start end step", "r"),
            node("Cast", "r", "f", to=TensorProto.FLOAT),
            node("Reshape", "f form", "big"),
            node("MatMul", "h big", "y"),
        ],
        start=np.array(0), end=np.array(2 * 10**9), step=np.array(1), form=np.array([4, -1]),
    )  # fmt: skip


def doubled(op: str = "Concat") -> onnx.ModelProto:
    """A constant doubled 34 times."""
    attributes = {"axis": 0} if op == "Concat" else {}
    steps = [node(op, f"c{i} c{i}" if op == "Concat" else f"c{i} two", f"c{i + 1}", **attributes) for i in range(34)]
    return _model(
        [*steps, node("MatMul", "x w", "h"), node("ReduceSum", "c34", "s", keepdims=0), node("Add", "h s", "y")],
        c0=np.ones((1,), np.float32), two=np.array([2]),
    )  # fmt: skip


def doubled_tile() -> onnx.ModelProto:
    return doubled("Tile")


def doubled_of_input() -> onnx.ModelProto:
    """The same with what depends on the input."""
    steps = [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(34)]
    return _model([node("MatMul", "x w", "c0"), *steps, node("Relu", "c34", "y")])


def _loop(trips: int, condition: bool = True) -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", "go_in", "go_out"), node("Relu", "v_in", "v_out")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1, 4]),
        ],
    )
    count = "trips" if condition else ""
    loop = helper.make_node("Loop", [count, "go", "h"], ["y"], "loop", body=body)
    return _model([node("MatMul", "x w", "h"), loop], trips=np.array(trips), go=np.array(True))


def loop() -> onnx.ModelProto:
    """10^9 trips."""
    return _loop(10**9)


def loop_without_end() -> onnx.ModelProto:
    return _loop(1, condition=False)


def loop_of_unknown_size() -> onnx.ModelProto:
    """10^9 trips, and behind it a tensor whose size only a run can tell."""
    model = _loop(10**9)
    model.graph.node[-1].output[0] = "v"
    model.graph.node.extend([node("NonZero", "v", "n"), node("Cast", "n", "y", to=TensorProto.FLOAT)])
    return model


def nested_functions(depth: int = 40, calls: int = 10) -> onnx.ModelProto:
    """Functions that call the next one `calls` times: 10^40 nodes when they are written out."""
    functions = []
    for level in range(depth):
        op, domain = ("Relu", "") if level == depth - 1 else (f"f{level + 1}", "own")
        nodes = [helper.make_node(op, [f"t{i}"], [f"t{i + 1}"], domain=domain) for i in range(calls)]
        functions.append(
            helper.make_function(
                "own", f"f{level}", ["t0"], [f"t{calls}"], nodes, [*OPSET, helper.make_opsetid("own", 1)]
            )
        )
    return _model(
        [node("MatMul", "x w", "h"), helper.make_node("f0", ["h"], ["y"], "call", domain="own")], 2, functions
    )


def circular_functions() -> onnx.ModelProto:
    """Two functions that call each other."""
    functions = [
        helper.make_function("own", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="own")],
                             [*OPSET, helper.make_opsetid("own", 1)])
        for name, other in (("f0", "f1"), ("f1", "f0"))
    ]  # fmt: skip
    return _model(
        [node("MatMul", "x w", "h"), helper.make_node("f0", ["h"], ["y"], "call", domain="own")], 2, functions
    )


def large_product() -> onnx.ModelProto:
    """Two constants (60000, 60000) made of one number each, and their product: 2·10^14 operations."""
    return _model(
        [
            node("ConstantOfShape", "shape", "a"),
            node("MatMul", "a a", "b"),
            node("ReduceSum", "b", "s", keepdims=0),
            node("MatMul", "x w", "h"),
            node("Add", "h s", "y"),
        ],
        shape=np.array([60_000, 60_000]),
    )


def padded() -> onnx.ModelProto:
    return _model([node("MatMul", "x w", "h"), node("Pad", "h pads", "y")], pads=np.array([0, 0, 10**5, 10**5]))


def enlarged() -> onnx.ModelProto:
    """An image made 10^5 times as high and as wide."""
    scales = np.array([1, 1, 1e5, 1e5], np.float32)
    return _model(
        [
            node("MatMul", "x w", "h"),
            node("Reshape", "h form", "i"),
            helper.make_node("Resize", ["i", "", "scales"], ["y"]),
        ],
        4, form=np.array([1, 1, 2, 2]), scales=scales,
    )  # fmt: skip


def outer_product() -> onnx.ModelProto:
    """A table of 10^5 by 10^5 from two rows of the input."""
    return _model(
        [
            node("MatMul", "x w", "h"),
            node("Tile", "h many", "row"),
            node("Transpose", "row", "column", perm=[1, 0]),
            node("Mul", "row column", "y"),
        ],
        many=np.array([1, 25_000]),
    )


BOMBS: tuple[Callable[[], onnx.ModelProto], ...] = (
    tile, tile_of_input, expand_of_input, constant_of_shape, range_into_weight, doubled, doubled_tile, doubled_of_input,
    loop, loop_without_end, loop_of_unknown_size, nested_functions, circular_functions, large_product, padded, enlarged,
    outer_product,
)  # fmt: skip
