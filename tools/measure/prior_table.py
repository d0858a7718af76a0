"""Prints what made-up inputs are worth: scores of compressed networks on real tasks, with no data of the user's.

    python -m tools prior_table [--rows REGEX] [--columns auto,real] [--seeds 1] [--minutes 20] [--cache FOLDER]
    python -m tools prior_table --scale          (8-bit activations with the input's scale told, and without)

Every row is a network and a setting; each is compressed by the command line with the network's input options and
scored on the assets' dev images, or by the score.py of ../shared/realnets. A column is a way to come to inputs: a value
of `--images`; `real`, 32 inputs of the network's own kind by `--calibrate`, on none of which it is scored; `untold`,
made up without a word about the scale. A row that is in the cache folder is not run again, so the table may be stopped
and restarted, and ends by itself where its minutes are over; another version of the package needs another folder.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_udfc.inputs.image_files import open_images
from tools.measure.evaluate import DEV_IMAGES, accuracy_on, manifest_entry, manifest_preprocessing
from tools.places import ASSETS, REALNETS

PHOTOGRAPHS = REALNETS / "calibrate" / "efflite0_bn"  # 32 of the ImageNet dev images: none is scored here
REAL = 32  # real inputs
IMAGENET, CIFAR10 = (DEV_IMAGES[name] for name in ("imagenet", "cifar10"))


@dataclass(frozen=True)
class Row:
    """A network, what is asked for, and the score (percent) that it should reach."""

    network: str
    options: tuple[str, ...]
    bar: float

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.network} {' '.join(self.options)}"


def _rows(network: str, *settings: tuple[str, float]) -> tuple[Row, ...]:
    return tuple(Row(network, tuple(options.split()), bar) for options, bar in settings)


W8A8 = "--bits 8 --activations 8"
ROWS = (
    *_rows("pp_ocrv4_det", ("--prune 0.2", 85), (W8A8, 95), ("--prune 0.3 --bits 8", 70)),
    *_rows("pp_ocrv4_rec", ("--prune 0.2", 80), ("--bits 4", 95), (W8A8, 90)),
    *_rows("pp_ocr_cls", ("--prune 0.2", 98)),
    *_rows("basic_pitch", (W8A8, 90)),
    *_rows("magika", (W8A8, 95), ("--prune 0.2", 95)),
    *_rows("silero_vad_16k_op15", ("--bits 8", 98)),
    *_rows("squeezenet_v1.1_imagenet", ("--prune 0.1", 47), ("--prune 0.2", 38)),
    *_rows("mobilenet_v1_0.25_imagenet_bn", ("--prune 0.2", 32.5)),
    *_rows("mobilenet_v2_imagenet_folded", ("--prune 0.1", 76), ("--prune 0.2", 67), ("--bits 4", 75)),
    *_rows("efflite0_bn", ("--prune 0.2", 78), ("--prune 0.3 --bits 8", 60), ("--bits 4", 83)),
    *_rows("resnet56_cifar10_folded", ("--prune 0.7", 86), ("--prune 0.5", 90)),
    *_rows("resnet56_cifar10_bn", ("--prune 0.7", 86),),
    *_rows("resnet20_cifar10_folded", ("--prune 0.5", 82),),
    *_rows("resnet20_cifar10_bn", ("--prune 0.5", 82),),
)  # fmt: skip
PICTURES = (
    "squeezenet_v1.1_imagenet", "mobilenet_v1_0.25_imagenet_bn", "mobilenet_v2_imagenet_folded", "efflite0_bn",
    "resnet20_cifar10_bn", "resnet20_cifar10_folded", "resnet56_cifar10_bn", "resnet56_cifar10_folded",
    "vgg16half_cifar10_bn", "vgg16half_cifar10_folded", "vgg16_cifar10_bn", "mobilenetv2_cifar10_bn",
    "densenet40_cifar10_bn", "pp_ocr_cls", "pp_ocrv4_rec", "pp_ocrv4_det",
)  # fmt: skip
SCALE_ROWS = tuple(row for network in PICTURES for row in _rows(network, (W8A8, 0)))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only those that this regular expression finds")
    parser.add_argument("--scale", action="store_true", help="the table of scales that are told or not")
    parser.add_argument("--columns", help="ways to come to inputs, with commas between")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20, help="after which no row is begun")
    parser.add_argument("--cache", type=Path, default=Path("prior_table"), help="folder of what was measured")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    columns = (given.columns or ("auto,untold" if given.scale else "auto,real")).split(",")
    print(f"| network, options | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    end, left = time.monotonic() + 60 * given.minutes, 0
    for row in SCALE_ROWS if given.scale else ROWS:
        if re.search(given.rows, row.name):
            wanted = [[(row, column, seed) for seed in range(given.seeds)] for column in columns]
            if time.monotonic() > end and not all(stored(w, given.cache).exists() for ws in wanted for w in ws):
                left += 1
                continue
            cells = [cell([measured(w, given.cache) for w in ws]) for ws in wanted]
            bar = f" (at least {row.bar:g})" if row.bar else ""
            print(f"| {row.network} `{' '.join(row.options)}`{bar} | {' | '.join(cells)} |", flush=True)
    if left:
        print(f"{left} rows are left: the same command again goes on")
    return 0


def cell(found: Sequence[dict[str, Any]]) -> str:
    """Mean of the seeds' scores, and each of them where there are several; or why there is none."""
    scores = [f["score"] for f in found if f["score"] is not None]
    if len(scores) < len(found):
        return next(str(f["error"]) for f in found if f["score"] is None)
    each = f" ({', '.join(f'{s:.1f}' for s in scores)})" if len(scores) > 1 else ""
    return f"{sum(scores) / len(scores):.1f}{each}"


Wanted = tuple[Row, str, int]  # a row, a column and a seed


def stored(wanted: Wanted, cache: Path) -> Path:
    """Where what was measured lies."""
    row, column, seed = wanted
    return cache / (re.sub(r"[^a-z0-9.]+", "_", f"{row.name} {column} {seed}".lower()) + ".json")


def measured(wanted: Wanted, cache: Path) -> dict[str, Any]:
    """Score in percent, kinds of inputs that were taken, or an error; from the cache where it is there."""
    file = stored(wanted, cache)
    if not file.exists():
        file.write_text(json.dumps(_measure(*wanted, file.with_suffix(".onnx"))), encoding="utf-8")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def _measure(row: Row, column: str, seed: int, target: Path) -> dict[str, Any]:
    model, given = source(row.network)
    report = target.with_suffix(".report.json")
    fed = {"real": ["--calibrate", str(real_inputs(row.network, target.parent))], "untold": []}
    told = given if column != "untold" else []
    command = [
        sys.executable, "-m", "onnx_udfc", str(model), str(target), *row.options, *told,
        *fed.get(column, ["--images", column]), "--seed", str(seed), "--threads", "1", "--quiet", "--force",
        "--report", str(report),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"score": None, "kinds": "", "error": (done.stderr.strip().splitlines() or ["failed"])[-1][:120]}
    inputs = json.loads(report.read_text(encoding="utf-8"))["inputs"]
    kinds = ", ".join("+".join(i["kinds"]) for i in inputs if i["kinds"])
    found = {"score": score(row.network, target), "kinds": kinds, "error": ""}
    target.unlink()
    report.unlink()
    return found


def real_inputs(network: str, folder: Path) -> Path:
    """32 inputs of the network's own kind, on none of which it is scored."""
    entry = _real(network)
    if entry:
        return REALNETS / str(entry["calibrate"])
    if manifest_entry(f"{network}.onnx")["dataset"] == "imagenet":
        return PHOTOGRAPHS
    file = folder / "cifar10_real.npz"
    if not file.exists():
        with np.load(ASSETS / "images" / "cifar10_train_1k.npz") as images:
            np.savez(file, x=images["x"][:REAL])
    return file


def source(network: str) -> tuple[Path, list[str]]:
    """The network's file and what its user says of its inputs."""
    entry = _real(network)
    if entry:
        return REALNETS / entry["file"], list(entry["input_options"])
    found = manifest_entry(f"{network}.onnx")
    scale = manifest_preprocessing(found)
    words = [("--input-range", scale.range), ("--input-mean", scale.mean), ("--input-std", scale.std)]
    options = [f"{name}={','.join(f'{v:.10g}' for v in values)}" for name, values in words]
    return ASSETS / found["file"], [*options, f"--input-colour={scale.colour}"]


def score(network: str, model: Path) -> float:
    """Percent of the task that a compressed file does."""
    if not _real(network):
        entry = manifest_entry(f"{network}.onnx")
        images = open_images(_unseen(model.parent) if entry["dataset"] == "imagenet" else ASSETS / CIFAR10)
        return accuracy_on(model, images, manifest_preprocessing(entry), threads=1).percent
    command = [sys.executable, str(REALNETS / "score.py"), network, str(model), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 100 * float(json.loads(done.stdout)["compressed"])


def _unseen(folder: Path) -> Path:
    """The ImageNet dev images without those that serve as real inputs."""
    file, taken = folder / "imagenet_unseen.zip", {p.name for p in PHOTOGRAPHS.iterdir()}
    if not file.exists():
        with zipfile.ZipFile(ASSETS / IMAGENET) as images, zipfile.ZipFile(file, "w") as left:
            for name in images.namelist():
                if Path(name).name not in taken:
                    left.writestr(name, images.read(name))
    return file


def _real(network: str) -> dict[str, Any]:
    """The entry of a network of ../shared/realnets; empty if it is none."""
    manifest = REALNETS / "manifest.json"
    entries = json.loads(manifest.read_text("utf-8"))["models"] if manifest.exists() else []
    return next((dict(e) for e in entries if e["id"] == network), {})


if __name__ == "__main__":
    sys.exit(main())
