"""Compress a convolutional ONNX network without data."""
