"""Codes are packed as ONNX reads them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from onnx_udfc.draft import pack
from onnx_udfc.quantize import FORMATS


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("size", [0, 1, 4, 7, 8])
def test_packed_codes_are_read_back_by_onnx(bits: int, size: int) -> None:
    qmax = FORMATS[bits].qmax
    codes = (np.arange(size) % (2 * qmax + 1) - qmax).astype(np.int8)
    tensor = TensorProto(dims=[size], data_type=TensorProto.INT4 if bits == 4 else TensorProto.INT2)
    tensor.raw_data = pack(codes, bits)
    assert len(tensor.raw_data) == -(-size * bits // 8)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)
