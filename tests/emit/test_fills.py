"""Constants of one value that the original computed are computed in the result, too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc import Options, compress
from tests.quantized_graphs import run
from tests.small_graphs import small_model

X = {"x": np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)}
MADE = {
    "ConstantOfShape": "s = Constant<value_ints = [1,8,32,32]>() z = ConstantOfShape(s)",
    "Expand": "s = Constant<value_ints = [1,8,32,32]>() o = Constant<value_float = 0.5>() z = Expand(o, s)",
}


def padded(fill: str) -> onnx.ModelProto:
    """A convolution whose result gets eight channels more, of one value, as wider streams do."""
    return small_model(f"""g (float[1,3,32,32] x, float[8,3,3,3] W, float[10,16,3,3] D) => (float[1,10,16,16] y) {{
        a = Conv<pads = [1,1,1,1]>(x, W) r = Relu(a) {fill} p = Concat<axis = 1>(r, z)
        y = Conv<pads = [1,1,1,1], strides = [2,2]>(p, D) }}""")


@pytest.mark.parametrize(
    "options", [Options(bits=8), Options(prune=0.3, bits=4), Options(bits=8, activations=8), Options(float16=True)]
)
@pytest.mark.parametrize("kind", MADE)
def test_what_the_original_fills_is_filled(kind: str, options: Options) -> None:
    model = padded(MADE[kind])
    result = compress(model, options).model
    assert len(result.SerializeToString()) < 1.1 * len(model.SerializeToString())
    assert "ConstantOfShape" in [node.op_type for node in result.graph.node]
    y, z = (run(m, {"x": X["x"][:1]})[0] for m in (model, result))
    assert np.square(y - z).mean() < 0.3 * np.square(y).mean()


def test_what_the_original_stores_is_stored() -> None:
    model = padded(MADE["ConstantOfShape"])
    for node in [n for n in model.graph.node if n.op_type in ("Constant", "ConstantOfShape")]:
        model.graph.node.remove(node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 8, 32, 32), np.float32), "z"))
    result = compress(model, Options(bits=8)).model
    assert "z" in [tensor.name for tensor in result.graph.initializer]


def test_nothing_asked_leaves_the_file_as_large_as_it_was() -> None:
    model = padded(MADE["ConstantOfShape"])
    result = compress(model, Options(bits=32)).model
    assert len(result.SerializeToString()) < len(model.SerializeToString()) + 1024
    y, z = (run(m, {"x": X["x"][:1]})[0] for m in (model, result))
    assert np.array_equal(y, z)
