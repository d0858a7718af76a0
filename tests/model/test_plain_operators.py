"""Operators in numpy give what onnx's reference implementations give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_udfc.model.plain_operators import OPERATORS, computed

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.5
WHOLE = np.array([5, -3, 7], np.int64)


def of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


CASES: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("Add", [WHOLE, np.array(2, np.int64)], {}),
    ("Sub", [VALUES, VALUES[:, :1]], {}),
    ("Mul", [WHOLE, WHOLE], {}),
    ("Mul", [np.array([2**62, 3], np.int64), of(4, 4)], {}),
    ("Cast", [VALUES], {"to": onnx.TensorProto.INT64}),
    ("Cast", [WHOLE], {"to": onnx.TensorProto.FLOAT}),
    ("Cast", [VALUES * 1e5], {"to": onnx.TensorProto.FLOAT16}),
    ("Cast", [VALUES], {"to": onnx.TensorProto.BOOL}),
    ("Concat", [of(1, 2), of(3)], {"axis": 0}),
    ("Concat", [VALUES, VALUES], {"axis": -1}),
    ("ConstantOfShape", [of(2, 3)], {}),
    ("ConstantOfShape", [of(4)], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [9])}),
    ("ConstantOfShape", [np.zeros(0, np.int64)], {}),
    ("Gather", [VALUES, of(1, 0)], {}),
    ("Gather", [VALUES, np.array(-1, np.int64)], {"axis": 2}),
    ("Reshape", [VALUES, of(0, -1)], {}),
    ("Reshape", [np.zeros((0, 3), np.float32), of(3, 0)], {"allowzero": 1}),
    ("Shape", [VALUES], {}),
    ("Shape", [VALUES], {"start": 1, "end": -1}),
    ("Slice", [VALUES, of(1), of(2**62), of(-1), of(2)], {}),
    ("Slice", [VALUES, of(0, 1), of(1, 3)], {}),
    ("Slice", [VALUES, of(-2), of(-1), of(1)], {}),
    ("Slice", [VALUES, of(3), of(0), of(2), of(-1)], {}),
    ("Slice", [VALUES, of(-1), of(-(2**63) + 1), of(0), of(-1)], {}),
    ("Slice", [VALUES, of(9), of(-9), of(2), of(-2)], {}),
    ("Squeeze", [VALUES[:1]], {}),
    ("Squeeze", [VALUES[:1], of(0)], {}),
    ("Transpose", [VALUES], {}),
    ("Transpose", [VALUES], {"perm": [1, 0, 2]}),
    ("Unsqueeze", [VALUES, of(0, -1)], {}),
    ("Unsqueeze", [np.array(3, np.int64), of(0)], {}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_same_as_the_reference(case: tuple[str, list[np.ndarray], dict[str, Any]]) -> None:
    op, arrays, attributes = case
    names = [f"x{i}" for i in range(len(arrays))]
    node = helper.make_node(op, names, ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with np.errstate(all="ignore"):
        (expected,) = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    found = computed(node, 21, list(arrays))
    assert found is not None
    assert found[0].dtype == np.asarray(expected).dtype
    assert found[0].shape == np.asarray(expected).shape
    assert np.array_equal(found[0], expected)


def test_every_operator_is_tried() -> None:
    assert {op for op, _, _ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("op", "arrays", "opset", "attributes"),
    [
        ("Erf", [VALUES], 21, {}),
        ("Unsqueeze", [VALUES], 11, {"axes": [0]}),
        ("Slice", [VALUES], 9, {"starts": [0], "ends": [1]}),
        ("Cast", [np.array([np.nan], np.float32)], 21, {"to": onnx.TensorProto.INT64}),
        ("Cast", [np.array([3e9], np.float32)], 21, {"to": onnx.TensorProto.INT32}),
        ("Cast", [WHOLE], 21, {"to": onnx.TensorProto.BFLOAT16}),
        ("Add", [WHOLE, None], 21, {}),
    ],
)
def test_what_is_not_known_is_left_to_the_reference(
    op: str, arrays: list[np.ndarray | None], opset: int, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(op, [f"x{i}" for i in range(len(arrays))], ["y"], **attributes)
    assert computed(node, opset, arrays) is None


def test_a_file_with_plain_expressions_is_read_without_the_reference(assets: Path) -> None:
    path = assets / "models" / "resnet20_cifar10_bn.onnx"
    code = (
        "import sys; from onnx_udfc.model.files import load; from onnx_udfc.model.network import read;"
        f"read(load({str(path)!r}).model); sys.exit('onnx.reference' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
