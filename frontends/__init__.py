"""Readers of models and data: ONNX files, torch modules, calibration inputs."""
