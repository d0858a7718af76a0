"""Puts a trained network into models/: the ONNX files, and their rows in models/manifest.json.

    python -m tools publish digits --name digits_resnet --fold

The manifest has the form of the test assets' own, so tools that read one read the other. Accuracies in it are measured
from the written files, with onnxruntime.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnx_udfc.inputs.image_files import open_images
from tools.places import MODELS
from tools.train import labelled
from tools.train.adopt import CIFAR_TEST, measure, put, read_manifest, sha256, store_in_half, write_manifest
from tools.train.export import InputSpec, to_onnx
from tools.train.networks import NETWORKS

DIGITS_TEST = MODELS / "digits_test.npz"


def spec_of(recipe: dict[str, Any]) -> InputSpec:
    """The input of a network trained by this recipe."""
    gray = recipe["network"] == "digits"
    side, color = (8, "gray") if gray else (32, "RGB")
    return InputSpec(1 if gray else 3, side, side, tuple(recipe["mean"]), tuple(recipe["std"]), color=color)


def model_row(path: Path, spec: InputSpec, batch_norm: str, dataset: str, notes: str) -> dict[str, Any]:
    """The manifest's row of one file, without its accuracy."""
    model = onnx.load(path)
    shape = ["N", spec.channels, spec.height, spec.width]
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "category": "classifier",
        "task": "image classification",
        "dataset": dataset,
        "input_name": "input",
        "input_shape": shape,
        "layout": "NCHW",
        "dtype": "float32",
        "inputs": [{"name": "input", "type": "tensor(float)", "shape": shape}],
        "outputs": [{"name": "logits", "type": "tensor(float)", "shape": ["N", 10]}],
        "color": spec.color,
        "scale": spec.scale,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "batch_norm": batch_norm,
        "opset": model.opset_import[0].version,
        "other_domains": {},
        "ir_version": model.ir_version,
        "nodes": len(model.graph.node),
        "ops": dict(Counter(node.op_type for node in model.graph.node)),
        "origin": "trained for this project",
        "origin_path": "tools/train/train.py",
        "licence": "as the project",
        "notes": notes,
    }


def write_digits_test() -> dict[str, Any]:
    """Writes the digits' test split and returns its row."""
    _, test = labelled.digits()
    np.savez_compressed(DIGITS_TEST, x=test.x, y=test.y)
    return {
        "file": DIGITS_TEST.name,
        "bytes": DIGITS_TEST.stat().st_size,
        "sha256": sha256(DIGITS_TEST),
        "dataset": "digits",
        "format": "npz: x uint8 [n,8,8,1], y int64",
        "count": len(test.x),
        "shape": [8, 8, 1],
        "labels": "y, 0..9",
        "classes": [str(digit) for digit in range(10)],
        "classes_n": 10,
        "eval": True,
        "origin": "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak)",
        "licence": "CC BY 4.0 (UCI)",
        "notes": "500 images by a permutation of seed 0, not trained on; levels 0..16 stretched to 0..255",
    }


def publish(recipe_name: str, name: str, weights: Path, *, fold: bool, half: bool, notes: str) -> list[dict[str, Any]]:
    """Writes models/NAME_bn.onnx, and NAME_folded.onnx with `fold`; returns their rows with measured accuracy."""
    saved = torch.load(weights, map_location="cpu", weights_only=True)
    network = NETWORKS[saved["recipe"]["network"]]()
    network.load_state_dict(saved["network"])
    spec = spec_of(saved["recipe"])
    dataset = "digits" if recipe_name == "digits" else "cifar10"
    images = open_images(DIGITS_TEST if dataset == "digits" else CIFAR_TEST)
    rows = []
    for folded in (False, True) if fold else (False,):
        path = MODELS / f"{name}_{'folded' if folded else 'bn'}.onnx"
        to_onnx(network, path, spec, fold=folded)
        if half:
            store_in_half(path)
        row = model_row(path, spec, "folded" if folded else "kept", dataset, notes)
        rows.append(row | {"top1_dev": measure(path, images, row)})
    return rows


def main() -> None:
    """Publishes one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--name", required=True, help="start of the file names")
    parser.add_argument("--weights", type=Path, help="default: out/train/RECIPE.pt")
    parser.add_argument("--fold", action="store_true", help="a second file with batch norm folded")
    parser.add_argument("--half", action="store_true", help="weights are stored as float16, computed in float32")
    parser.add_argument("--notes", default="")
    args = parser.parse_args()
    manifest = read_manifest()
    if args.recipe == "digits":
        put(manifest["images"], write_digits_test())
    weights = args.weights or Path(f"out/train/{args.recipe}.pt")
    for row in publish(args.recipe, args.name, weights, fold=args.fold, half=args.half, notes=args.notes):
        put(manifest["models"], row)
        print(f"{row['file']}: {row['bytes']} bytes, top-1 {row['top1_dev']}")
    write_manifest(manifest)


if __name__ == "__main__":
    main()
