import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.measure.catalog import classifiers, dataset_path, image_sets, prepared


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a manifest: two classifiers, one of them without images here, and a network of no known kind."""
    known = {"color": "RGB", "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
    models: list[dict[str, Any]] = [
        {"file": "models/a_bn.onnx", "dataset": "cifar10", **known},
        {"file": "models/b_bn.onnx", "dataset": "imagenet", **known},
        {"file": "models/c.onnx", "dataset": None, "mean": None},
    ]
    images = [
        {"file": "test.npz", "dataset": "cifar10", "eval": True},
        {"file": "train.npz", "dataset": "cifar10", "eval": False},
        {"file": "train.tar.gz", "dataset": "cifar10", "eval": False},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"models": models, "images": images}), encoding="utf-8")
    (tmp_path / "models").mkdir()
    for row in models:
        (tmp_path / row["file"]).touch()
    np.savez(tmp_path / "test.npz", x=np.zeros((3, 32, 32, 3), np.uint8), y=np.arange(3))
    return tmp_path


def test_images_to_measure_on_and_to_calibrate_with_are_told_apart(root: Path) -> None:
    assert image_sets([root]) == {"cifar10": root / "test.npz"}
    assert image_sets([root], evaluation=False) == {"cifar10": root / "train.npz"}


def test_a_classifier_needs_preprocessing_and_images(root: Path) -> None:
    assert [found.name for found in classifiers(roots=[root])] == ["a_bn"]


def test_images_of_ones_own_replace_and_add(root: Path) -> None:
    mine = {"imagenet": root / "val", "cifar10": root / "mine.npz"}
    found = classifiers(images=mine, roots=[root])
    assert [(c.name, c.images.name) for c in found] == [("a_bn", "mine.npz"), ("b_bn", "val")]


def test_a_network_that_several_folders_have_is_given_once(root: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(root, shipped, ignore=shutil.ignore_patterns("shipped"))
    (found,) = classifiers(roots=[shipped, root])
    assert found.path == root / "models" / "a_bn.onnx"


@pytest.mark.parametrize("pattern", ["a_bn", "a_bn.onnx", "a*", "models/*_bn.onnx"])
def test_patterns_match_names_with_and_without_ending(root: Path, pattern: str) -> None:
    assert [found.name for found in classifiers([pattern], roots=[root])] == ["a_bn"]


def test_inputs_are_what_the_network_takes(root: Path) -> None:
    network = classifiers(roots=[root])[0]
    assert network.preprocessing.range == (0.0, 1.0)
    np.testing.assert_array_equal(network.inputs(network.images, 2), np.full((2, 3, 32, 32), -2, np.float32))


def test_other_data_than_an_archive_is_left_as_it_is(tmp_path: Path) -> None:
    assert prepared("imagenet", tmp_path / "val", tmp_path) == tmp_path / "val"
    assert prepared("cifar10", tmp_path / "test.npz", tmp_path) == tmp_path / "test.npz"


def test_a_data_set_is_a_name_and_a_path() -> None:
    assert dataset_path("cifar10=a/b.tar.gz") == ("cifar10", Path("a/b.tar.gz"))
    with pytest.raises(ValueError, match="NAME=PATH"):
        dataset_path("cifar10")
