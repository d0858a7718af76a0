"""What models/ says of itself is true of its files."""

import hashlib
from collections import Counter

import onnx
import pytest

from tools.measure.catalog import ROOTS, Classifier, classifiers, image_sets
from tools.places import MODELS

SHIPPED = classifiers(roots=ROOTS[:1], images=image_sets())


@pytest.mark.parametrize("network", SHIPPED, ids=lambda network: network.name)
def test_a_file_is_what_the_manifest_says(network: Classifier) -> None:
    row = manifest_row(network)
    content = network.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (row["bytes"], row["sha256"])
    operators = Counter(node.op_type for node in onnx.load(network.path).graph.node)
    assert dict(operators) == row["ops"]
    assert (operators["BatchNormalization"] > 0) == (row["batch_norm"] == "kept")


@pytest.mark.parametrize("network", SHIPPED, ids=lambda network: network.name)
def test_a_file_is_as_accurate_as_the_manifest_says(network: Classifier) -> None:
    assert network.top1(network.path) == pytest.approx(manifest_row(network)["top1_dev"], abs=0.21)  # one image of 500


def test_the_digits_network_is_good_enough_to_compress() -> None:
    for network in classifiers(["digits*"]):
        assert network.top1(network.path) >= 98


def test_everything_shipped_is_on_a_card() -> None:
    card = (MODELS / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in MODELS.iterdir() if path.suffix in {".onnx", ".npz"}}
    assert {name for name in files if name not in card} == set()


def test_all_of_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.iterdir()) <= 80e6


def manifest_row(network: Classifier) -> dict[str, object]:
    import json

    manifest = json.loads((MODELS / "manifest.json").read_text(encoding="utf-8"))
    return next(dict(row) for row in manifest["models"] if row["file"] == network.path.name)
