"""Arrays in, arrays out: moments, regressions, elimination, grids, rounding; has never heard of a layer or of ONNX."""
