"""The classifiers that can be measured here: those of the manifests of models/ and of the test assets, with images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnx_udfc.inputs.image_files import ImageSet, Preprocessing, open_images
from tools.measure.evaluate import accuracy_on, manifest_preprocessing
from tools.places import ASSETS, MODELS
from tools.train import labelled

ROOTS = (MODELS, ASSETS)


@dataclass(frozen=True)
class Classifier:
    """A model file, what it takes, and labelled images to measure it on."""

    path: Path
    dataset: str
    images: Path
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """The file name without its ending."""
        return self.path.stem

    @cached_property
    def labelled(self) -> ImageSet:
        """The images, opened once."""
        return open_images(self.images)

    def top1(self, model: Path | bytes, threads: int = 1, limit: int | None = None) -> float:
        """Top-1 in percent of a model that takes what this one takes, on at most `limit` images."""
        return accuracy_on(model, self.labelled, self.preprocessing, threads, limit).percent

    def inputs(self, images: Path, count: int) -> np.ndarray:
        """The first `count` images of a set, (n, C, H, W) float32 as the network takes them."""
        shape = [None, None, None, None] if self.dataset != "imagenet" else [None, 3, 224, 224]
        batches = open_images(images).batches(shape, self.preprocessing, batch=count, limit=count)
        return np.concatenate(list(batches))


def _manifests(roots: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The manifests that exist, with their folders."""
    for root in roots:
        path = root / "manifest.json"
        if path.exists():
            yield root, json.loads(path.read_text(encoding="utf-8"))


def image_sets(roots: Sequence[Path] = ROOTS, *, evaluation: bool = True) -> dict[str, Path]:
    """Dataset name → images to measure on, or images for calibration."""
    rows = ((root, row) for root, manifest in _manifests(roots) for row in manifest["images"])
    wanted = ((root, row) for root, row in rows if row["eval"] == evaluation and row["file"].endswith((".npz", ".zip")))
    return {row["dataset"]: root / row["file"] for root, row in wanted}


def classifiers(
    patterns: Sequence[str] = ("*",), images: Mapping[str, Path] | None = None, roots: Sequence[Path] = ROOTS
) -> list[Classifier]:
    """The classifiers whose file name matches one of the patterns, in the order of the manifests.

    A name that several roots have is the same network, in models/ stored in fewer bits: given once, from the last.

    Args:
        patterns: As for a file name, e.g. `resnet*_bn.onnx`; a name without its ending will do.
        images: Dataset name → images, in place of the manifests'.
        roots: Folders with a manifest.
    """
    sets = image_sets(roots) | dict(images or {})
    found: dict[str, Classifier] = {}
    for root, manifest in _manifests(roots):
        for row in manifest["models"]:
            path = root / row["file"]
            wanted = any(path.match(pattern) or path.with_suffix("").match(pattern) for pattern in patterns)
            if wanted and row.get("mean") is not None and row.get("dataset") in sets and path.exists():
                found[path.name] = Classifier(path, row["dataset"], sets[row["dataset"]], manifest_preprocessing(row))
    return list(found.values())


def prepared(name: str, path: Path, folder: Path) -> Path:
    """Images in a form that can be opened: the test batch of a CIFAR-10 archive is written as an .npz once."""
    if name != "cifar10" or path.suffix in {".npz", ".zip"}:
        return path
    out = folder / "cifar10_test.npz"
    if not out.exists():
        test = labelled.read(path, test=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out, x=test.x, y=test.y)
    return out


def dataset_path(text: str) -> tuple[str, Path]:
    """`NAME=PATH`, as --data takes it.

    Raises:
        ValueError: there is no `=`.
    """
    name, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"{text}: write NAME=PATH, e.g. cifar10=cifar-10-python.tar.gz")
    return name, Path(path)
