"""Codes are packed as ONNX reads them; constants are shared by name, and steps have short unique names."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper, parser

from onnx_udfc.emit.draft import Draft, pack
from onnx_udfc.numerics.grids import FORMATS


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8])
def test_packed_codes_are_read_back_by_onnx(size: int) -> None:
    qmax = FORMATS[4].qmax
    codes = (np.arange(size) % (2 * qmax + 1) - qmax).astype(np.int8)
    tensor = TensorProto(dims=[size], data_type=TensorProto.INT4)
    tensor.raw_data = pack(codes)
    assert len(tensor.raw_data) == -(-size // 2)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


def test_names_of_shared_constants_and_steps_give_way_to_those_of_the_model() -> None:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[1] u1) => (float[1] base) { base = Relu (u1) }'
    model = parser.parse_model(text)
    model.graph.node[0].name = "relu"
    draft = Draft(model)
    first, again = draft.shared("base", np.array(7)), draft.shared("base", np.array(7))
    assert (first, again) == ("base_2", "base_2")
    step = draft.step("Neg", ["base_2"])
    assert (step.name, step.output[0]) == ("u1_2", "u1_2")
    draft.before("relu", [step])
    assert [t.name for t in draft.finish().graph.initializer] == ["base_2"]
