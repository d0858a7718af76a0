"""What is in examples/ runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.rglob("*.ipynb"))


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.name for p in NOTEBOOKS])
def test_notebooks_are_stored_without_what_a_run_left(path: Path) -> None:
    assert [c["outputs"] or c["execution_count"] for c in cells(path)] == [None] * len(cells(path))


def test_the_notebook_of_the_digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(EXAMPLES)
    names: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells(EXAMPLES / "digits.ipynb")]
    assert "391,402 parameters" in capsys.readouterr().out
    assert "<table>" in shown[2]._repr_html_()
    bits, shares, before, after = zip(*names["rows"], strict=True)
    assert bits == (8, 4, 2)
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[1] < 0.12
    assert before[0] == before[1] == before[2] > 0.98
    assert after[0] > 0.97
    assert after[1] > 0.95
