from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from onnx_udfc.runtime.sessions import open_session

torch = pytest.importorskip("torch")

from tools.train import adopt, publish  # noqa: E402  # after torch is known to be there
from tools.train.networks import NETWORKS  # noqa: E402
from tools.train.train import RECIPES  # noqa: E402


def test_a_row_replaces_the_row_of_its_file() -> None:
    rows = [{"file": "a", "bytes": 1}, {"file": "b", "bytes": 2}]
    adopt.put(rows, {"file": "a", "bytes": 3})
    assert rows == [{"file": "b", "bytes": 2}, {"file": "a", "bytes": 3}]


@pytest.mark.parametrize("name", ["digits", "vgg16"])
def test_the_input_is_the_recipes(name: str) -> None:
    spec = publish.spec_of(asdict(RECIPES[name]))
    assert spec.mean == RECIPES[name].mean
    assert (spec.channels, spec.height) == ((1, 8) if name == "digits" else (3, 32))


@pytest.mark.parametrize(("fold", "files"), [(False, ["net_bn.onnx"]), (True, ["net_bn.onnx", "net_folded.onnx"])])
def test_publishing_writes_files_and_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: bool, files: list[str]
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(publish, "MODELS", tmp_path)
    state = {"network": NETWORKS["digits"]().state_dict(), "recipe": asdict(RECIPES["digits"])}
    torch.save(state, tmp_path / "digits.pt")
    rows = publish.publish("digits", "net", tmp_path / "digits.pt", fold=fold, half=False, notes="untrained")
    assert [row["file"] for row in rows] == files
    assert [row["batch_norm"] for row in rows] == ["kept", "folded"][: len(rows)]
    for row in rows:
        assert (tmp_path / row["file"]).stat().st_size == row["bytes"]
        assert 0 <= row["top1_dev"] <= 40  # untrained


def test_half_storage_halves_the_file_and_keeps_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(publish, "MODELS", tmp_path)
    torch.save({"network": NETWORKS["digits"]().state_dict(), "recipe": asdict(RECIPES["digits"])}, tmp_path / "d.pt")
    x = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    sizes, outputs = [], []
    for half in (False, True):
        publish.publish("digits", "net", tmp_path / "d.pt", fold=False, half=half, notes="")
        sizes.append((tmp_path / "net_bn.onnx").stat().st_size)
        outputs.append(open_session(str(tmp_path / "net_bn.onnx"), threads=1).run(None, {"input": x})[0])
    assert sizes[1] < 0.55 * sizes[0]
    assert 0 < abs(outputs[1] - outputs[0]).max() < 0.01 * abs(outputs[0]).max()
