"""Parameters and MACs against counts made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.model.counts import work
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from tests.small_graphs import small_network

PLAIN = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16] b1, float[32,16,3,3] w2, float[32,5] w3>
{
   a = Conv <pads=[1,1,1,1]> (x, w1, b1)
   r = Relu (a)
   b = Conv <pads=[1,1,1,1], strides=[2,2]> (r, w2)
   s = Relu (b)
   p = GlobalAveragePool (s)
   f = Flatten (p)
   y = Gemm (f, w3)
}
"""
DEPTHWISE = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[2,8,9] x) => (float[2,4,18] y)
<float[8,1,3] w1, float[4,8,1] w2, float[4,4,2] w3>
{
   a = Conv <group=8, pads=[1,1]> (x, w1)
   b = Conv (a, w2)
   y = ConvTranspose <strides=[2]> (b, w3)
}
"""
ROWS = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,6,10] x) => (float[N,6,3] y)
<float[10,7] w1, float[7] b1, float[7,3] w2>
{
   m = MatMul (x, w1)
   a = Add (m, b1)
   r = Relu (a)
   y = MatMul (r, w2)
}
"""
BY_HAND = {
    "plain": (PLAIN, 16 * 27 + 16 + 32 * 144 + 160, 64 * 16 * 27 + 16 * 32 * 144 + 160),
    "depthwise": (DEPTHWISE, 24 + 32 + 32, 9 * 24 + 9 * 32 + 9 * 32),
    "rows": (ROWS, 70 + 7 + 21, 6 * 70 + 6 * 21),
}


def network(text: str) -> onnx.ModelProto:
    """A network in which every declared inner tensor is a weight."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for declared in model.graph.value_info:
        shape = tuple(d.dim_value for d in declared.type.tensor_type.shape.dim)
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, declared.name))
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("name", BY_HAND)
def test_a_count_by_hand(name: str) -> None:
    text, parameters, macs = BY_HAND[name]
    size = inspect_model(network(text)).size
    assert (size.parameters, size.macs) == (parameters, macs)


def test_a_pruned_network_counts_what_is_left() -> None:
    report = compress(network(PLAIN), Options(prune=0.5, align=1, method="none", threads=1)).report
    assert report.after.parameters == 8 * 27 + 8 + 16 * 72 + 80
    assert report.after.macs == 64 * 8 * 27 + 16 * 16 * 72 + 80
    assert sum(x.macs_after or 0 for x in report.layers) == report.after.macs
    assert sum(x.parameters_before for x in report.layers) == report.before.parameters


def test_inspection_names_groups_layers_and_reasons() -> None:
    found = inspect_model(network(PLAIN))
    assert [(g.channels, g.kind, g.status) for g in found.groups] == [(16, "inner", "kept"), (32, "inner", "kept")]
    assert [x.op_type for x in found.layers] == ["Conv", "Conv", "Gemm"]
    assert [s.reason for s in found.skips] == ["it is an output of the network"]
    assert found.size.bytes == network(PLAIN).ByteSize()
    assert found.to_dict()["groups"][0]["channels"] == 16


def test_work_of_what_is_quantized_already_counts() -> None:
    """A network whose layers all hold integers seemed to cost nothing, and was run hundreds of times to look at it."""
    plain = small_network("""g (float[1,3,16,16] x, float[8,3,3,3] W1, float[8,10] W2) => (float[1,10] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, W1) m = GlobalAveragePool(a) f = Flatten(m) y = MatMul(f, W2) }""")
    codes = small_network(f"""g (uint8[1,3,16,16] x) => (float[1,10] y) <
        uint8[8,3,3,3] w = {{{", ".join("3" * 216)}}}, uint8[8,10] v = {{{", ".join("3" * 80)}}}, float one = {{1}}> {{
        a = ConvInteger<pads = [1, 1, 1, 1]>(x, w) b = Cast<to = 1>(a) m = GlobalAveragePool(b) f = Flatten(m)
        k = DequantizeLinear(v, one) y = MatMul(f, k) }}""")
    for network in (plain, codes):
        assert work(network, resolve(network).sizes) == 16 * 16 * 216 + 80
