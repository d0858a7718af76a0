"""A small classifier, alone and in a folder."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.command_line import small_classifier


@pytest.fixture
def model() -> onnx.ModelProto:
    return small_classifier()


@pytest.fixture
def folder(tmp_path: Path, model: onnx.ModelProto) -> Path:
    """A folder with in.onnx."""
    onnx.save(model, tmp_path / "in.onnx")
    return tmp_path
