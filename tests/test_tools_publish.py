from dataclasses import asdict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tools import publish  # noqa: E402  # after torch is known to be there
from tools.networks import NETWORKS  # noqa: E402
from tools.train import RECIPES  # noqa: E402


def test_a_row_replaces_the_row_of_its_file() -> None:
    rows = [{"file": "a", "bytes": 1}, {"file": "b", "bytes": 2}]
    publish.put(rows, {"file": "a", "bytes": 3})
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
    rows = publish.publish("digits", "net", tmp_path / "digits.pt", fold=fold, notes="untrained")
    assert [row["file"] for row in rows] == files
    assert [row["batch_norm"] for row in rows] == ["kept", "folded"][: len(rows)]
    for row in rows:
        assert (tmp_path / row["file"]).stat().st_size == row["bytes"]
        assert 0 <= row["top1_dev"] <= 40  # untrained
