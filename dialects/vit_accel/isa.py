"""The instruction set of the accelerator, declared once.

The machine. Eight engines with an in-order queue each: `ld` and `st` move data between DRAM and
the chip, `mac` is the multiply-accumulate array, `dw` the reconfigurable engine (depthwise
convolution, pooling, divisors), `shift` the shifters that requantise, `softmax`, `norm`
(LayerNorm) and `table` (tables and elementwise operations). One program is one stream of
instructions; the dispatcher hands each to the queue of its engine. Engines run ahead of each
other freely and meet only at semaphores: an instruction names the engines that it waits for, and
those that it lets go on (`wait=ld+shift signal=st`); `wait` and `signal` are instructions, too.

The numbers. Integers only; a real value is integer * 2^-frac, so changing a scale is a shift. Every
instruction works on a block: a strided view of `rows x cols` elements, columns contiguous, the row
stride in bytes. Zero points have been folded into biases by the compiler, except where an
instruction has a field for them. Multipliers take numbers of up to 16 bits, softmax, LayerNorm,
windows and divisions of up to 32; pairs of `i4x2` are operands of products only. Anything else traps,
as do sizes of 0, and accumulators or quotients of one instruction that lie over each other. Operands
are read before results are written.

Each docstring gives the loop nest that the instruction executes. `round`, `sat` are the functions
of the same name in `dialects/vit/semantics`, which is the definition.
"""

from vit_opt.dialects.vit_accel.fields import Inst
from vit_opt.dialects.vit_accel.isa_base import Block, UnitInst, between
from vit_opt.dialects.vit_accel.isa_control import Base, ControlInst, End, Loop, Signal, Step, Wait
from vit_opt.dialects.vit_accel.isa_products import (
    Conv,
    DepthwiseConv,
    EngineMatmul,
    Matmul,
    Pool,
    Windowed,
    array_cycles,
    group_row_bytes,
    inside,
    reach,
    wide_groups,
)
from vit_opt.dialects.vit_accel.isa_rows import (
    Add,
    Divide,
    LayerNorm,
    Log2Softmax,
    Normalize,
    NormalizeInst,
    Requant,
    Shiftmax,
    SoftmaxExp,
)
from vit_opt.dialects.vit_accel.isa_tables import (
    Clamp,
    Gather,
    Lerp,
    Lut,
    Lut16,
    Mean,
    Mul,
    ShiftGelu,
    Sum,
)
from vit_opt.dialects.vit_accel.isa_transfer import (
    CopyInst,
    Expand,
    Fill,
    Load,
    Store,
    TransferInst,
)

INSTRUCTIONS: tuple[type[Inst], ...] = (
    Wait,
    Signal,
    Loop,
    End,
    Base,
    Step,
    Load,
    Fill,
    Expand,
    Store,
    Matmul,
    Conv,
    DepthwiseConv,
    Pool,
    EngineMatmul,
    Divide,
    Requant,
    Add,
    SoftmaxExp,
    Normalize,
    Shiftmax,
    Log2Softmax,
    LayerNorm,
    Lut,
    Lut16,
    ShiftGelu,
    Mul,
    Clamp,
    Lerp,
    Gather,
    Sum,
    Mean,
)
"""Every instruction, in the order of the manual."""

ISA_VERSION = 6
"""Raised whenever an encoding or an effect changes."""

BY_OPCODE: dict[int, type[Inst]] = {cls.opcode: cls for cls in INSTRUCTIONS}
CONTROL: tuple[type[ControlInst], ...] = (Wait, Signal, Loop, End, Base, Step)

SEMAPHORES = 64
SEMAPHORE_MAX = 65535
LOOP_DEPTH = 4

__all__ = [
    "BY_OPCODE",
    "CONTROL",
    "INSTRUCTIONS",
    "ISA_VERSION",
    "LOOP_DEPTH",
    "SEMAPHORES",
    "SEMAPHORE_MAX",
    "Add",
    "Base",
    "Block",
    "Clamp",
    "ControlInst",
    "Conv",
    "CopyInst",
    "DepthwiseConv",
    "Divide",
    "End",
    "EngineMatmul",
    "Expand",
    "Fill",
    "Gather",
    "LayerNorm",
    "Lerp",
    "Load",
    "Log2Softmax",
    "Loop",
    "Lut",
    "Lut16",
    "Matmul",
    "Mean",
    "Mul",
    "Normalize",
    "NormalizeInst",
    "Pool",
    "Requant",
    "ShiftGelu",
    "Shiftmax",
    "Signal",
    "SoftmaxExp",
    "Step",
    "Store",
    "Sum",
    "TransferInst",
    "UnitInst",
    "Wait",
    "Windowed",
    "array_cycles",
    "between",
    "group_row_bytes",
    "inside",
    "reach",
    "wide_groups",
]
