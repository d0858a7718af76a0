"""The command line as a process, on a small network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

PRECIOUS = b"precious, and an older result, for it has onnx_udfc.version in it"
CLI = [sys.executable, "-m", "onnx_udfc"]
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x) => (float[N,5] y) {
   a = Conv <pads=[1,1,1,1]> (x, w1)
   r = Relu (a)
   b = Conv <pads=[1,1,1,1]> (r, w2)
   s = Relu (b)
   p = GlobalAveragePool (s)
   f = Flatten (p)
   y = Gemm (f, w3)
}
"""
SHAPES = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 5)}


def small_classifier() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


def call(folder: Path, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | given
    return subprocess.run([*CLI, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}
