"""docs/extending.md: each of its programs adds a row to a table and runs the command line with it, end to end."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc.model.files import load
from tests.command_line import small_classifier
from tests.stored_codes import stored

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def extended(folder: Path, title: str, model: onnx.ModelProto, more: str = "") -> dict[str, Any]:
    """What a section's program makes of a model with the section's own command: its report."""
    program = re.findall(r"```python\n(.*?)```", SECTIONS[title], re.DOTALL)
    command = re.findall(r"```sh\npython mine\.py (.*?)\n```", SECTIONS[title])
    assert len(program) == len(command) == 1, "a section holds one program and one command"
    (folder / "mine.py").write_text(program[0], encoding="utf-8")
    onnx.save(model, folder / "in.onnx")
    words = [sys.executable, "mine.py", *shlex.split(command[0]), "--report", "report.json", *shlex.split(more)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def constants(folder: Path) -> dict[str, np.ndarray]:
    model = load(folder / "out.onnx").model
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("more", ["", "--method udfc --target tensorrt", "--activations 8"])
def test_a_format(tmp_path: Path, more: str) -> None:
    found = extended(tmp_path, "A number format", small_classifier(), more)
    assert {layer["bits"] for layer in found["layers"]} == {4.27}
    books = [v for v in constants(tmp_path).values() if v.shape == (16,) and v.dtype == np.float32 and np.ptp(v) > 4]
    expected = np.tan(1.2 * (2 * np.arange(16) / 15 - 1)).astype(np.float32)
    assert len(books) == 1
    np.testing.assert_allclose(np.roll(books[0], 8), expected, rtol=1e-6)
    assert found["fidelity"]["sqnr_db"] > (10 if "activations" in more or "udfc" in more else 15)


def test_a_method_from_weights(tmp_path: Path) -> None:
    model = small_classifier()
    extended(tmp_path, "A method from weights", model)
    before = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    after = constants(tmp_path)

    def kept(name: str, of: np.ndarray) -> np.ndarray:  # no bias, so that rows tell channels
        rows = after[name].reshape(len(after[name]), -1)
        return np.array([int(abs(of.reshape(len(of), -1) - row).max(1).argmin()) for row in rows])

    def mixed(of: np.ndarray, keep: np.ndarray) -> np.ndarray:
        rows = of.reshape(len(of), -1)
        nearest = np.linalg.norm(rows[:, None] - rows[keep], axis=2).argmin(1)
        return np.asarray(np.eye(len(keep))[nearest])

    first = kept("w1", before["w1"])
    second = np.einsum("ocij,ck->okij", before["w2"], mixed(before["w1"], first))
    keep = kept("w2", second)
    assert (len(first), len(keep)) == (8, 16)
    np.testing.assert_allclose(after["w2"], second[keep], rtol=1e-5)
    absorbed = before["w2"].copy()
    absorbed[:, first] = second
    np.testing.assert_allclose(after["w3"], mixed(absorbed, keep).T @ before["w3"], rtol=1e-5)


def test_a_method_from_moments(tmp_path: Path) -> None:
    model, plain = small_classifier(), tmp_path / "plain"
    plain.mkdir()
    found = extended(tmp_path, "A method from moments", model)
    usual = extended(plain, "A method from moments", model, "--method moments")
    assert found["options"]["method"] == "least-norm"
    errors = [[layer["error_after"] for layer in report["layers"]] for report in (found, usual)]
    assert errors[0] != errors[1]
    assert 5 < found["fidelity"]["sqnr_db"] < usual["fidelity"]["sqnr_db"] + 3


def test_a_target(tmp_path: Path) -> None:
    found = extended(tmp_path, "A target", small_classifier())
    assert {layer["form"] for layer in found["layers"]} == {"DequantizeLinear(INT8)"}
    assert any("--target board the codes are stored as int8" in note for note in found["runtime"]["notes"])
    nodes = load(tmp_path / "out.onnx").model.graph.node
    written = {n.output[0]: n for n in nodes}
    layers = [n for n in nodes if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    for layer in layers:
        assert [written[t].op_type for t in layer.input[:2]] == ["DequantizeLinear"] * 2
        assert written[written[layer.input[0]].input[0]].op_type == "QuantizeLinear"
    assert sum(n.op_type == "QuantizeLinear" for n in nodes) == 3
    assert found["fidelity"]["sqnr_db"] > 10


EINSUM = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[2,6,12] x) => (float[2,6,5] y) {
   a = Einsum <equation="bti,io->bto"> (x, w1)
   c = Add (a, b1)
   r = Relu (c)
   y = Einsum <equation="bti, io -> bto"> (r, w2)
}
"""


def test_an_operator(tmp_path: Path) -> None:
    model, rng = onnx.parser.parse_model(EINSUM), np.random.default_rng(0)
    for name, shape in {"w1": (12, 32), "b1": (32,), "w2": (32, 5)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    found = extended(tmp_path, "An operator with weights", model)
    assert [(x["op_type"], x["bits"], x["form"]) for x in found["layers"]] == [
        ("Einsum", 8, "Cast(INT8→FLOAT)→Mul")
    ] * 2
    (group,) = found["groups"]
    assert (group["channels"], group["kept"], group["status"]) == (32, 16, "pruned")
    shapes = {name: tuple(codes.dims) for name, (codes, _) in stored(load(tmp_path / "out.onnx").model).items()}
    assert shapes == {"w1": (12, 16), "w2": (16, 5)}
    assert found["layers"][1]["error_after"] < found["layers"][1]["error_before"]


@pytest.mark.parametrize("more", ["", "--bits 8", "--method udfc"])
def test_a_kind_of_damage(tmp_path: Path, more: str) -> None:
    model = small_classifier()
    found = extended(tmp_path, "A kind of damage", model, more)
    made = stored(load(tmp_path / "out.onnx").model)
    after = constants(tmp_path) | {name: numpy_helper.to_array(codes) for name, (codes, _) in made.items()}
    for name, rows in {"w2": after["w2"].reshape(32, -1, 4), "w3": after["w3"].T.reshape(5, -1, 4)}.items():
        assert ((rows == 0).sum(-1) >= 2).all(), name
        assert ((rows == 0).sum(-1) == 2).mean() > 0.9, name
    plain = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert after["w1"].astype(bool).mean() > 0.95, "27 inputs are no fours"
    if not more:  # the last layer was refitted to what the damage in front of it left
        left = after["w3"] != 0
        assert not np.allclose(after["w3"][left], plain["w3"][left], rtol=1e-3)
        assert found["fidelity"]["sqnr_db"] > 5
