"""The boundary between ONNX files and a graph with layers; writes what it reads without loss; nothing runs here."""
