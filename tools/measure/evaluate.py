"""Accuracy of a classifier on labelled images: the measuring stick of every experiment.

    python -m tools evaluate MODEL [--like resnet56_cifar10_bn.onnx] [--assets ../shared/assets]
    python -m tools evaluate MODEL --images test.npz [--mean 0.5 --std 0.25 --range 0,1 --colour rgb]

Without --images, the images and the preprocessing are those of the manifest's entry of the same file name,
or of --like; what the assets' manifest does not know is looked up in that of models/.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from onnx_udfc.inputs.image_files import ImageSet, Preprocessing, open_images
from tools.places import ASSETS, MODELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEV_IMAGES = {  # beside the assets' manifest; the digits are the repository's own
    "cifar10": "images/cifar10_test_dev.npz",
    "imagenet": "images/imagenet_dev.zip",
    "digits": str(MODELS / "digits_test.npz"),
}


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of a classifier: `percent` of `count` images."""

    correct: int
    count: int

    @property
    def percent(self) -> float:
        """Top-1 in percent."""
        return 100 * self.correct / self.count


def manifest_entry(name: str, assets: Path = ASSETS) -> dict[str, Any]:
    """Return the entry of a model by its file name in the manifest of the assets, or else of models/.

    Raises:
        SystemExit: There is none of that name.
    """
    entries = [e for d in (assets, MODELS) for e in json.loads((d / "manifest.json").read_text("utf-8"))["models"]]
    for entry in entries:
        if Path(entry["file"]).name == Path(name).name and entry.get("mean") is not None:
            return dict(entry)
    raise SystemExit(f"{Path(name).name}: not a classifier of {assets}/manifest.json; say --like NAME or --images")


def manifest_preprocessing(entry: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing of a manifest entry: (pixel · scale − mean) / std."""
    high = 255.0 * entry["scale"]
    return Preprocessing(tuple(entry["mean"]), tuple(entry["std"]), (0.0, high), entry["color"].lower())


def session(model: str | Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """Return a CPU session of a file or of serialized bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predictions(
    model: str | Path | bytes,
    images: ImageSet,
    preprocessing: Preprocessing,
    threads: int = 1,
    limit: int | None = None,
) -> NDArray[np.int64]:
    """Return the class (n,) that the model's first output gives each image."""
    run = session(model, threads)
    given = run.get_inputs()[0]
    shape = [d if isinstance(d, int) else None for d in given.shape]
    dtype = np.float16 if "float16" in given.type else np.float32
    answers = [
        run.run(None, {given.name: x.astype(dtype)})[0].reshape(len(x), -1).argmax(axis=1)
        for x in images.batches(shape, preprocessing, batch=shape[0] or 25, limit=limit)
    ]
    return np.concatenate(answers).astype(np.int64)


def accuracy(
    model: str | Path | bytes,
    like: str | None = None,
    assets: Path = ASSETS,
    threads: int = 1,
    limit: int | None = None,
) -> Accuracy:
    """Return top-1 on the dev images of the manifest entry `like` (default: the entry of the model's file name)."""
    if like is None:
        assert not isinstance(model, bytes), "bytes have no file name: say `like`"
        like = str(model)
    entry = manifest_entry(like, assets)
    images = open_images(assets / DEV_IMAGES[entry["dataset"]])
    return accuracy_on(model, images, manifest_preprocessing(entry), threads, limit)


def accuracy_on(
    model: str | Path | bytes,
    images: ImageSet,
    preprocessing: Preprocessing,
    threads: int = 1,
    limit: int | None = None,
) -> Accuracy:
    """Return top-1 on a labelled image set."""
    if images.labels is None:
        raise SystemExit("the images have no labels")
    answers = predictions(model, images, preprocessing, threads, limit)
    return Accuracy(int((answers == images.labels[: len(answers)]).sum()), len(answers))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(t) for t in text.split(",") if t)


def main() -> None:
    """Print the accuracy of one or more models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--like", help="file name in the manifest whose images and preprocessing are used")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--images", type=Path, help=".npz with x and y, a folder or a zip")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--mean", type=_numbers, default=())
    parser.add_argument("--std", type=_numbers, default=())
    parser.add_argument("--range", type=_numbers, default=(0.0, 1.0), dest="span")
    parser.add_argument("--colour", default="rgb")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    for model in args.models:
        if args.images:
            preprocessing = Preprocessing(args.mean, args.std, args.span, args.colour)
            images = open_images(args.images, args.labels)
            result = accuracy_on(model, images, preprocessing, args.threads, args.limit)
        else:
            result = accuracy(model, args.like, args.assets, args.threads, args.limit)
        print(f"{model.name}\t{result.percent:.2f}\t{result.correct}/{result.count}")


if __name__ == "__main__":
    main()
