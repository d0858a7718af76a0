"""The measuring stick itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.measure import evaluate


def test_a_classifier_scores_what_its_manifest_says(assets: Path) -> None:
    for name in ("resnet20_cifar10_bn.onnx", "resnet20_cifar10_folded.onnx"):
        found = evaluate.accuracy(assets / "models" / name, assets=assets)
        assert found.percent == evaluate.manifest_entry(name, assets)["top1_dev"]


def test_bytes_are_measured_like_a_file(assets: Path) -> None:
    data = (assets / "models" / "resnet20_cifar10_bn.onnx").read_bytes()
    assert evaluate.accuracy(data, "resnet20_cifar10_bn.onnx", assets, limit=25).count == 25


def test_the_command_prints_one_line_for_each_model(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate.py", *(str(models / f"digits_resnet_{k}.onnx") for k in ("bn", "folded"))]
    images = ["--images", str(models / "digits_test.npz"), "--mean", "0.305", "--std", "0.376", "--colour", "gray"]
    monkeypatch.setattr(sys, "argv", [*words, *images])
    evaluate.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["99.20", "99.20"]


def test_an_unknown_model_is_one_line(assets: Path) -> None:
    with pytest.raises(SystemExit, match="--like"):
        evaluate.manifest_entry("unknown.onnx", assets)
