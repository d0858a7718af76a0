"""The command line by `python -m`."""

from onnx_udfc.cli import main

main()
