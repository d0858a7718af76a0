"""The order of colours is read off a classifier's answers, where nobody says it."""

import numpy as np
import pytest

from onnx_udfc.inputs.classifier import asked
from onnx_udfc.inputs.colours import FIRST, _preference, _vivid, expects_blue_first, student
from onnx_udfc.inputs.kinds import Scale
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.inputs.sizes import wanted_inputs
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.images import InputScaling
from onnx_udfc.options import Options
from tests.small_graphs import small_network

# Seven in ten of the pictures have more red than blue: what is red beyond blue tells them apart, what is blue does not.
WARM = """g (float[N,3,64,64] x, float[1,3,1,1] W1, float[{classes},1] W2) => (float[N,{classes}] y) {{
    a = Conv(x, W1) p = GlobalAveragePool(a) r = Relu(p) f = Flatten(r) z = Gemm<transB = 1>(f, W2) y = Softmax(z) }}"""
RED, BLUE = np.array([3.0, 0, -3]), np.array([-3.0, 0, 3])


def _network(first: np.ndarray, classes: int = 100) -> Network:
    network = small_network(WARM.format(classes=classes))
    convolution, last = network.layers.values()
    convolution.set(first.reshape(convolution.matrix().shape), convolution.bias)
    last.set(np.linspace(-9, 9, classes).reshape(last.matrix().shape), last.bias)
    return network


@pytest.mark.parametrize(
    ("first", "classes", "expected"),
    [(RED, 100, False), (BLUE, 100, True), (BLUE, 99, False), (BLUE, 100_001, False), (np.ones(3), 100, False)],
)
def test_blue_comes_first_where_answers_say_clearly_more_so(first: np.ndarray, classes: int, expected: bool) -> None:
    network = _network(first, classes)
    (wanted,) = wanted_inputs(network)
    assert expects_blue_first(network, wanted, Scale(InputScaling())) is expected


def test_a_network_that_reads_the_channels_the_other_way_round_prefers_the_other_order() -> None:
    pictures, found = _vivid((64, 64), FIRST), []
    for first in (RED, BLUE):
        network = _network(first)
        (wanted,) = wanted_inputs(network)
        ask = asked(network, wanted.spec)
        assert ask is not None
        found.append(_preference(ask, pictures, wanted, Scale(InputScaling())))
    assert found[1] > 1
    assert found[0] == pytest.approx(-found[1], rel=1e-5)


def test_made_up_pictures_come_in_the_order_that_was_found_unless_it_is_told() -> None:
    found = make_inputs(_network(BLUE), Options(images="photographs"))
    assert "blue, green, red" in found.note
    assert "--input-colour" in found.note
    told = make_inputs(_network(BLUE), Options(images="photographs", input_colour="rgb"))
    assert "blue" not in told.note
    assert np.array_equal(found.values["x"], told.values["x"][:, ::-1])
    scaled = make_inputs(_network(BLUE), Options(images="photographs", input_mean=(0.0,)))  # whose default is rgb
    assert scaled.note == ""


def test_students_t_is_that_of_its_definition() -> None:
    d = np.array([1.0, 2.0, 4.0, -1.0])
    assert student(d) == pytest.approx(d.mean() / np.sqrt(((d - d.mean()) ** 2).sum() / 3 / 4), rel=1e-12)
    assert student(np.zeros(5)) == 0


def test_only_a_row_of_classes_for_each_input_is_an_answer() -> None:
    network = _network(RED)
    (wanted,) = wanted_inputs(network)
    ask = asked(network, wanted.spec)
    assert ask is not None
    p = ask(np.zeros((5, 3, 64, 64)))
    assert p.shape == (5, 100)
    np.testing.assert_allclose(p, 0.01, rtol=1e-5)
    text = "g (float[N,3,8,8] x, float[4,3,1,1] W) => (float[N,4,8,8] y) { y = Conv(x, W) }"
    maps = small_network(text)
    ask = asked(maps, wanted_inputs(maps)[0].spec)
    assert ask is not None
    assert ask(np.zeros((2, 3, 8, 8))).size == 0
    two = small_network(
        "g (float[N,3,8,8] x, float[N,4] s) => (float[N,3,8,8] y, float[N,4] t) { y = Relu(x) t = Relu(s) }"
    )
    assert asked(two, wanted_inputs(two)[0].spec) is None
