"""What patterns of names mean: a layer by any name that is its own in the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc import compress
from onnx_udfc.model.named import layers_meant
from onnx_udfc.model.network import read
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


def test_no_pattern_means_nothing() -> None:
    assert layers_meant([], read(normed())) == frozenset()
