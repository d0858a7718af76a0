from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tools.train import train  # noqa: E402  # after torch is known to be there
from tools.train.labelled import Images  # noqa: E402
from tools.train.networks import NETWORKS  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def images(count: int = 8, side: int = 32, channels: int = 3) -> Images:
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (count, side, side, channels), np.uint8)
    return Images(x, random.integers(0, 10, count))


def tiny(steps: int = 1) -> train.Recipe:
    return replace(train.RECIPES["digits"], epochs=steps, batch=4)


DEPTHS = {"resnet20": 20, "resnet56": 56, "vgg16": 14, "mobilenetv2": 53, "densenet40": 40, "densenet22": 22}


@pytest.mark.parametrize(("name", "layers"), DEPTHS.items())
def test_networks_have_the_layers_of_their_papers(name: str, layers: int) -> None:
    modules = NETWORKS[name]().modules()
    count = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in modules)
    assert count == layers


PARAMETERS = {"resnet20": 269_722, "resnet56": 853_018, "vgg16": 14_724_042, "densenet40": 1_019_722}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_networks_have_the_parameters_of_their_papers(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in NETWORKS[name]().parameters()) == parameters


@pytest.mark.parametrize("name", sorted(set(train.RECIPES) - {"digits"}))
def test_every_recipe_takes_a_step(name: str) -> None:
    recipe = replace(train.RECIPES[name], batch=2, sizes=())
    training = train.Training(recipe, seed=0, device="cpu", bf16=False)
    before = [p.detach().clone() for p in training.network.parameters()]
    x, y = next(train.batches(images(2), recipe, seed=0, epoch=0))
    assert np.isfinite(training.step(x, y, progress=0.1))
    assert any(not torch.equal(a, b) for a, b in zip(before, training.network.parameters(), strict=True))


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [train.one_cycle(p) for p in np.linspace(0, 1, 11)]
    assert max(rates) == rates[2] == 1.0
    assert sorted(rates[:3]) == rates[:3]
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_an_image_is_shifted_whole_and_keeps_its_pixels() -> None:
    recipe = replace(train.RECIPES["resnet20"], shift=1)
    x = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 3, 3, 1)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    windows = [padded[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    allowed = [w for window in windows for w in (window, window.flip(2))]
    for seed in range(20):
        moved = train.augment(x, recipe, torch.Generator().manual_seed(seed))
        assert any(torch.equal(moved, window) for window in allowed)


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    first, again, other = (list(train.batches(images(), tiny(), 0, epoch)) for epoch in (1, 1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    data, path = images(8, 8, 1), tmp_path / "x.checkpoint"
    whole = train.Training(tiny(2), 0, "cpu", bf16=False)
    train.fit(whole, data, None, None, None)
    first = train.Training(tiny(2), 0, "cpu", bf16=False)
    first.recipe = tiny(2)
    steps = train.batches(data, first.recipe, 0, 0)
    for index, (x, y) in enumerate(steps):
        first.step(x, y, index / 2 / 2)
    first.epoch = 1
    train._save(first, path)
    second = train.Training(tiny(2), 7, "cpu", bf16=False)
    second.load(torch.load(path, weights_only=True))
    second.seed = 0
    train.fit(second, data, None, None, None)
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_minutes_end_a_training_by_the_clock() -> None:
    training = train.Training(tiny(10_000), 0, "cpu", bf16=False)
    train.fit(training, images(8, 8, 1), 0.01, None, None)
    assert 0.6 <= training.elapsed < 30
    assert training.epoch < 10_000


def test_recalibration_gives_the_statistics_of_the_images() -> None:
    data, recipe = images(50, 8, 1), replace(tiny(), shift=0)
    training = train.Training(recipe, 0, "cpu", bf16=False)
    train.recalibrate(training.network, data, recipe, count=50)
    conv, norm = list(training.network.children())[:2]
    with torch.no_grad():
        y = conv(train.normalize(torch.from_numpy(data.x), recipe))
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
