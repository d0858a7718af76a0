"""Trains, exports and files the networks of models/: labelled images, recipes, ONNX exports, rows of the manifest."""
