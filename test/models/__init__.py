"""Model builders for tests and benchmarks: torch modules with seeded weights, and ONNX export.

`pytest` puts `test/` on the path, so tests write ``from models.vit import deit_tiny_patch16_224``.
Nothing here downloads anything: weights are random, but shaped like those of trained networks.
"""
