"""Hard sigmoids and hard swishes between integer kernels."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.runtime.kernels import check_runtime, optimized_graph
from tests.quantized_graphs import image, network_of, quantized, run

WEIGHTS = {"w1": (8, 8, 3, 3), "b1": (8,), "w2": (8, 8, 1, 1), "w3": (8, 8, 1, 1), "wg": (5, 32)}
BODIES = {
    "hard swish": "a = Conv (x, w1, b1) h = HardSwish (a) y = Conv (h, w2)",
    "hard sigmoid": "a = Conv (x, w1, b1) h = HardSigmoid <alpha=0.3, beta=0.4> (a) y = Conv (h, w2)",
    "shifted down": "a = Conv (x, w1, b1) h = HardSigmoid <alpha=0.7, beta=-0.2> (a) y = Conv (h, w2)",
    "not shifted": "a = Conv (x, w1, b1) h = HardSigmoid <alpha=0.7, beta=0.0> (a) y = Conv (h, w2)",
    "of the input": "h = HardSwish (x) y = Conv (h, w2)",
    "a gate": "a = Conv (x, w1, b1) p = GlobalAveragePool (a) c = Conv (p, w3) s = HardSigmoid (c) h = Mul (a, s)"
    " y = Conv (h, w2)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_gate_has_no_float_kernel_and_gives_what_it_should(body: str) -> None:
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", WEIGHTS)
    feeds = {"x": 4 * image()["x"]}  # both ends of the gate are reached
    emitted, _ = quantized(network, 8, "cpu", feeds)
    operators = {node.op_type for node in optimized_graph(emitted.model).graph.node}
    assert check_runtime(emitted.model).floating == ()
    assert "QLinearAdd" in operators
    assert not operators & {"HardSigmoid", "HardSwish", "Mul", "Add", "Clip"}
    expected, found = run(network.to_model(), feeds)[0], run(emitted.model, feeds)[0]
    signal, noise = np.square(expected - expected.mean()).mean(), np.square(found - expected).mean()
    assert 10 * np.log10(signal / noise) > 28


def test_a_pool_in_float_is_not_turned_into_codes() -> None:
    body = (
        "a = Conv (x, w1, b1) h = HardSwish (a) m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h) f = Flatten (m)"
        " y = Gemm <transB=1> (f, wg)"
    )
    network = network_of(f"(float[1,8,6,6] x) => (float y) {{ {body} }}", WEIGHTS)
    emitted, _ = quantized(network, 8, "cpu", image())
    kinds = {t.name: t.type.tensor_type.elem_type for t in optimized_graph(emitted.model).graph.value_info}
    pools = [node for node in optimized_graph(emitted.model).graph.node if "Pool" in node.op_type]
    assert [node.op_type for node in pools] == ["MaxPool"]
    assert kinds.get(pools[0].input[0], 1) == 1  # float
