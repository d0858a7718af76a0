"""The same trained network, as many exporters write it, is compressed as well as the plain file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_udfc import compress
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.emit.placement import around_kernels
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
from tests.flavours import FLAVOURS

MODELS = Path(__file__).resolve().parents[1] / "models"
# what needs a convolution with a bias, a bounded activation and the like is seen on another network
SOURCES = {"bias": "digits_resnet_folded", "relu6": "", "sigmoid": "", "softmax_exp": "", "weights_filled": ""}
OTHER_ANSWERS = ("softmax_end", "softmax_both", "label_end")
ROUNDED = ("weights_halves_cast", "halves")
MORE = {"conv_halves": 31, "gap_matmul": 17}  # layers, where two stand for one, or a product for a mean
COMPRESSED = ("nhwc_apart", "block_functions", "conv_pointwise", "ort_extended")


@dataclass(frozen=True)
class Structure:
    """What can be compressed: layers, their weights, channels that may go, layers that would run as integers."""

    layers: int
    weights: int
    channels: int
    integer: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.weights} weights, {self.channels} channels, {self.integer} integer"


def structure(network: Network) -> Structure:
    layers = list(network.layers.values())
    channels = sum(group.channels for group in find_groups(network, ()).groups)
    weights = sum(int(np.prod(layer.constant.shape)) for layer in layers)
    return Structure(len(layers), weights, channels, len(around_kernels(network.graph, layers).integer))


def plain(name: str) -> onnx.ModelProto | None:
    """The network that a flavour is tried on."""
    source = next((file for prefix, file in SOURCES.items() if name.startswith(prefix)), "digits_resnet_bn")
    return onnx.load(MODELS / f"{source}.onnx") if source else None


@cache
def plain_structure(name: str) -> Structure:
    model = plain(name)
    assert model is not None
    return structure(read(load(model).model))


def answers(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for given in session.get_inputs():
        values = pixels
        if given.name == "pixels":
            values = np.rint(pixels * 0.376 * 255 + 0.305 * 255)
        if len(given.shape) == 4 and given.shape[3] == 1:
            values = values.transpose(0, 2, 3, 1)
        kind = np.uint8 if given.type == "tensor(uint8)" else np.float32
        feeds[given.name] = values.astype(kind) if len(given.shape) == 4 else np.ones(1, np.float32)
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def pixels() -> np.ndarray:
    images = np.load(MODELS / "digits_test.npz")["x"][:8].transpose(0, 3, 1, 2)
    result: np.ndarray = (images / 255 - 0.305) / 0.376
    return result


@pytest.mark.parametrize("name", [name for name in FLAVOURS if plain(name) is not None])
def test_a_flavour_offers_what_the_plain_file_does(name: str) -> None:
    source = plain(name)
    assert source is not None
    model, given = FLAVOURS[name](source), pixels()[: 1 if name == "batch_1" else 8]
    network, near = read(load(model).model), 0.02 if name in ROUNDED else 1e-3
    found = answers(model, given)
    if name not in OTHER_ANSWERS:
        np.testing.assert_allclose(found, answers(source, given.astype(np.float32)), rtol=0, atol=near)
    np.testing.assert_allclose(answers(network.to_model(), given), found, rtol=0, atol=near)
    if name in MORE:
        assert len(network.layers) == MORE[name]
    else:
        assert structure(network) == plain_structure(name)


@pytest.fixture(scope="module")
def without() -> tuple[int, int]:
    return _compressed(onnx.load(MODELS / "digits_resnet_bn.onnx"))


def _compressed(model: onnx.ModelProto) -> tuple[int, int]:
    report = compress(model, prune=0.5, bits=4, force=True).report
    return report.after.bytes, sum(group.channels - group.kept for group in report.groups)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_flavour_becomes_as_small(name: str, without: tuple[int, int]) -> None:
    size, removed = _compressed(FLAVOURS[name](onnx.load(MODELS / "digits_resnet_bn.onnx")))
    assert size <= 1.05 * without[0]
    assert removed >= 0.9 * without[1]
