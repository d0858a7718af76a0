"""What patterns of names mean: a layer by any name that is its own in the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.network import read
from onnx_udfc.model.unseen import find_unseen
from tests.small_graphs import small_model


def normed() -> onnx.ModelProto:
    """A convolution with a batch norm behind it, and one without."""
    model = small_model("""g (float[1,3,8,8] x) => (y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, first_weight) n = BatchNormalization(c, gamma, beta, mean, var) r = Relu(n)
        y = Conv<pads = [1, 1, 1, 1]>(r, second_weight, second_bias)
    }""")
    rng, names = np.random.default_rng(0), ("conv1", "bn1", "relu", "conv2")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    shapes = {"first_weight": (16, 3, 3, 3), "second_weight": (8, 16, 3, 3), "second_bias": (8,)}
    for name, shape in (shapes | dict.fromkeys(("gamma", "beta", "mean", "var"), (16,))).items():
        values = rng.uniform(0.5, 1.5, shape) if name in ("gamma", "var") else rng.normal(size=shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("conv1", {"conv1"}),
        ("first_weight", {"conv1"}),
        ("bn1", {"conv1"}),
        ("gamma", {"conv1"}),
        ("c", {"conv1"}),
        ("n", {"conv1"}),
        ("second_*", {"conv2"}),
        ("second_bias", {"conv2"}),
        ("y", {"conv2"}),
        ("r", set()),
        ("x", set()),
        ("conv?", {"conv1", "conv2"}),
    ],
)
def test_a_layer_is_meant_by_its_own_names(pattern: str, meant: set[str]) -> None:
    assert layers_meant([pattern], read(normed())) == meant


@pytest.mark.parametrize("pattern", ["conv1", "first_weight", "bn1", "n"])
def test_what_is_meant_stays_as_it_is(pattern: str) -> None:
    result = compress(normed(), bits=4, prune=0.5, skip=[pattern], threads=1, force=True)
    first, second = result.report.layers
    assert (first.bits, second.bits) == (32, 4)
    assert first.parameters_after == first.parameters_before
    assert not result.report.groups


def turned() -> onnx.ModelProto:
    """Layers as exporters write them that fold nothing: a turned weight, a bias before the product, a cast one."""
    model = small_model("""g (float[4,16] x) => (y) {
        t = Transpose<perm = [1, 0]>(first_weight) p = MatMul(x, t) a = Add(first_bias, p) r = Relu(a)
        w = Cast<to = 1>(halves) q = MatMul(r, w) s = Add(q, second_bias) y = Add(s, x)
    }""")
    for node, name in zip(
        model.graph.node, ("turn", "mm1", "add1", "relu", "cast", "mm2", "add2", "around"), strict=True
    ):
        node.name = name
    rng, shapes = np.random.default_rng(0), {"first_weight": (16, 16), "halves": (16, 16)}
    for name, shape in (shapes | dict.fromkeys(("first_bias", "second_bias"), (16,))).items():
        values = rng.normal(size=shape).astype(np.float16 if name == "halves" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        *((name, {"mm1"}) for name in ("first_weight", "turn", "t", "p", "first_bias", "add1", "a")),
        *((name, {"mm2"}) for name in ("halves", "cast", "w", "q", "second_bias", "add2", "s")),
        *((name, set[str]()) for name in ("x", "r", "relu", "y", "around")),
    ],
)
def test_what_a_weight_is_made_of_and_the_sum_with_a_bias_are_its_own(pattern: str, meant: set[str]) -> None:
    assert layers_meant([pattern], read(turned())) == meant


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("cell", 2), ("h", 2), ("B", 2), ("W", 1), ("turned", 1), ("turn", 1), ("s", 0), ("x", 0)],
)
def test_a_recurrent_layer_is_meant_by_its_own_names(pattern: str, left: int) -> None:
    model = small_model("""g (float[4,2,32] x, float[1,32,32] W, float[1,32,32] turned, float[1,64] B) => (y) {
        R = Transpose<perm = [0, 2, 1]>(turned) h = RNN<hidden_size = 32>(x, W, R, B) s = Relu(h) y = Identity(s)
    }""")
    model.graph.node[0].name, model.graph.node[1].name = "turn", "cell"
    values = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "turned"))
    model.graph.input.remove(next(i for i in model.graph.input if i.name == "turned"))
    assert len(find_unseen(read(model), [pattern])) == 2 - left


def test_no_pattern_means_nothing() -> None:
    assert layers_meant([], read(normed())) == frozenset()
