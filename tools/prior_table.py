"""Prints what made-up inputs are worth: scores of compressed networks on real tasks, with no data of the user's.

    python -m tools.prior_table [--rows REGEX] [--images auto,formula] [--seeds 2] [--cache FOLDER]

Every row is a network, a setting and a bar; each is compressed by the command line with the network's input options and
scored on the assets' dev images, or by the score.py of ../shared/realnets. A row that is in the cache folder is not run
again, so the table can be stopped and restarted; another version of the package needs another folder.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.evaluate import ASSETS, accuracy, manifest_entry, manifest_preprocessing

REALNETS = ASSETS.parent / "realnets"


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


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only those that this regular expression finds")
    parser.add_argument("--images", default="auto", help="values of --images, with commas between")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("prior_table"), help="folder of what was measured")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    kinds = given.images.split(",")
    print(f"| row | {' | '.join(kinds)} | bar |\n|---|{'---|' * (len(kinds) + 1)}", flush=True)
    for row in ROWS:
        if re.search(given.rows, row.name):
            cells = [cell([measured(row, k, seed, given.cache) for seed in range(given.seeds)]) for k in kinds]
            print(f"| {row.name} | {' | '.join(cells)} | {row.bar:g} |", flush=True)
    return 0


def cell(found: Sequence[dict[str, Any]]) -> str:
    """Mean of the seeds' scores and each of them, or why there is none."""
    scores = [f["score"] for f in found if f["score"] is not None]
    if len(scores) < len(found):
        return next(str(f["error"]) for f in found if f["score"] is None)
    return f"{sum(scores) / len(scores):.1f} ({', '.join(f'{s:.1f}' for s in scores)}; {found[0]['kinds']})"


def measured(row: Row, images: str, seed: int, cache: Path) -> dict[str, Any]:
    """Score in percent, kinds of inputs that were taken, or an error; from the cache where it is there."""
    file = cache / (re.sub(r"[^a-z0-9.]+", "_", f"{row.name} {images} {seed}".lower()) + ".json")
    if not file.exists():
        found = _measure(row, images, seed, file.with_suffix(".onnx"))
        file.write_text(json.dumps(found), encoding="utf-8")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def _measure(row: Row, images: str, seed: int, target: Path) -> dict[str, Any]:
    model, given = source(row.network)
    report = target.with_suffix(".report.json")
    command = [
        sys.executable, "-m", "onnx_udfc", str(model), str(target), *row.options, *given, "--images", images,
        "--seed", str(seed), "--threads", "1", "--quiet", "--report", str(report),
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
        return accuracy(model, f"{network}.onnx").percent
    command = [sys.executable, str(REALNETS / "score.py"), network, str(model), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 100 * float(json.loads(done.stdout)["compressed"])


def _real(network: str) -> dict[str, Any]:
    """The entry of a network of ../shared/realnets; empty if it is none."""
    manifest = REALNETS / "manifest.json"
    entries = json.loads(manifest.read_text("utf-8"))["models"] if manifest.exists() else []
    return next((dict(e) for e in entries if e["id"] == network), {})


if __name__ == "__main__":
    sys.exit(main())
