"""The three dialects of vit-opt and what their operations mean.

`onnx` is the float graph as it was imported, `vit` the fixed-point graph, `vit_accel` the
accelerator's instructions. Each operation's arithmetic is defined beside it; passes, interpreters
and backends import from here and nothing here imports from them.
"""
