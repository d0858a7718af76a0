"""Networks with a real task, the settings they are compressed by, and what the results really lose.

A case is a network, a setting and whether real inputs were given by --calibrate. `real_scores` runs the task: that of
realnets/score.py, top-1 on the dev images, or detections matched with the original's on photographs and scenes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.options import Options
from tools.places import MODELS, SHARED

SETTINGS: dict[str, dict[str, Any]] = {
    "b8": {"bits": 8},
    "b4": {"bits": 4},
    "a8": {"bits": 8, "activations": 8},
    "p1": {"prune": 0.1},
    "p2": {"prune": 0.2},
    "p5b4": {"prune": 0.5, "bits": 4},
}
FURTHER: dict[str, dict[str, Any]] = {"p3": {"prune": 0.3}, "p5": {"prune": 0.5}, "b3": {"bits": 3}}


@dataclass(frozen=True, eq=False)  # one object a network, so that what the original does is found once
class RealNetwork:
    """A network and its task.

    Attributes:
        name: also the folder of its results.
        path: the file.
        options: what a user who knows the preprocessing passes.
        calibrate: what --calibrate takes, or None.
        kind: realnet, classifier, faces or text: how it is scored.
    """

    name: str
    path: Path
    options: Options
    calibrate: Path | None
    kind: str

    def asked(self, setting: str, calibrated: bool) -> Options:
        """The options of one case."""
        data = str(self.calibrate) if calibrated else None
        return replace(self.options, calibrate=data, threads=1, **(SETTINGS | FURTHER)[setting])


def networks(shared: Path = SHARED, models: Path = MODELS) -> list[RealNetwork]:
    """All that are there, small ones first."""
    found = [*_realnets(shared / "realnets"), *_classifiers(shared, models), *_detectors(shared)]
    return sorted(found, key=lambda n: n.path.stat().st_size)


def _realnets(root: Path) -> Iterator[RealNetwork]:
    for row in json.loads((root / "manifest.json").read_text("utf-8"))["models"]:
        options = Options()
        if "preprocess" in row:
            p = row["preprocess"]
            low, high = p["range"]
            mean, std = tuple(p["mean"]), tuple(p["std"])
            options = Options(input_mean=mean, input_std=std, input_range=(low, high), input_colour=p["colour"])
        yield RealNetwork(row["id"], root / row["file"], options, root / row["calibrate"], "realnet")


def _classifiers(shared: Path, models: Path) -> Iterator[RealNetwork]:
    data = {
        "cifar10": shared / "assets/images/cifar10_train_1k.npz",
        "imagenet": shared / "realnets/calibrate/efflite0_bn",
        "digits": None,
    }
    seen = set()
    for root in (shared / "assets", models):
        for row in json.loads((root / "manifest.json").read_text("utf-8"))["models"]:
            path = root / row["file"]
            if row.get("mean") is None or row.get("dataset") not in data or path.name in seen or not path.exists():
                continue
            seen.add(path.name)
            options = Options(
                input_mean=tuple(row["mean"]), input_std=tuple(row["std"]),
                input_range=(0.0, 255.0 * row["scale"]), input_colour=row["color"].lower(),
            )  # fmt: skip
            yield RealNetwork(path.stem, path, options, data[row["dataset"]], "classifier")


def _detectors(shared: Path) -> Iterator[RealNetwork]:
    faces = Options(input_range=(-0.992, 1.0))
    for name in ("ultraface_rfb_320", "ultraface_slim_320"):
        path, photographs = shared / "assets/zoo" / f"{name}.onnx", shared / "realnets/calibrate/efflite0_bn"
        yield RealNetwork(name, path, faces, photographs, "faces")
    text = Options(input_mean=(0.485, 0.456, 0.406), input_std=(0.229, 0.224, 0.225), input_colour="bgr")
    scenes = shared / "realnets/calibrate/pp_ocrv4_det"
    yield RealNetwork("ppocrv5_mobile_det", shared / "assets/zoo/ppocrv5_mobile_det.onnx", text, scenes, "text")


def real_scores(network: RealNetwork, result: Path, shared: Path = SHARED) -> tuple[float, float]:
    """Scores of the original and of the result on the real task, 1 the best."""
    if network.kind == "realnet":
        found, _ = _scorer(shared).score(shared / "realnets", network.name, result)
        return float(found.original), float(found.compressed)
    if network.kind == "classifier":
        return _original_top1(network, shared), _top1(network, result, shared)
    judge = _scorer(shared).judge_boxes(_original_boxes(network, shared), _boxes(network, result, shared))
    return 1.0, float(judge.compressed)


@cache
def _scorer(shared: Path) -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("realnets_score", shared / "realnets" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["realnets_score"] = module
    spec.loader.exec_module(module)
    return module


@cache
def _inputs(kind: str, mean: tuple[float, ...], std: tuple[float, ...], shared: Path) -> list[NDArray[Any]]:
    """Real inputs of a detector, each with its batch axis."""
    scorer = _scorer(shared)
    if kind == "faces":
        shown = [image for _, image in scorer.images(shared / "assets/images/imagenet_dev.zip")][:200:2]
        pixels = [np.asarray(image.resize((320, 240)), np.float32) for image in shown]
        return [((x - 127) / 128).transpose(2, 0, 1)[None] for x in pixels]
    scenes = [np.asarray(image, np.float32) for _, image in scorer.images(shared / "realnets/data/scenes.zip")]
    tiles = [s[y : y + 320, x : x + 320, ::-1] for s in scenes for y in (0, 320) for x in (0, 320)]
    centre, spread = np.array(mean) * 255, np.array(std) * 255
    kept = [(t - centre) / spread for t in tiles if t.shape[:2] == (320, 320)]
    return [t.astype(np.float32).transpose(2, 0, 1)[None] for t in kept]


@cache
def _original_top1(network: RealNetwork, shared: Path) -> float:
    return _top1(network, network.path, shared)


@cache
def _original_boxes(network: RealNetwork, shared: Path) -> list[NDArray[np.float64]]:
    return _boxes(network, network.path, shared)


def _boxes(network: RealNetwork, model: Path, shared: Path) -> list[NDArray[np.float64]]:
    scorer = _scorer(shared)
    session = scorer.open_network(model)
    name = session.get_inputs()[0].name
    given = _inputs(network.kind, network.options.input_mean, network.options.input_std, shared)
    runs = [session.run(None, {name: x}) for x in given]
    if network.kind == "text":
        return [scorer.text_boxes(o[0][0, 0]) for o in runs]
    pairs = [sorted(o[:2], key=lambda y: -int(y.shape[-1])) for o in runs]
    return [_faces(boxes, scores, scorer) for boxes, scores in pairs]


def _faces(boxes: NDArray[Any], scores: NDArray[Any], scorer: ModuleType) -> NDArray[np.float64]:
    """Faces of one image after suppression."""
    b, p = boxes[0].astype(np.float64), scores[0][:, 1]
    kept: list[int] = []
    for i in np.argsort(-p, kind="stable"):
        if p[i] < 0.5 or len(kept) >= 50:
            break
        if not kept or scorer.overlaps(b[[i]], b[kept]).max() < 0.5:
            kept.append(int(i))
    return np.asarray(b[kept])


def _top1(network: RealNetwork, model: Path, shared: Path) -> float:
    from onnx_udfc.inputs.image_files import Preprocessing, open_images
    from tools.measure.evaluate import DEV_IMAGES, predictions

    options = network.options
    assert options.input_range is not None
    dataset = _dataset(network)
    images = open_images(shared / "assets" / DEV_IMAGES[dataset])
    taken = Preprocessing(options.input_mean, options.input_std, options.input_range, options.input_colour or "rgb")
    answers, used = predictions(model, images, taken), _scored(dataset, images, shared)
    assert images.labels is not None
    return float((answers == images.labels)[used].mean())


def _dataset(network: RealNetwork) -> str:
    if network.calibrate is None:
        return "digits"
    return "cifar10" if network.calibrate.suffix == ".npz" else "imagenet"


def _scored(dataset: str, images: Any, shared: Path) -> NDArray[np.bool_]:
    """Which images count: not those that serve for calibration."""
    if dataset != "imagenet":
        return np.ones(len(images), np.bool_)
    calibration = {p.stem for p in (shared / "realnets/calibrate/efflite0_bn").iterdir()}
    return np.array([Path(name).stem not in calibration for name in images.names])
