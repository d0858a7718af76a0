"""The command line: `onnx-udfc`, or `python -m onnx_udfc`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code; signals are obeyed from the first moment."""
    from onnx_udfc.interrupts import Interrupts, open_standard_files

    open_standard_files()
    interrupts = Interrupts()
    interrupts.install()

    from onnx_udfc.cli.commands import launch  # only now: it takes a while, and signals come at any time
    from onnx_udfc.cli.streams import prepare

    prepare()
    launch(interrupts)


if __name__ == "__main__":
    main()
