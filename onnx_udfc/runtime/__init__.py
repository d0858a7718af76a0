"""Runs graphs and single layers in onnxruntime and measures them; decides nothing."""
