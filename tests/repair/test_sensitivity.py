"""How the answers move with the outputs of layers, where it can be said in closed form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.model.network import Network
from onnx_udfc.repair import sensitivity
from onnx_udfc.repair.sensitivity import _outer, informations, kinds_of
from onnx_udfc.runtime.gradients import Gradients
from onnx_udfc.runtime.walk import Pieces
from tests.small_graphs import small_network

LINEAR = """g (float[N, 3, 6, 6] x, float[8, 3, 3, 3] W0, float[5, 8, 1, 1] W1) => (float[N, 5, 1, 1] y) {
  a = Conv(x, W0)
  p = GlobalAveragePool(a)
  y = Conv(p, W1)
}"""
TWO = """g (float[N, 3, 6, 6] x, float[4, 3, 3, 3] W0, float[4, 4, 1, 1] W1, float[2, 4, 1, 1] W2, float[1] K)
=> (float[N, 4, 4, 4] y, float[N, 2, 4, 4] z) {
  a = Conv(x, W0)
  y = Conv(a, W1)
  b = Mul(a, K)
  z = Conv(b, W2)
}"""


def found_in(network: Network, count: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(count, 3, 6, 6)).astype(np.float32)
    return informations(network, {"x": x}, resolve(network).sizes, matched=False, seed=seed, pieces=Pieces())


def test_of_half_precision_nothing_is_said() -> None:
    """Nothing is passed back there, and onnxruntime takes no outputs for all outputs: that was an internal error."""
    network = small_network("""g (float[N, 3, 6, 6] x, float[1] K, float16[8, 3, 3, 3] W0, float16[5, 8, 1, 1] W1)
        => (float16[N, 5, 4, 4] y) { s = Mul(x, K) h = Cast<to = 10>(s) a = Conv(h, W0) r = Relu(a)
        y = Conv(r, W1) }""")
    assert found_in(network) == {}


def test_of_a_linear_network_it_is_the_product_of_what_follows() -> None:
    network = small_network(LINEAR)
    weight = network.layers["n2"].matrix()[0]  # (5, 8); 16 positions share the mean
    expected = weight.T @ weight
    found = found_in(network)["n0"]
    found *= np.trace(expected) / np.trace(found)
    assert np.linalg.norm(found - expected) < 0.35 * np.linalg.norm(expected)  # 64 draws of 5 numbers
    many = [found_in(network, seed=i)["n0"] for i in range(12)]
    mean = sum(many) / np.trace(sum(many)) * np.trace(expected)
    assert np.linalg.norm(mean - expected) < 0.12 * np.linalg.norm(expected)


def test_of_wide_layers_the_diagonal_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network(LINEAR)
    whole = found_in(network)
    monkeypatch.setattr(sensitivity, "WIDEST", 5)
    found = found_in(network)
    assert {name: f.ndim for name, f in found.items()} == {name: 1 if len(f) > 5 else 2 for name, f in whole.items()}
    np.testing.assert_allclose(found["n0"], np.diag(whole["n0"]), rtol=1e-5)


def test_positions_of_every_row_and_column_are_taken() -> None:
    rng = np.random.default_rng(0)
    slopes = np.ones((32, 3, 32, 32), np.float32)
    slopes[:, 0] *= np.arange(32)  # one channel by the column, one by the row
    slopes[:, 1] *= np.arange(32)[:, None]
    whole = np.einsum("nchw,ndhw->cd", slopes, slopes)
    found = _outer(slopes, 1, rng)
    np.testing.assert_allclose(np.diag(found), np.diag(whole), rtol=0.15)  # 1,024 of 32,768
    few = slopes[:1, :, :8, :8]
    np.testing.assert_allclose(_outer(few, 1, rng), np.einsum("nchw,ndhw->cd", few, few), rtol=1e-4, atol=1e-2)


def test_the_same_seed_says_the_same() -> None:
    one, other = (found_in(small_network(LINEAR)) for _ in range(2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_answers_count_alike_however_large_they_are(factor: float) -> None:
    network = small_network(TWO)
    network.graph.tensors()["K"].values = np.array([factor], np.float32)
    found = found_in(network)["n0"]
    small = small_network(TWO)
    small.graph.tensors()["K"].values = np.array([0.5], np.float32)
    expected = found_in(small)["n0"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_layer_that_no_answer_hangs_on_is_missing() -> None:
    network = small_network(
        """g (float[N, 3, 6, 6] x, float[4, 3, 3, 3] W0, float[4, 3, 3, 3] W1)
=> (float[N, 4, 4, 4] y, int64[N, 1, 4, 4] z) {
  y = Conv(x, W0)
  a = Conv(x, W1)
  s = Shape(a)
  e = Shape(s)
  z = ArgMax<axis = 1>(y)
}"""
    )
    assert set(found_in(network)) == {"n0"}


def test_the_runs_hold_no_second_copy_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = small_network(LINEAR), list[list[str]]()
    run = sensitivity._Backward._run

    def watched(self: sensitivity._Backward, number: int) -> dict[str, np.ndarray]:
        seen.append([name for name, value in vars(self).items() if isinstance(value, Network | onnx.ModelProto)])
        seen[-1] += [name for name, value in vars(self).items() if isinstance(value, Gradients)]
        return run(self, number)

    monkeypatch.setattr(sensitivity._Backward, "_run", watched)
    assert found_in(network)
    assert seen
    assert not any(seen)


APART = """g (float[N, 3, 6, 6] x, float[8, 3, 3, 3] W0, float[4, 8, 1, 1] W1, float[5, 8, 1, 1] W2)
=> (float[N, 4, 16] boxes, float[N, 5, 16] scores) {
  a = Conv(x, W0)
  h = Conv(a, W1)
  s = Constant<value_ints = [0, 0, 16]>()
  b = Reshape(h, s)
  k = Constant<value_float = 100.0>()
  boxes = Mul(b, k)
  c = Conv(a, W2)
  d = Reshape(c, s)
  scores = Sigmoid(d)
}"""
TOGETHER = APART.replace("float[N, 4, 16] boxes, float[N, 5, 16] scores", "float[N, 9, 16] y").replace(
    "scores = Sigmoid(d)", "scores = Sigmoid(d)\n  y = Concat<axis = 1>(boxes, scores)"
)


def test_scores_count_as_much_as_the_boxes_that_stand_beside_them() -> None:
    apart, together = (sum(found_in(small_network(text), seed=i)["n0"] for i in range(6)) for text in (APART, TOGETHER))
    apart, together = apart / np.trace(apart), together / np.trace(together)
    assert np.linalg.norm(apart - together) < 0.1 * np.linalg.norm(apart)


def test_columns_of_probabilities_are_told_from_others() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(5, 60, (2, 4, 30)), rng.uniform(0, 1, (2, 3, 30))
    found = kinds_of([np.concatenate([boxes, scores], axis=1)])
    assert [kind.ravel().tolist() for kind in found] == [[False] * 4 + [True] * 3, [True] * 4 + [False] * 3]
    rows = kinds_of([np.concatenate([boxes, scores], axis=1).transpose(0, 2, 1)])
    assert [kind.shape for kind in rows] == [(1, 1, 7)] * 2
    for alike in (boxes, scores, rng.uniform(0, 9, (2, 4, 8, 8))):
        assert [kind.tolist() for kind in kinds_of([alike])] == [True]
    assert len(kinds_of([boxes[:, :, :2], boxes[:, :, :3]])) == 1  # of no fixed size
