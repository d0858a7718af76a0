import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc.inputs.image_files import open_images
from onnx_udfc.runtime.sessions import open_session
from tools.places import MODELS
from tools.train import adopt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of models/."""
    out = tmp_path / "shipped"
    out.mkdir()
    monkeypatch.setattr(adopt, "MODELS", out)
    return out


@pytest.mark.parametrize("half", [False, True])
def test_a_row_says_what_the_file_that_is_written_is(folder: Path, half: bool) -> None:
    source = MODELS / "digits_resnet_bn.onnx"
    row = adopt.adopted(source, open_images(MODELS / "digits_test.npz"), half=half)
    written = folder / source.name
    assert (row["file"], row["bytes"]) == (source.name, written.stat().st_size)
    assert row["sha256"] == adopt.sha256(written)
    assert row["nodes"] == len(onnx.load(written).graph.node)
    assert row["ops"].get("Cast", 0) == (16 if half else 0)  # a weight of 15 Convs and one Gemm
    assert row["notes"].endswith(adopt.HALF_NOTE) == half
    assert row["top1_dev"] == 99.2
    assert adopt.row_beside(source)["bytes"] == source.stat().st_size


def test_half_storage_halves_the_file_and_keeps_the_function(folder: Path) -> None:
    source = MODELS / "digits_resnet_bn.onnx"
    adopt.adopted(source, open_images(MODELS / "digits_test.npz"), half=True)
    x = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    before, after = (
        open_session(str(path), threads=1).run(None, {"input": x})[0] for path in (source, folder / source.name)
    )
    assert (folder / source.name).stat().st_size < 0.55 * source.stat().st_size
    assert 0 < abs(after - before).max() < 0.01 * abs(before).max()


def test_a_file_without_a_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"models": []}), encoding="utf-8")
    with pytest.raises(SystemExit, match="has a row of it"):
        adopt.row_beside(tmp_path / "net.onnx")
