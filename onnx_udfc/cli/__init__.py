"""The command line: options, text and progress; it holds no logic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_udfc.cli.commands import app, run

__all__ = ["app", "main", "run"]


def main() -> None:
    """Run the command line and leave with its exit code; signals are obeyed from the first moment."""
    from onnx_udfc.interrupts import Interrupts, open_standard_files

    open_standard_files()
    interrupts = Interrupts()
    interrupts.install()

    from onnx_udfc.cli.commands import launch
    from onnx_udfc.cli.streams import prepare

    prepare()
    launch(interrupts)


def __getattr__(name: str) -> object:
    """Import the commands only when they are used: `main` must be ready for signals before it imports anything."""
    if name in __all__:
        from onnx_udfc.cli import commands

        return getattr(commands, name)
    raise AttributeError(f"module 'onnx_udfc.cli' has no attribute {name!r}")
