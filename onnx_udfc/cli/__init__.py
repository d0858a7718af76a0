"""The command line: options, text and progress; it holds no logic of its own. It starts in `onnx_udfc.__main__`."""

__all__ = ["commands", "streams"]
