"""Small files that ask for more than any machine has: a result or one line within seconds, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import parser

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.errors import ModelError
from onnx_udfc.model.files import load
from onnx_udfc.model.functions import check_functions
from onnx_udfc.model.inference import infer, known_sizes
from onnx_udfc.model.network import read
from tests import bombs

SECONDS, GIGABYTES = 30.0, 2.0  # on a busy machine; what is not bounded takes hours, and tens of gigabytes
MEASURED = """
import sys
from onnx_udfc.__main__ import main
try:
    main()
finally:
    peak = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    print(int(peak.split()[1]) / 2**20, file=open("peak", "a"))
"""
REFUSED = {
    "tile": "'big' has 10,000,000,000 elements",
    "range_into_weight": "has 2,000,000,000 elements",
    "doubled": "'c31' has 2,147,483,648 elements",
    "doubled_of_input": "elements for one input",
    "large_product": "'a' has 3,600,000,000 elements",
    "loop": "the steps of 'loop' do not end within 4 s",
    "loop_without_end": "the steps of 'loop' do not end within 4 s",
    "nested_functions": "come to 10^40 nodes",
    "circular_functions": "calls itself",
}


@pytest.mark.parametrize("bomb", bombs.BOMBS, ids=lambda b: b.__name__)
def test_bombs(tmp_path: Path, bomb: Callable[[], onnx.ModelProto]) -> None:
    onnx.save(bomb(), tmp_path / "in.onnx")
    name = bomb.__name__
    for words in (("inspect", "in.onnx"), ("in.onnx", "out.onnx", "--bits", "8", "--quiet")):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        assert len(done.stderr.splitlines()) == done.returncode, done.stderr
        assert "internal error" not in done.stderr
    assert max(map(float, (tmp_path / "peak").read_text().split())) < GIGABYTES
    if name in REFUSED:
        assert done.returncode == 1
        assert REFUSED[name] in done.stderr


def test_functions_are_counted_as_if_written_out() -> None:
    check_functions(bombs.nested_functions(5, 10))  # 10^5 nodes
    with pytest.raises(ModelError, match=r"come to 10,000,001 nodes \('f0' alone to 10,000,000\)"):
        check_functions(bombs.nested_functions(7, 10))
    check_functions(bombs.nested_functions(5_000, 1))  # deep, but no more than that


def test_short_loops_are_measured() -> None:
    model = bombs.loop_of_unknown_size()
    next(t for t in model.graph.initializer if t.name == "trips").raw_data = (3).to_bytes(8, "little")
    shapes = find_groups(read(load(model).model)).shapes
    assert shapes.unbounded == ""
    assert shapes.sizes["v"] == (1, 4)


def test_values_of_shapes_are_followed_where_they_are_short() -> None:
    """A Reshape to a computed shape behind nodes that might have been long, beside one that is."""
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,6] x, int64[1] m) => (float[a,b] y, float[c] z)
        <int64[1] one = {1}, int64[1] many = {1000000}, int64 k = {0}, int64[1] three = {3}> {
            s = Shape (x)
            n = Shape (s)
            ones = ConstantOfShape <value: tensor = int64[1] {1}> (n)
            t = Mul (s, ones)
            rows = Gather (t, one)
            shape = Concat <axis = 0> (rows, three)
            y = Reshape (x, shape)
            long = Tile (m, many)
            z = Cast <to = 1> (long)
        }"""
    )
    assert known_sizes(infer(model))["t"] == (2,)
    assert known_sizes(infer(model))["long"] == (1_000_000,)
