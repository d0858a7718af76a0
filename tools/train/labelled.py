"""Labelled training images as arrays, from the forms in which people have CIFAR-10, and scikit-learn's digits.

Everything is uint8 (N, H, W, C) with int64 labels (N,), so that a set is one array whatever it was read from.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_TEST = 500


@dataclass(frozen=True)
class Images:
    """Pixels uint8 (N, H, W, C) and labels int64 (N,)."""

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        assert self.x.ndim == 4, self.x.shape
        assert self.x.dtype == np.uint8, self.x.dtype
        assert len(self.x) == len(self.y)


def read_npz(path: Path) -> Images:
    """An .npz with x uint8 (N, H, W, C) and y, as in the assets."""
    with np.load(path) as archive:
        return Images(archive["x"], archive["y"].astype(np.int64))


def digits(seed: int = 0) -> tuple[Images, Images]:
    """Scikit-learn's handwritten digits (8, 8, 1), 1297 for training, 500 for tests; 0..16 made 0..255."""
    from sklearn.datasets import load_digits  # an extra: only this data set needs it

    data = load_digits()
    x = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    y = data.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return Images(x[train], y[train]), Images(x[test], y[test])


def _decode(data: bytes) -> np.ndarray:
    """One image file as uint8 (H, W, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _stack(files: Iterator[tuple[str, bytes]]) -> Images:
    """Images from (class name, file content) pairs; classes are numbered as CLASSES, or sorted if they are others."""
    names, pixels = [], []
    for name, data in files:
        names.append(name)
        pixels.append(_decode(data))
    assert names, "no images found"
    classes = CLASSES if set(names) <= set(CLASSES) else tuple(sorted(set(names)))
    return Images(np.stack(pixels), np.array([classes.index(name) for name in names], np.int64))


def read_folder(root: Path) -> Images:
    """One folder per class, images of one size."""
    files = sorted(path for path in root.glob("*/*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    return _stack((path.parent.name, path.read_bytes()) for path in files)


def _batch(content: bytes) -> Images:
    """One pickled batch of the CIFAR-10 python archive."""
    # The archive's own format; latin1 reads the Python 2 strings in it. Only open archives that you trust.
    raw = pickle.loads(content, encoding="latin1")
    pixels = np.asarray(raw["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), np.asarray(raw["labels"], np.int64))


def read_tar(path: Path, *, test: bool = False) -> Images:
    """The usual cifar-10-python.tar.gz (its training or its test batch), or a tar with one folder per class."""
    with tarfile.open(path) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        batches = [member for member in members if Path(member.name).name.startswith(_prefix(test))]
        if batches:
            return _joined([_batch(_content(archive, member)) for member in batches])
        pictures = [member for member in members if member.name.lower().endswith((".png", ".jpg", ".jpeg"))]
        return _stack((Path(member.name).parent.name, _content(archive, member)) for member in pictures)


def _prefix(test: bool) -> str:
    return "test_batch" if test else "data_batch_"


def _joined(parts: list[Images]) -> Images:
    return Images(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a regular file in the archive."""
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()


def read(*paths: Path, test: bool = False) -> Images:
    """Images from .npz files, tars (both kinds), unpacked CIFAR-10 archives or folders per class, all in one.

    Args:
        paths: Where they are.
        test: Of a CIFAR-10 archive the test batch, not the training ones.

    Raises:
        FileNotFoundError: there is nothing at a path.
    """
    return _joined([_read_one(path, test=test) for path in paths])


def _read_one(path: Path, *, test: bool) -> Images:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give --data a CIFAR-10 archive, a tar, a folder or an .npz")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.is_file():
        return read_tar(path, test=test)
    batches = sorted(path.glob(_prefix(test) + "*"))
    return _joined([_batch(batch.read_bytes()) for batch in batches]) if batches else read_folder(path)
