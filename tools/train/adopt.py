"""Puts a trained network that is an .onnx already into models/, with its row in models/manifest.json.

    python -m tools adopt ../shared/assets/models/densenet40_cifar10_bn.onnx
    python -m tools adopt ../shared/assets/models/vgg16_cifar10_bn.onnx --half

The file comes with a manifest of the same form in its own folder or the one above; its row says what the network is.
Bytes, hash, operators and accuracy are those of the file that is written.
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_udfc.inputs.image_files import ImageSet, open_images
from tools.measure.evaluate import DEV_IMAGES, accuracy_on, manifest_preprocessing
from tools.places import ASSETS, MODELS

CIFAR_TEST = ASSETS / DEV_IMAGES["cifar10"]
HALF_NOTE = "Weights stored as float16."


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def write_manifest(manifest: dict[str, Any]) -> None:
    """Write models/manifest.json."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (MODELS / "manifest.json").write_text(text, encoding="utf-8")


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


def measure(path: Path, images: ImageSet, row: dict[str, Any]) -> float:
    """Top-1 in percent, from the file."""
    return round(accuracy_on(path, images, manifest_preprocessing(row)).percent, 2)


def row_beside(path: Path) -> dict[str, Any]:
    """The row of a file in the manifest of its folder, or of the one above.

    Raises:
        SystemExit: there is none.
    """
    for folder in (path.parent, path.parent.parent):
        manifest = folder / "manifest.json"
        rows = json.loads(manifest.read_text(encoding="utf-8"))["models"] if manifest.exists() else []
        for row in rows:
            if Path(row["file"]).name == path.name:
                return dict(row)
    raise SystemExit(f"{path}: no manifest.json in its folder or the one above has a row of it")


def adopted(path: Path, images: ImageSet, *, half: bool) -> dict[str, Any]:
    """Copy a file into models/, its weights as float16 with `half`; returns its row with measured accuracy."""
    row, out = row_beside(path), MODELS / path.name
    shutil.copyfile(path, out)
    if half:
        store_in_half(out)
        row["notes"] = f"{row['notes']} {HALF_NOTE}"
    nodes = onnx.load(out).graph.node
    row |= {"file": out.name, "bytes": out.stat().st_size, "sha256": sha256(out)}
    row |= {"nodes": len(nodes), "ops": dict(Counter(node.op_type for node in nodes))}
    return row | {"top1_dev": measure(out, images, row)}


def main() -> None:
    """Adopt one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--half", action="store_true", help="weights are stored as float16, computed in float32")
    args = parser.parse_args()
    manifest = read_manifest()
    row = adopted(args.file, open_images(CIFAR_TEST), half=args.half)
    put(manifest["models"], row)
    write_manifest(manifest)
    print(f"{row['file']}: {row['bytes']} bytes, top-1 {row['top1_dev']}")


if __name__ == "__main__":
    main()
