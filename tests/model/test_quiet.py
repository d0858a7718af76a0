from __future__ import annotations

import pytest

from onnx_udfc import compress
from tests.small_graphs import small_model

OLD = "g (float[1,3,8,8] x, float[4,3,3,3] W) => (float y) { s = Constant<value = float[4] {1,1,2,2}>() " \
      'c = Conv(x, W) y = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(c, , s) }'  # fmt: skip


def test_remarks_of_onnxruntime_do_not_reach_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    model = small_model(OLD, 17)
    model.graph.output[0].ClearField("type")
    compress(model, bits=8, activations=8)
    assert capfd.readouterr().err == ""
