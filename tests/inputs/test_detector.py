"""A detector that is asked, and what it is run on."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.inputs.classes import balanced_inputs
from onnx_udfc.inputs.detector import BEST, Detector, detector
from onnx_udfc.inputs.network_inputs import make_inputs
from onnx_udfc.inputs.sizes import input_specs_of, wanted_inputs
from onnx_udfc.model.network import Network
from onnx_udfc.options import Options
from tests.small_graphs import small_network

# Boxes of 16 places, and scores of two classes: one of bright places, one of dark ones.
TEXT = """g (float[N,3,16,16] x, float[4,3,4,4] W1, float[2,3,4,4] W2) => (float[N,16,4] boxes, float[N,16,2] scores) {
    a = Conv<strides = [4,4]>(x, W1) r = Relu(a) s = Constant<value_ints = [0, 4, 16]>() b = Reshape(r, s)
    boxes = Transpose<perm = [0,2,1]>(b)
    c = Conv<strides = [4,4]>(x, W2) g = Sigmoid(c) t = Constant<value_ints = [0, 2, 16]>() d = Reshape(g, t)
    scores = Transpose<perm = [0,2,1]>(d) }"""
NO_BOXES = TEXT.replace("16,4]", "16,5]").replace("float[4,3", "float[5,3").replace("[0, 4, 16]", "[0, 5, 16]")


def network_of(text: str) -> Network:
    network = small_network(text)
    _, scores = network.layers.values()
    scores.set(np.stack([np.ones(48) / 16, -np.ones(48) / 12])[None], np.zeros(2))
    return network


def test_sureness_is_the_mean_of_the_best_candidates_of_each_class() -> None:
    network = network_of(TEXT)
    x = np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)
    patches = x.reshape(5, 3, 4, 4, 4, 4).sum((1, 3, 5)).reshape(5, 16)
    expected = [np.sort(1 / (1 + np.exp(-gain * patches)), axis=1)[:, -BEST:].mean(1) for gain in (1 / 16, -1 / 12)]
    found = Detector(network, input_specs_of(network)).sureness({"x": x})
    assert found is not None
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize(("text", "expected"), [(TEXT, True), (NO_BOXES, False)])
def test_boxes_with_scores_make_a_detector(text: str, expected: bool) -> None:
    network = network_of(text)
    assert (detector(network, wanted_inputs(network)[0]) is not None) is expected


def test_a_detector_is_run_on_pictures_in_which_it_finds_something_of_each_class() -> None:
    network, options = network_of(TEXT), Options(threads=1, image_count=10, input_range=(-1, 1))
    chosen, drawn = balanced_inputs(network, find_groups(network), options), make_inputs(network, options)
    asked = Detector(network, input_specs_of(network))
    fires, plain = asked.sureness(chosen.values), asked.sureness(drawn.values)
    assert fires is not None
    assert plain is not None
    assert np.bincount(fires.argmax(1)).tolist() == [5, 5]
    assert fires.max(1).min() > plain.max(1).mean()
