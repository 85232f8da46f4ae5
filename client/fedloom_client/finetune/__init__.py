"""Fine-tuning of an artefact on a device's own data, by onnxruntime alone."""
