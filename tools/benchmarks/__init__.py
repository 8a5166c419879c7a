"""Measurements behind `vit-bench cpu` and `vit-bench models`."""
