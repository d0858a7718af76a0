"""What every row of METHODS promises, on arrays and on a network."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_udfc import options
from onnx_udfc.channels.groups import find_groups
from onnx_udfc.channels.prune import prune
from onnx_udfc.decide.asked import prunable
from onnx_udfc.decide.plan import removals
from onnx_udfc.model.network import read
from onnx_udfc.numerics.elimination import CRITERIA, MEASURED
from onnx_udfc.numerics.reconstruct import METHODS, Producer
from onnx_udfc.pipeline import compress
from onnx_udfc.repair.absorb import absorb
from onnx_udfc.runtime.sessions import open_session
from tests.small_graphs import small_model

NAMES = list(METHODS)
TAKE_OVER = ("merge", "udfc")  # what is like a kept channel, from weights alone


def producer(channels: int = 10) -> Producer:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, channels)
    return Producer(rng.normal(size=(channels, 12)), rng.normal(size=channels), scale)


def test_the_options_offer_every_row() -> None:
    assert set(options.METHODS) == set(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_the_selection_is_a_known_criterion(name: str) -> None:
    method = METHODS[name]
    assert method.selection in CRITERIA or (method.measured and method.selection in MEASURED)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_pruned_mixes_nothing(name: str) -> None:
    assert np.array_equal(METHODS[name].mix(producer(), np.arange(10)), np.eye(10))


@pytest.mark.parametrize("keep", [[3], [0, 9], [1, 2, 3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("name", NAMES)
def test_kept_channels_stay_themselves(name: str, keep: list[int]) -> None:
    mixing = METHODS[name].mix(producer(), np.array(keep))
    assert mixing.shape == (10, len(keep))
    assert np.array_equal(mixing[keep], np.eye(len(keep)))
    assert np.isfinite(mixing).all()


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_left_alone(name: str) -> None:
    p, keep = producer(), np.array([1, 4])
    before = (p.weight.copy(), p.bias.copy(), p.scale.copy())
    METHODS[name].mix(p, keep)
    assert all(np.array_equal(a, b) for a, b in zip(before, (p.weight, p.bias, p.scale), strict=True))
    assert np.array_equal(keep, [1, 4])


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_producers_give_numbers(name: str) -> None:
    zero = Producer(np.zeros((6, 5)), np.zeros(6), np.zeros(6))
    same = Producer(np.ones((6, 5)), np.ones(6), np.ones(6))
    for p in (zero, same):
        assert np.isfinite(METHODS[name].mix(p, np.array([0, 2]))).all()


TEXT = """g (float[8,3,10,10] x, float[8,3,3,3] W1, float[8] B1, float[5,8,3,3] W2, float[5] B2) => (float[8,5,6,6] y) {
    a = Conv(x, W1, B1) r = Relu(a) y = Conv(r, W2, B2) }"""
GONE, TWIN = 5, 2


def special(kind: str) -> onnx.ModelProto:
    """A network whose channel GONE is dead, or the same as channel TWIN."""
    model = small_model(TEXT)
    tensors = {t.name: t for t in model.graph.initializer}
    w, b = onnx.numpy_helper.to_array(tensors["W1"]).copy(), onnx.numpy_helper.to_array(tensors["B1"]).copy()
    w[GONE], b[GONE] = (0, 0) if kind == "dead" else (w[TWIN], b[TWIN])
    for name, value in (("W1", w), ("B1", b)):
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    return model


def output(model: onnx.ModelProto) -> NDArray[np.float32]:
    x = np.random.default_rng(9).normal(size=(8, 3, 10, 10)).astype(np.float32)
    return np.asarray(open_session(model, threads=1).run(None, {"x": x})[0])


def error(model: onnx.ModelProto, original: onnx.ModelProto) -> float:
    """Root of the mean squared error over the deviation of the original's output."""
    wanted = output(original)
    return float(np.sqrt(np.square(output(model) - wanted).mean()) / wanted.std())


@pytest.mark.parametrize("name", NAMES)
def test_a_dead_channel_costs_nothing(name: str) -> None:
    model = special("dead")
    result = compress(model, prune=1 / 8, method=name, options=options.Options(align=1))
    assert result.report.groups[0].kept == 7
    assert error(result.model, model) < 1e-4


@pytest.mark.parametrize("name", TAKE_OVER)
def test_a_duplicate_is_taken_over_by_its_twin(name: str) -> None:
    model = special("duplicate")
    network = read(model)
    channels = find_groups(network)
    keep = {channels.groups[0].name: np.delete(np.arange(8), GONE)}
    absorbed = network.copy()
    absorb(absorbed, channels, keep, METHODS[name])
    limit = 1e-6 if name == "merge" else 1e-2  # the ridge of udfc takes a little from everything
    assert error(prune(absorbed, channels, keep).network.to_model(), model) < limit
    dropped = prune(network, channels, keep).network.to_model()
    assert error(dropped, model) > 0.05  # it did matter


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_criterion_orders_all_channels(criterion: str) -> None:
    network = read(special("dead"))
    asked = options.Options(prune=0.5, method="none", select=criterion)
    groups = prunable(find_groups(network), asked)
    (removal,) = removals(network, groups, asked, {}).values()
    assert sorted(removal.order) == list(range(8))
    assert (np.diff(removal.cost) >= 0).all()
    if criterion != "bn-scale":
        assert removal.order[0] == GONE


def test_with_moments_a_duplicate_costs_nothing() -> None:
    model = special("duplicate")
    result = compress(model, prune=1 / 8, options=options.Options(align=1))
    assert result.report.groups[0].kept == 7
    assert error(result.model, model) < 1e-4


@pytest.mark.parametrize("name", sorted(METHODS))
def test_nothing_to_do_changes_no_weight(name: str) -> None:
    model = special("dead")
    before, after = read(model), read(compress(model, method=name).model)
    for layer in before.layers.values():
        assert np.array_equal(layer.weight, after.layers[layer.name].weight)
        assert np.array_equal(layer.bias, after.layers[layer.name].bias)
