"""The command line: options, text and progress; it holds no logic of its own."""

from __future__ import annotations

from onnx_udfc.cli.commands import app, main, run

__all__ = ["app", "main", "run"]
