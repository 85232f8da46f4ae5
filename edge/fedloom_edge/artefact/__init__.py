"""Artefacts: what a device is given to infer and to train with; read and checked without torch or onnx."""
