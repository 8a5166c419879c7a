"""The quantised model as standard ONNX: every format a QuantizeLinear/DequantizeLinear pair.

Other runtimes read this form: weights are integer initializers behind a DequantizeLinear, every
rounding to a format of up to 16 bits is a pair, and between the pairs stand ordinary float
operators. Scales are the powers of two of the model (`2^-frac`), so a runtime that computes on
integers needs shifts alone, and importing the file again finds the same formats.
"""

from vit_opt.backends.onnx_qdq.export import export_qdq, qdq_model, write_model

__all__ = ["export_qdq", "qdq_model", "write_model"]
