"""Arrays in, arrays out: moments, regressions, elimination, grids, rounding; has never heard of a layer or of ONNX."""

__all__ = [
    "activation_grids", "breeding", "detectors", "elimination", "factors", "grids", "halves", "images", "joint_refit",
    "knapsack", "layer_fit", "leading", "metric", "moments", "narrowing", "picture_codec", "products", "reconstruct",
    "rounding", "sixteen_bits", "words",
]  # fmt: skip
