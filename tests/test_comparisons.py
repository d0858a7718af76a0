"""Kinds of layers, names of targets and bits are asked for where their rows are, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.layers import LAYERS

PACKAGE = Path(__file__).resolve().parents[1] / "onnx_udfc"
OWN = {"model/layers.py", "emit/targets.py", "options/words.py"}  # where the rows are
OPERATORS = {  # what is said of an operator as such, weights or not
    ("evaluate/inspection.py", "'Conv' in op_type"): "ConvInteger and QLinearConv are no layers, yet have channels",
    ("inputs/sizes.py", "node.op in ('Gemm', 'Softmax', 'Flatten')"): "what writes vectors, with computed weights too",
    ("model/checks.py", "node.op_type == 'Conv'"): "one of another domain, which is no layer and is refused",
    ("model/constants.py", "op == 'MatMul'"): "the cost of folding two constants",
    ("model/fold.py", "node.op != 'Gemm'"): "alpha and beta of Gemm; it becomes a layer by that",
}


def words(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def comparisons() -> Iterator[tuple[str, ast.Compare]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and name not in OWN:
                yield name, node


def test_no_operator_with_weights_is_named_outside_of_its_class() -> None:
    found = {(name, ast.unparse(node)) for name, node in comparisons() if words(node) & set(LAYERS)}
    assert found == set(OPERATORS)


def test_no_target_is_named_outside_of_its_row() -> None:
    found = [
        (name, ast.unparse(node))
        for name, node in comparisons()
        if "target" in ast.unparse(node.left).lower() and words(node) & set(TARGETS)
    ]
    assert found == []


def test_bits_are_compared_with_no_fraction() -> None:
    found = [
        (name, ast.unparse(node))
        for name, node in comparisons()
        if "bits" in ast.unparse(node).lower()
        and any(isinstance(n, ast.Constant) and isinstance(n.value, float) for n in ast.walk(node))
    ]
    assert found == []
