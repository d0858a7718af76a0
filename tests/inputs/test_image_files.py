"""Images and labels from every kind of place."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.image_files import ImageSet, Preprocessing, open_images
from onnx_udfc.inputs.real import Labelled


def stored(pixels: NDArray[np.uint8]) -> ImageSet:
    return ImageSet(pixels, tuple(map(str, range(len(pixels)))), None)


def test_preprocessing_is_range_then_mean_then_std() -> None:
    pixels = np.array([[[[0, 51, 255]]]], np.uint8)
    x = Preprocessing((0.5, 0.0, 0.0), (0.5, 1.0, 2.0), (0.0, 1.0)).apply(pixels)
    np.testing.assert_allclose(x.ravel(), [-1.0, 0.2, 0.5], rtol=1e-6)
    x = Preprocessing((104.0, 117.0, 123.0), (), (0.0, 255.0), "bgr").apply(pixels)
    np.testing.assert_allclose(x.ravel(), [255 - 104.0, 51 - 117.0, 0 - 123.0], rtol=1e-6)
    x = Preprocessing(range=(-1.0, 1.0)).apply(pixels)
    np.testing.assert_allclose(x.ravel(), [-1.0, -0.6, 1.0], rtol=1e-6)
    with pytest.raises(RequestError, match="--input-mean has 2"):
        Preprocessing((1.0, 2.0)).apply(pixels)


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)


def test_the_same_images_from_every_kind_of_place(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    labels = np.array([1, 0, 1, 0])
    np.savez(tmp_path / "a.npz", x=pictures, y=labels)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        for name in (f"classes/{'cat' if label == 0 else 'dog'}/{i}.png", f"indexed/{i}_{label}.png", f"flat/{i}.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in sorted((tmp_path / "indexed").iterdir()):
            archive.write(path, path.name)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("name", "label"), *((f"{i}.png", int(y)) for i, y in reversed(list(enumerate(labels))))]
        )
    shape = (None, 3, 6, 6)
    sets = {
        "npz": open_images(tmp_path / "a.npz"),
        "zip": open_images(tmp_path / "b.zip"),
        "indexed": open_images(tmp_path / "indexed"),
        "csv": open_images(tmp_path / "flat", tmp_path / "labels.csv"),
    }
    for name, found in sets.items():
        x = np.concatenate(list(found.batches(shape, Preprocessing(), batch=3)))
        np.testing.assert_array_equal(x, Preprocessing().apply(pictures), err_msg=name)
        assert found.labels is not None, name
        assert found.labels.tolist() == [1, 0, 1, 0], name
    by_class = open_images(tmp_path / "classes")
    assert by_class.labels is not None
    assert by_class.labels.tolist() == [0, 0, 1, 1]
    assert open_images(tmp_path / "flat").labels is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.npz", b"PK\3\4 broken"), ("a.npy", b""), ("a.zip", b"no"), ("a.png", b"no"), ("a.txt", b"no")],
)
def test_damaged_images_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as refused:
        list(open_images(tmp_path / name).batches((None, 3, 4, 4), Preprocessing(), 2))
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_cropped_from_the_middle(pictures: NDArray[np.uint8]) -> None:
    image = np.zeros((1, 64, 80, 3), np.uint8)
    image[:, :, 30:50] = 255
    x = next(stored(image).batches((None, 3, 14, 14), Preprocessing(), 1))
    assert x.shape == (1, 3, 14, 14)
    assert x[0, 0, 7, 7] == 1
    assert x[0, 0, 7, 0] == 0
    gray = next(stored(pictures).batches((None, 1, 6, 6), Preprocessing(), 4))
    assert gray.shape == (4, 1, 6, 6)


def test_a_wrong_number_of_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4, 3), np.uint8), y=np.zeros(2))
    with pytest.raises(RequestError, match="3 images but labels"):
        open_images(tmp_path / "a.npz")


def test_labelled_images_without_labels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4, 3), np.uint8))
    with pytest.raises(RequestError, match="no labels"):
        Labelled(str(tmp_path / "a.npz")).open()
