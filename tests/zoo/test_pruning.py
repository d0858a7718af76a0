"""Real files and published architectures: pruned, they run, with the inputs and outputs they had."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.channels.shapes import resolve
from onnx_udfc.errors import UdfcError
from onnx_udfc.model.counts import count, totals
from onnx_udfc.model.files import load
from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.sessions import open_session
from tests.dead_channels import kill, largest, outputs, random_feeds

PACKAGE = Path(onnx.__file__).parent / "backend" / "test" / "data"
PACKAGED = sorted(path for path in PACKAGE.rglob("*.onnx") if path.parent.name != "light")
LEAST_MACS = {"shufflenet": 0.60}
ARCHITECTURES = (  # VGG-19 and ZFNet are AlexNet's chain over again, with ten times the weights
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
)  # fmt: skip
EXACT = (
    "models/mobilenet_v1_0.25_imagenet_bn", "models/mobilenet_v2_imagenet_folded", "models/resnet20_cifar10_bn",
    "models/resnet56_cifar10_folded", "models/squeezenet_v1.1_imagenet", "models/vgg16half_cifar10_bn",
    "zoo/espcn_subpixel", "zoo/matmul_2layer", "zoo/mnist_cntk_opset7", "zoo/ppocrv5_mobile_det",
    "zoo/resnet_block_sum", "zoo/style_candy", "zoo/ultraface_rfb_320", "zoo/ultraface_rfb_320_simplified",
    "zoo/ultraface_slim_320",
)  # fmt: skip
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}  # fmt: skip


def architecture(name: str) -> Network:
    """A network of the onnx package with random weights in place of its ConstantOfShape nodes."""
    model = onnx.load(PACKAGE / "light" / f"light_{name}.onnx")
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rng = np.random.default_rng(0)
    for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape"]:
        shape = tuple(shapes[node.input[0]])
        model.graph.initializer.append(numpy_helper.from_array(_random(rng, shape), node.output[0]))
        model.graph.node.remove(node)
    return read(load(model).model)


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape[1:])))
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_architectures_lose_half_of_their_macs(name: str) -> None:
    network = architecture(name)
    channels = find_groups(network)
    keep = {g.name: largest(network, g, 0.5) for g in channels.groups if g.kind == "inner"}
    pruned = prune(network, channels, keep).network
    before = totals({n: count(layer, channels.shapes.sizes) for n, layer in network.layers.items()})
    sizes = resolve(pruned).sizes
    after = totals({n: count(layer, sizes) for n, layer in pruned.layers.items()})
    assert after.macs <= LEAST_MACS.get(name, 0.50) * before.macs
    (result, *_) = run(pruned.to_model())
    assert np.isfinite(result).all()


@pytest.mark.parametrize("name", EXACT)
def test_dead_channels_of_real_networks_go_without_a_change(assets: Path, name: str) -> None:
    network = read(load(assets / f"{name}.onnx").model)
    channels = find_groups(network)
    keep = {group.name: largest(network, group, 0.4) for group in channels.groups}
    dead = kill(network, channels, keep)
    feeds = random_feeds(dead.to_model(), channels.shapes.sizes)
    before = outputs(dead.to_model(), feeds)
    after = outputs(prune(dead, channels, keep).network.to_model(), feeds)
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("path", PACKAGED, ids=[str(p.relative_to(PACKAGE).parent) for p in PACKAGED])
def test_files_of_the_onnx_package_run_as_before(path: Path) -> None:
    prune_and_compare(path)


def test_files_of_the_zoo_run_as_before(assets: Path) -> None:
    for path in sorted((assets / "zoo").glob("*.onnx")):
        prune_and_compare(path)


def prune_and_compare(path: Path) -> None:
    """Prune 0.3 of every group; names, shapes and types of inputs and outputs stay."""
    try:
        before = run(onnx.load(path))
    except Exception as error:  # onnxruntime's classes have no common base
        pytest.skip(f"onnxruntime does not run the original: {str(error)[:80]}")
    try:
        network = read(load(path).model)
    except UdfcError as error:
        pytest.skip(f"refused: {error}")
    channels = find_groups(network)
    keep = {group.name: largest(network, group, 0.3) for group in channels.groups}
    after = run(prune(network, channels, keep).network.to_model())
    assert [np.shape(x) for x in after] == [np.shape(x) for x in before]


def run(model: onnx.ModelProto) -> list[NDArray[np.generic]]:
    """The outputs for random inputs, unknown dimensions 1."""
    running = open_session(model, threads=1)
    rng = np.random.default_rng(0)
    sizes = {i.name: [d if isinstance(d, int) and d > 0 else 1 for d in i.shape] for i in running.get_inputs()}
    feeds: dict[str, NDArray[np.generic]] = {
        i.name: np.asarray(rng.random(sizes[i.name])).astype(TYPES[i.type]) for i in running.get_inputs()
    }
    names = [o.name for o in running.get_outputs()]
    return list(running.run(names, feeds))
