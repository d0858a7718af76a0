"""Puts a trained network into models/: the ONNX files, and their rows in models/manifest.json.

    python -m tools.publish digits --name digits_resnet --fold

The manifest has the form of the test assets' own, so tools that read one read the other. Accuracies in it are measured
from the written files, with onnxruntime.
"""

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from onnx_udfc.inputs.image_files import ImageSet, open_images
from tools import labelled
from tools.evaluate import ASSETS, DEV_IMAGES, MODELS, accuracy_on, manifest_preprocessing
from tools.export import InputSpec, to_onnx
from tools.networks import NETWORKS

CIFAR_TEST = ASSETS / DEV_IMAGES["cifar10"]
DIGITS_TEST = MODELS / "digits_test.npz"


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
        "origin_path": "tools/train.py",
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


def read_manifest() -> dict[str, Any]:
    """The manifest, or an empty one."""
    path = MODELS / "manifest.json"
    if path.exists():
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest
    return {
        "format": 1,
        "preprocessing": "value = (pixel * scale - mean) / std, pixel 0..255, channels in the order of `color`",
        "top1_key": "top1_dev",
        "top1_note": "percent, onnxruntime CPU, on the images with eval=true of that dataset, here or in the assets",
        "models": [],
        "images": [],
    }


def put(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Replaces the row of the same file, or appends."""
    rows[:] = [other for other in rows if other["file"] != row["file"]] + [row]


def store_in_half(path: Path) -> None:
    """Stores the weights of two or more dimensions as float16; a Cast, which onnxruntime folds, makes them float32."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.dtype != np.float32:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


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


def measure(path: Path, images: ImageSet, row: dict[str, Any]) -> float:
    """Top-1 in percent, from the file."""
    return round(accuracy_on(path, images, manifest_preprocessing(row)).percent, 2)


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
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (MODELS / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
