"""Images that the network sees every class in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.inputs.classes import balanced, balanced_inputs, margins
from onnx_udfc.inputs.classifier import class_scores
from onnx_udfc.inputs.network_inputs import NetworkInputs, make_inputs, shows_classes
from onnx_udfc.model.network import read
from onnx_udfc.numerics.breeding import OPERATIONS, children
from onnx_udfc.options import Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.sessions import open_session
from tests.normed_graphs import norm, scaled_model
from tests.small_graphs import small_network


@pytest.mark.parametrize(
    ("counts", "wanted", "taken"),
    [((50, 50, 50), 30, (10, 10, 10)), ((90, 5, 1), 30, (24, 5, 1)), ((40, 0, 3), 7, (4, 0, 3))],
)
def test_classes_are_taken_equally_as_far_as_they_go(
    counts: tuple[int, ...], wanted: int, taken: tuple[int, ...]
) -> None:
    classes = np.repeat(np.arange(3), counts)
    chosen = balanced(classes, wanted, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == wanted
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(classes[chosen], minlength=3).tolist() == list(taken)


def test_the_surest_of_each_class_are_taken_before_the_second_of_any() -> None:
    classes = np.array([0, 0, 1, 1, 2, 3])
    sureness = np.array([0.9, 0.95, 0.3, 0.2, 0.1, 0.8])
    for seed in range(5):
        taken = [balanced(classes, n, np.random.default_rng(seed), sureness).tolist() for n in (1, 2, 3, 4, 5)]
        assert taken == [[1], [1, 5], [1, 2, 5], [1, 2, 4, 5], [0, 1, 2, 4, 5]]


THOUSAND = """g (float[N,3,32,32] x, float[40,3,32,32] W1, float[1000,40] W2) => (float[N,1000] y) {
    a = Conv(x, W1) f = Flatten(a) z = Gemm<transB = 1>(f, W2) y = Softmax(z) }"""


NORMED = THOUSAND.replace("a = Conv(x, W1)", "c = Conv(x, W1) a = BatchNormalization(c, S1, D1, M1, V1)").replace(
    "float[1000,40] W2", f"float[1000,40] W2, {norm('1', 40)}"
)


@pytest.mark.parametrize(
    ("text", "images", "surest"),
    [(THOUSAND, "photographs", True), (THOUSAND, "formula", False), (NORMED, "photographs", False)],
)
def test_a_network_of_more_classes_than_images_is_run_on_what_it_knows(text: str, images: str, surest: bool) -> None:
    network, options = read(scaled_model(text)), Options(threads=1, images=images, image_count=20)
    session = open_session(network.to_model().SerializeToString(), threads=1)

    def answers(x: object) -> np.ndarray:
        return np.asarray(session.run(None, {"x": x})[0])

    (pool,) = make_inputs(network, options.counted(160)).values.values()
    (chosen,) = balanced_inputs(network, find_groups(network), options).values.values()
    p = answers(pool)
    best = {name: p[p.argmax(1) == name].max() for name in set(p.argmax(1).tolist())}
    expected = sorted(best.values())[-20:]
    found = sorted(answers(chosen).max(1))
    assert len(best) > 20
    assert np.allclose(found, expected, rtol=1e-5) is surest


def test_margins_are_to_the_best_of_the_others() -> None:
    np.testing.assert_array_equal(margins(np.array([[3.0, 1.0, 2.0]])), [[1.0, -2.0, -1.0]])


@pytest.mark.parametrize("size", [(32, 32), (7, 12), (1, 5)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_children_are_made_of_their_parents(operation: object, size: tuple[int, int]) -> None:
    assert callable(operation)
    rng = np.random.default_rng(0)
    first, second = np.full((3, *size), 1, np.float32), np.full((3, *size), -1, np.float32)
    child = operation(first, second, rng)
    assert child.shape == first.shape
    assert child.min() >= -1 - 1e-6
    assert child.max() <= 1 + 1e-6


def test_children_depend_on_the_seed_only() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 40, 3, 16, 16)).astype(np.float32)
    one, same, other = (children(first, second, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == first.shape
    assert one.dtype == np.float32


def test_every_class_is_seen(assets: Path) -> None:
    path = assets / "models" / "resnet20_cifar10_folded.onnx"
    network, options = read(onnx.load(path)), Options(threads=1, images="formula")
    session = open_session(path, threads=1)

    def seen(x: object) -> np.ndarray:
        return np.bincount(session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1), minlength=10)

    (plain,) = make_inputs(network, options).values.values()
    (chosen,) = balanced_inputs(network, find_groups(network), options).values.values()
    assert chosen.shape == plain.shape
    assert seen(plain).min() == 0
    assert seen(chosen).min() >= 4


def test_a_network_that_is_no_classifier_gets_images_as_they_come(assets: Path) -> None:
    network, options = read(onnx.load(assets / "zoo" / "espcn_subpixel.onnx")), Options(threads=1, images=4)
    (plain,) = make_inputs(network, options).values.values()
    (chosen,) = balanced_inputs(network, find_groups(network), options).values.values()
    assert np.array_equal(plain, chosen)


def test_values_whose_squares_overflow_are_not_fitted() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[N,3,12,12] x) => (float[N,4,8,8] y)
        <float[16,3,3,3] W1, float[4,16,3,3] W2> { a = Conv(x, W1) r = Relu(a) y = Conv(r, W2) }"""
    )
    rng = np.random.default_rng(0)
    for name, shape, size in (("W1", (16, 3, 3, 3), 1e20), ("W2", (4, 16, 3, 3), 1.0)):
        values = (rng.normal(size=shape) * size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    result = compress(model, Options(prune=0.5, bits=8, threads=1))
    assert result.report.fidelity.inputs == "synthetic"


def test_classes_are_shown_by_a_few_images_each(assets: Path) -> None:
    network = read(onnx.load(assets / "models" / "resnet20_cifar10_folded.onnx"))
    images = np.zeros((40, 3, 32, 32), np.float32)
    assert shows_classes(network, NetworkInputs({"input": images}, "synthetic"))
    assert not shows_classes(network, NetworkInputs({"input": images[:39]}, "synthetic"))
    detector = read(onnx.load(assets / "zoo" / "espcn_subpixel.onnx"))
    assert not shows_classes(detector, NetworkInputs({"input": images}, "synthetic"))


@pytest.mark.parametrize(("side", "classes"), [(2, True), (200, False)])
def test_a_map_laid_flat_is_no_row_of_classes(side: int, classes: bool) -> None:
    body = "{ a = Conv(x, W) y = Flatten(a) }"
    network = small_network(f"g (float[1,3,{side},{side}] x, float[8,3,1,1] W) => (float[1,{8 * side**2}] y) {body}")
    assert bool(class_scores(network)) == classes
