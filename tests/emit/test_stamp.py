"""What a written file says about itself."""

from __future__ import annotations

import json

import onnx
from onnx import parser

from onnx_udfc.emit.stamp import stamp
from onnx_udfc.options import Options


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_an_earlier_stamp_is_replaced_and_the_rest_stays() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> net (float[1] x) => (float[1] y) { y = Relu (x) }'
    )
    model.metadata_props.add(key="author", value="somebody")
    stamp(model, Options(prune=0.5, bits=4))
    stamp(model, Options(bits=8, threads=3, verbose=True))
    found = metadata(model)
    assert found["author"] == "somebody"
    assert set(found) == {"author", "onnx_udfc.version", "onnx_udfc.options"}
    assert json.loads(found["onnx_udfc.options"]) == {"bits": 8}
