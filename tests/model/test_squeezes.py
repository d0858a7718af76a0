"""A Squeeze moves on until an Unsqueeze takes it back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_udfc.model.files import load
from onnx_udfc.model.network import read
from tests.quantized_graphs import run
from tests.small_graphs import small_model

BODIES = {
    "s = Squeeze(c, i) r = Relu(s) u = Unsqueeze(r, i)": ["Conv", "Relu", "Conv"],
    "s = Squeeze(c, i) r = Relu(s) g = Sigmoid(s) m = Mul(r, g) u = Unsqueeze(m, i)": [
        "Conv", "Relu", "Sigmoid", "Mul", "Conv",
    ],
    "h = Constant<value = float {0.5}>() s = Squeeze(c, i) r = Relu(s) a = Max(h, r) u = Unsqueeze(a, i)": [
        "Conv", "Relu", "Max", "Conv",
    ],
    "s = Squeeze(c, i) b = Add(s, B) n = BatchNormalization(b, G, G, G, G) u = Unsqueeze(n, i)": ["Conv", "Conv"],
    "s = Squeeze(c, i) r = Relu(s) b = Sub(B, r) u = Unsqueeze(b, i)": ["Conv", "Relu", "Sub", "Conv"],
    "s = Squeeze(c, i) r = Relu(s) j = Constant<value = int64[1] {3}>() u = Unsqueeze(r, j)": [
        "Conv", "Squeeze", "Relu", "Unsqueeze", "Conv",
    ],
    "s = Squeeze(c, i) e = Softmax<axis = 1>(s) u = Unsqueeze(e, i)": [
        "Conv", "Squeeze", "Softmax", "Unsqueeze", "Conv",
    ],
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_between_convolutions(body: str) -> None:
    model = small_model(f"""g (float[2,3,1,6] x, float[4,3,1,3] W, float[2,4,1,1] V, float[4,1] B, float[4] G)
        => (float y) {{
        i = Constant<value = int64[1] {{2}}>() c = Conv(x, W) {body} y = Conv(u, V) }}""")
    variance = next(t for t in model.graph.initializer if t.name == "G")
    variance.CopyFrom(numpy_helper.from_array(np.array([0.5, 1, 2, 3], np.float32), "G"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    network = read(load(model).model)
    assert [node.op for node in network.graph.nodes] == BODIES[body]
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 1, 6)).astype(np.float32)}
    before, after = run(model, x)[0], run(network.to_model(), x)[0]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
