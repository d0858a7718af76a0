import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tools.train import labelled


def cifar_batch(values: list[int], labels: list[int]) -> bytes:
    """A batch of the CIFAR-10 archive whose i-th image is red `values[i]`, green 0 and blue 1."""
    data = np.zeros((len(values), 3, 32, 32), np.uint8)
    data[:, 0] = np.array(values, np.uint8)[:, None, None]
    data[:, 2] = 1
    return pickle.dumps({"data": data.reshape(len(values), -1), "labels": labels})


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def png(value: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "cifar-10-batches-py/data_batch_2", cifar_batch([30], [3]))
        add(tar, "cifar-10-batches-py/data_batch_1", cifar_batch([10, 20], [1, 2]))
        add(tar, "cifar-10-batches-py/test_batch", cifar_batch([99], [9]))
    return path


def test_the_training_batches_of_the_archive_come_in_order(archive: Path) -> None:
    images = labelled.read(archive)
    assert images.x.shape == (3, 32, 32, 3)
    assert images.x[:, 5, 7].tolist() == [[10, 0, 1], [20, 0, 1], [30, 0, 1]]
    assert images.y.tolist() == [1, 2, 3]


def test_the_test_batch_is_read_when_asked_for(archive: Path) -> None:
    assert labelled.read(archive, test=True).y.tolist() == [9]


def test_an_unpacked_archive_is_the_archive(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = labelled.read(tmp_path / "cifar-10-batches-py")
    packed = labelled.read(archive)
    np.testing.assert_array_equal(folder.x, packed.x)
    np.testing.assert_array_equal(folder.y, packed.y)


def test_a_tar_of_folders_numbers_the_classes_of_cifar_by_their_own_order(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "train/truck/0.png", png(1))
        add(tar, "train/airplane/0.png", png(2))
    images = labelled.read(path)
    assert images.y.tolist() == [0, 9]
    assert images.x[:, 0, 0, 0].tolist() == [2, 1]


def test_a_folder_per_class_numbers_other_classes_sorted(tmp_path: Path) -> None:
    for name, value in (("pear", 7), ("apple", 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(value))
    images = labelled.read(tmp_path)
    assert images.y.tolist() == [0, 1]
    assert images.x[:, 0, 0, 0].tolist() == [8, 7]


def test_several_sources_are_one_set(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.npz"
    np.savez(path, x=np.full((2, 32, 32, 3), 5, np.uint8), y=np.array([4, 5]))
    assert labelled.read(archive, path).y.tolist() == [1, 2, 3, 4, 5]


def test_nothing_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--data"):
        labelled.read(tmp_path / "missing")


def test_the_digits_split_is_fixed_and_disjoint() -> None:
    pytest.importorskip("sklearn")
    train, test = labelled.digits()
    assert (len(train.x), len(test.x)) == (1297, 500)
    assert test.x.shape == (500, 8, 8, 1)
    assert (test.x.min(), test.x.max()) == (0, 255)
    again = labelled.digits()[1]
    np.testing.assert_array_equal(test.x, again.x)
    rows = {image.tobytes() for image in test.x}
    assert not any(image.tobytes() in rows for image in train.x)
