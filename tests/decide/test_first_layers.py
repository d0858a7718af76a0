"""First layers that are quicker in float."""

from __future__ import annotations

import pytest

from onnx_udfc import Options, compress
from onnx_udfc.decide.file_size import with_biases, written
from onnx_udfc.decide.first_layers import integer_placement, slow_first
from onnx_udfc.runtime.kernels import check_runtime
from tests.quantized_graphs import network_of

STEM = "a = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w1)"


@pytest.mark.parametrize(
    ("body", "channels", "slow"),
    [
        (f"{STEM} r = Relu (a) y = Conv (r, w2)", 8, ("conv0",)),  # 2,048 values in place of 3,072
        (f"{STEM} r = Relu (a) y = Conv (r, w2)", 16, ()),  # 4,096 in place of 3,072
        ("a = Conv (x, w1) r = Relu (a) y = Conv (r, w2)", 8, ()),
        (f"{STEM} r = Relu (a) c = Conv (r, w2) d = Conv <strides=[2,2]> (x, w3) y = Add (c, d)", 8, ()),
    ],
)  # fmt: skip
def test_a_first_layer_that_writes_less_than_it_reads_stays_in_float(
    body: str, channels: int, slow: tuple[str, ...]
) -> None:
    weights = {"w1": (channels, 3, 3, 3), "w2": (8, channels, 1, 1), "w3": (8, 3, 1, 1)}
    network = network_of(f"(float[1,3,32,32] x) => (float y) {{ {body} }}", weights)
    assert slow_first(network, "cpu") == slow
    assert slow_first(network, "tensorrt") == ()


def test_much_to_compute_pays_for_codes() -> None:
    body = "a = Conv <strides=[8,8]> (x, w1) y = Conv (a, w2)"
    network = network_of(
        f"(float[1,16,64,64] x) => (float y) {{ {body} }}", {"w1": (96, 16, 8, 8), "w2": (8, 96, 1, 1)}
    )
    assert slow_first(network, "cpu") == ()


def test_it_is_written_so_and_told() -> None:
    network = network_of(
        f"(float[1,3,32,32] x) => (float y) {{ {STEM} r = Relu (a) y = Conv (r, w2) }}",
        {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1)},
    )
    result = compress(network.to_model(), bits=8, activations=8, method="none", force=True)
    assert check_runtime(result.model).integer == ("conv2",)
    assert any("conv0" in note and "longer to quantize" in note for note in result.report.runtime.notes)


def test_the_file_that_budgets_look_at_leaves_them_in_float_too() -> None:
    body = f"{STEM} r = Relu (a) y = Conv (r, w2)"
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1)}
    network = network_of(f"(float[1,3,32,32] x) => (float y) {{ {body} }}", weights)
    asked = Options(bits=8, activations=8)
    first, second = network.layers
    placement = integer_placement(network, [first, second], "cpu")
    assert (placement.integer, placement.slow_first) == ((second,), (first,))
    nodes = written(with_biases(network), {first: 8, second: 8}, asked).graph.node
    (reads,) = (node for node in nodes if "x" in node.input)
    assert (reads.op_type, reads.name) == ("Conv", first)
