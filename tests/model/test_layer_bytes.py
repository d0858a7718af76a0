"""Bytes of each layer's weights, as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_udfc import compress
from onnx_udfc.model.layer_bytes import layer_bytes

GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4] x) => (float[1,2] z) {
    w = DequantizeLinear (codes, scale)
    y = Gemm (x, w, bias)
    v = Cast <to=1> (half)
    a = MatMul (y, v)
    b = MatMul (a, v)
    z = Identity (b)
}
"""


def model() -> onnx.ModelProto:
    made = parser.parse_model(GRAPH)
    packed = helper.make_tensor("codes", TensorProto.INT4, [4, 3], np.arange(12) % 7)
    made.graph.initializer.extend(
        [
            packed,
            numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
            numpy_helper.from_array(np.zeros(3, np.float32), "bias"),
            numpy_helper.from_array(np.zeros((3, 3), np.float16), "half"),
        ]
    )
    for node in made.graph.node:
        node.name = f"n_{node.output[0]}"
    return made


def test_codes_scales_and_biases_count_as_they_are_packed() -> None:
    assert layer_bytes(model(), ["n_y"]) == {"n_y": 6 + 4 + 12}


def test_what_two_layers_read_counts_once() -> None:
    assert layer_bytes(model(), ["n_y", "n_a", "n_b", "not there"]) == {"n_y": 22, "n_a": 18, "n_b": 0}


def test_a_report_tells_the_bytes_and_the_time_of_its_layers(models: Path) -> None:
    report = compress(models / "digits_resnet_folded.onnx", bits=8, method="udfc", attribution=True, threads=1).report
    assert all(x.bytes_before == 4 * x.parameters_before for x in report.layers)
    assert sum(x.bytes_before or 0 for x in report.layers) < report.before.bytes
    assert all((x.ms_before or 0) > 0 and (x.ms_after or 0) > 0 for x in report.layers)
    assert report.other_ms is not None
    held = sum(x.bytes_after or 0 for x in report.layers)
    assert 0.7 * report.after.bytes < held < report.after.bytes
