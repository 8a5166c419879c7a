"""Reference backend: a module run by the definitions of its operations, in numpy.

It runs every stage of the road: the float graph by the semantics of `onnx`, integers by those of
`vit`. Compiled C and accelerator equal what it gives for integers, bit for bit.
"""

from vit_opt.backends.reference.interpreter import ReferenceResult, run_reference

__all__ = ["ReferenceResult", "run_reference"]
