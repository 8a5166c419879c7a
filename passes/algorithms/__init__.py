"""Calibration algorithms on plain numpy arrays: no IR, no files, no randomness.

They choose exponents, zero points and integer weights.  Real numbers are allowed here: this runs
once, on the host, and its results are integers.  Everything is deterministic and holds for
degenerate statistics: empty channels, constant tensors, one channel a thousand times the others.

| module | what it chooses |
|---|---|
| `exponents` | power-of-two scales and zero points: covering, or searched by error |
| `affine` | arbitrary real scales with zero points (before pot-fold) |
| `observers` | ranges of activations from a stream of batches, in bounded memory |
| `smoothing` | per-channel factors between LayerNorm and the linear layer behind it |
| `ptf` | per-channel factors of a residual stream |
| `migration` | per-channel factors and offsets in front of convolutions |
| `logarithmic` | exponents of values that are stored as powers of two |
| `rounding` | integer weights: nearest, or with second-order error compensation |
"""
