"""The command line as `python -m onnx_udfc`."""

from onnx_udfc.cli import main

main()
