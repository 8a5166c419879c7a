"""What every `vit` operation computes: one definition, exact integers, in numpy.

The functions here take integer arrays and plain integer parameters (shifts, zero points, code
limits, the name of a rounding) and return int64 arrays, unless they say otherwise.  They know no
IR: `vit_opt.dialects.vit.evaluate` reads the parameters off the types of an operation and calls
them.  The interpreter, the C kernels and the emulator of the accelerator equal them bit for bit.

Conventions shared by all modules:

* a code is the stored integer; its real value is ``(code - zero_point) * 2**-frac``;
* a *shift* is always ``frac_in - frac_out``: positive shifts right (with rounding), negative left;
* a shift, frac or zero point may be a scalar or an array that broadcasts against the data;
* ``low`` and ``high`` are the smallest and largest code of the result, both included;
* images are NHWC, convolution weights OHWI, linear weights [N, K].

| module | operations |
|---|---|
| `arithmetic` | shifts, rounding, saturation, division, square root |
| `requant` | pot_requant, dyadic requant, add, mul, clamp |
| `linear` | linear, matmul |
| `convolution` | conv2d, conv_transpose2d |
| `softmax` | softmax_exp, normalize, shiftmax, log2_softmax, log2_matmul |
| `activation` | lut (8 and 16 bit) and its tables, shift_gelu |
| `layernorm` | layernorm, its I-ViT and PTF forms |
| `linear_attention` | linear_attn |
| `pooling` | mean, avg_pool2d, max_pool2d |
| `resize` | resize (nearest, linear) |
| `quantize` | quantize, dequantize |
"""
