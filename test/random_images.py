"""Random small networks of images: what a lowering that streams, cuts and spills is tried on.

Sizes are odd, channels divide no number of lanes, kernels, strides, dilations, groups and padding
are whatever fits. `RandomImages` takes any operation, `RandomChains` convolutions behind each other,
of images that flow in rows or in panels of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from random_graphs import BYTES, WORDS, RandomGraph
from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit import FixedType, ops
from vit_opt.dialects.vit.ops.base import VitOp, format_of, shape_of

CHANNELS = (1, 3, 4, 8, 12, 17, 24, 33, 40, 72)
WIDE = (16, 40, 72, 136)
ROUNDINGS = ("rhu", "rhe", "floor")
Step = Callable[[], SSAValue | None]


class RandomImages(RandomGraph):
    """Any operation on images, tokens, and what comes of them."""

    most = 30_000
    heights: Sequence[int] = (1, 2, 3, 5, 7, 8, 9, 12, 14, 16, 17, 24, 28)
    widths: Sequence[int] = heights

    def arguments(self) -> list[TensorType[FixedType]]:
        batch = 1 if self.rng.random() < 0.85 else 2
        shape = (batch, self.of(self.heights), self.of(self.widths), self.of(CHANNELS))
        return [TensorType(self.of(BYTES), shape)]

    def menu(self) -> Sequence[Step]:
        return (
            *(self.conv,) * 5,
            *(self.depthwise, self.pointwise, self.bottleneck) * 3,
            *(self.requant, self.residual) * 3,
            *(self.add, self.mul, self.table, self.clamp, self.gelu),
            *(self.pool, self.resize, self.upconv, self.pad),
            *(self.channels_joined, self.channels_cut, self.rows_left_out),
            *(self.tokens, self.pixels, self.layernorm, self.linear, self.mean),
            *(self.attention, self.linear_attention, self.log2_attention, self.shiftmax),
            *(self.turn, self.cut, self.heads, self.gather),
        )

    def of(self, choices: Sequence[Any]) -> Any:
        """One of some choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def dividing(self, channels: int, *choices: int) -> int:
        """One of the choices that divide a number of channels."""
        return self.of([choice for choice in choices if channels % choice == 0])

    def image(self, *widths: int) -> SSAValue:
        """An image of codes of some widths, by default 8 bits; the argument if there is no other."""
        return self.pick(*(widths or (8,)), rank=4)

    # -- convolutions -----------------------------------------------------------------------------

    def convolve(
        self,
        x: SSAValue,
        out: int,
        kernel: tuple[int, int],
        pads: Sequence[int],
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> SSAValue | None:
        """A convolution and what often follows it; None if the window is larger than the image."""
        weight = self.weight((out, *kernel, shape_of(x)[3] // groups))
        fields: dict[str, Any] = {
            "strides": [stride, self.of((stride, stride, 1))],
            "pads": list(pads),
            "dilations": [dilation] * 2,
            "groups": groups,
        }
        try:
            op = self.biased(ops.Conv2dOp, x, weight, **fields)
        except VerifyException:
            return None
        return self.followed(op)

    def weight(self, shape: tuple[int, ...]) -> SSAValue:
        """Weights of 4 or 8 bits, with a scale or a zero point of their own."""
        storage = "i4" if self.rng.random() < 0.25 else "i8"
        if self.rng.random() < 0.5:
            return self.constant(
                shape, FixedType(storage, self.rng.integers(4, 9, shape[0]), axis=0)
            )
        zero = int(self.rng.integers(-3, 3)) if self.rng.random() < 0.2 else 0
        return self.constant(shape, FixedType(storage, int(self.rng.integers(4, 9)), zp=zero))

    def biased(self, cls: Any, x: SSAValue, weight: SSAValue, **fields: Any) -> VitOp:
        """A convolution, every other time with a bias."""
        plain = cls.of(x, weight, **fields)
        if self.rng.random() < 0.5:
            return plain
        format_ = format_of(plain.result)
        plain.erase()
        assert isinstance(format_, FixedType)
        format_ = format_.with_axis(0) if format_.is_per_channel else format_
        return cls.of(x, weight, self.constant(shape_of(weight)[:1], format_), **fields)

    def followed(self, op: VitOp) -> SSAValue:
        """A product, most often requantised, then clamped or looked up."""
        acc, kind = self.emit(op), self.rng.random()
        if kind < 0.1:
            return acc
        type_ = self.of((*BYTES, *BYTES, WORDS[0]))
        y = self.emit(ops.PotRequantOp.of(acc, type=type_, rounding=self.of(ROUNDINGS)))
        if kind < 0.55 or type_ in WORDS:
            return y
        if kind < 0.7:
            return self.emit(ops.LutOp.of(y, self.constant((256,), self.of(BYTES))))
        return self.emit(ops.ClampOp.of(y, min=0, max=100))

    def conv(self) -> SSAValue | None:
        x = self.image()
        groups = self.dividing(shape_of(x)[3], 1, 1, 2, 3, 4, 8)
        out = groups * int(self.rng.integers(1, 1 + 80 // groups))
        kernel = (self.of((1, 2, 3, 3, 5)), self.of((1, 3, 3, 4)))
        dilation = self.of((1, 1, 1, 2))
        pads = [int(self.rng.integers(k // 2 * dilation + 1)) for k in (*kernel, *kernel)]
        return self.convolve(x, out, kernel, pads, self.of((1, 1, 2, 3)), groups, dilation)

    def depthwise(self) -> SSAValue | None:
        x, k = self.image(), self.of((1, 3, 3, 5))
        channels, dilation = shape_of(x)[3], self.of((1, 1, 2))
        out = channels * self.of((1, 1, 1, 2))
        return self.convolve(x, out, (k, k), [k // 2] * 4, self.of((1, 1, 2)), channels, dilation)

    def pointwise(self) -> SSAValue | None:
        return self.convolve(self.image(), self.of(CHANNELS), (1, 1), [0] * 4)

    def stem(self) -> SSAValue | None:
        return self.convolve(self.image(), self.of(WIDE), (3, 3), [1] * 4)

    def bottleneck(self) -> SSAValue | None:
        """Wide, channel by channel, narrow again, and often added to what it began with."""
        x = self.image()
        channels, width, k = shape_of(x)[3], self.of(WIDE), self.of((1, 3))
        y = self.convolve(x, width, (k, k), [k // 2] * 4, 1, self.dividing(channels, 1, 2))
        if y is not None and format_of(y).storage.width.data <= 16:
            y = self.convolve(y, width, (3, 3), [1] * 4, self.of((1, 1, 2)), width)
        if y is not None and format_of(y).storage.width.data <= 16:
            y = self.convolve(y, channels, (1, 1), [0] * 4)
        if y is not None and shape_of(y) == shape_of(x) and self.rng.random() < 0.8:
            pair = (y, x) if self.rng.random() < 0.5 else (x, y)
            y = self.emit(ops.AddOp.of(*pair, type=self.of((*BYTES, WORDS[0]))))
        return y

    def upconv(self) -> SSAValue | None:
        x = self.image()
        _, height, width, channels = shape_of(x)
        groups, k, stride = (
            self.dividing(channels, 1, 2, channels),
            self.of((2, 3)),
            self.of((1, 2)),
        )
        out = groups * int(self.rng.integers(1, 1 + max(1, 16 // groups)))
        if height * width * stride**2 * out > self.most:
            return None
        weight = self.weight((out, k, k, channels // groups))
        fields: dict[str, Any] = {
            "strides": [stride] * 2,
            "pads": [int(self.rng.integers(2)) for _ in range(4)],
            "groups": groups,
            "output_padding": [int(self.rng.integers(stride))] * 2,
        }
        try:
            op = self.biased(ops.ConvTranspose2dOp, x, weight, **fields)
        except VerifyException:
            return None
        return self.followed(op)

    # -- pixels -----------------------------------------------------------------------------------

    def residual(self) -> SSAValue | None:
        a = self.image(8, 16, 32)
        equal = [value for value in self.values if shape_of(value) == shape_of(a)]
        return self.emit(ops.AddOp.of(a, self.one_of(equal), type=self.of((*BYTES, WORDS[0]))))

    def gelu(self) -> SSAValue:
        x = self.emit(ops.PotRequantOp.of(self.any(), type=FixedType("i8", 4)))
        return self.emit(ops.PotRequantOp.of(self.emit(ops.ShiftGeluOp.of(x)), type=self.of(BYTES)))

    def pool(self) -> SSAValue | None:
        x, kernel = self.image(8, 16), [self.of((1, 2, 3)), self.of((2, 3))]
        fields: dict[str, Any] = {
            "kernel": kernel,
            "strides": [self.of((1, 2))] * 2,
            "pads": [int(self.rng.integers(k)) for k in (*kernel, *kernel)],
        }
        try:
            if self.rng.random() < 0.5:
                return self.emit(ops.MaxPool2dOp.of(x, **fields))
            type_, counted = self.of((*BYTES, WORDS[0])), bool(self.rng.integers(2))
            return self.emit(ops.AvgPool2dOp.of(x, type=type_, count_include_pad=counted, **fields))
        except VerifyException:
            return None

    def resize(self) -> SSAValue | None:
        x = self.image(8, 16)
        batch, *sides, channels = shape_of(x)
        sides = [max(1, side * self.of((1, 2, 3)) // self.of((1, 2))) for side in sides]
        if sides[0] * sides[1] * channels > self.most:
            return None
        mode = self.of(("nearest", "linear"))
        return self.emit(
            ops.ResizeOp.of(
                x,
                type=format_of(x) if mode == "nearest" else self.of((BYTES[0], WORDS[0])),
                shape=(batch, *sides, channels),
                mode=mode,
                coordinates=self.of(("half_pixel", "align_corners", "asymmetric")),
            )
        )

    def pad(self) -> SSAValue:
        x = self.pick(8, 16, 32)
        low, high = (
            [0, *(int(n) for n in self.rng.integers(0, 3, len(shape_of(x)) - 1))] for _ in range(2)
        )
        return self.emit(ops.PadOp.of(x, low=low, high=high))

    def channels_joined(self) -> SSAValue:
        x = self.image(8, 16)
        fitting = [
            value
            for value in self.values
            if shape_of(value)[:-1] == shape_of(x)[:-1] and format_of(value) == format_of(x)
        ]
        count = int(self.rng.integers(2, 4))
        return self.emit(ops.ConcatOp.of(*(self.one_of(fitting) for _ in range(count)), axis=3))

    def channels_cut(self) -> SSAValue:
        x = self.image(8, 16)
        *lead, channels = shape_of(x)
        first = int(self.rng.integers(channels))
        count = int(self.rng.integers(1, channels - first + 1))
        fields = {"offsets": [0, 0, 0, first], "sizes": [*lead, count], "strides": [1] * 4}
        return self.emit(ops.SliceOp.of(x, **fields))

    def rows_left_out(self) -> SSAValue:
        x = self.image(8, 16)
        batch, height, *rest = shape_of(x)
        row = int(self.rng.integers(height))
        sizes = [batch, (height - row + 1) // 2, *rest]
        fields = {"offsets": [0, row, 0, 0], "sizes": sizes, "strides": [1, 2, 1, 1]}
        return self.emit(ops.SliceOp.of(x, **fields))

    # -- tokens -----------------------------------------------------------------------------------

    def tokens(self) -> SSAValue:
        x = self.image(8, 16)
        batch, height, width, channels = shape_of(x)
        return self.emit(ops.ReshapeOp.of(x, shape=(batch, height * width, channels)))

    def pixels(self) -> SSAValue | None:
        x = self.sequence(8, 16)
        if x is None:
            return None
        batch, tokens, channels = shape_of(x)
        height = next(i for i in range(int(tokens**0.5), 0, -1) if tokens % i == 0)
        return self.emit(ops.ReshapeOp.of(x, shape=(batch, tokens // height, height, channels)))

    def sequence(self, *widths: int) -> SSAValue | None:
        """A sequence of tokens that is short enough for attention."""
        x = self.pick(*widths, rank=3)
        return x if len(shape_of(x)) == 3 and shape_of(x)[1] <= 300 else None

    def attention(self) -> SSAValue | None:
        return None if self.sequence(8) is None else super().attention()

    def linear_attention(self) -> SSAValue | None:
        x = self.sequence(8)
        if x is None:
            return None
        q = self.emit(ops.PotRequantOp.of(x, type=FixedType("i8", 5)))
        q = self.emit(ops.ClampOp.of(q, min=0, max=127))
        v = self.emit(ops.PotRequantOp.of(x, type=FixedType("i8", 4)))
        fields: dict[str, Any] = {
            "kv_shift": int(self.rng.integers(3, 9)),
            "ksum_shift": int(self.rng.integers(2, 7)),
            "divisor": self.of(("recip", "pot")),
        }
        return self.emit(ops.LinearAttnOp.of(q, q, v, type=BYTES[0], **fields))

    def log2_attention(self) -> SSAValue | None:
        scores, v = self.scores()
        if scores is None or v is None:
            return None
        y = self.emit(ops.Log2MatmulOp.of(self.emit(ops.Log2SoftmaxOp.of(scores)), v))
        return self.emit(ops.PotRequantOp.of(y, type=BYTES[0]))

    def shiftmax(self) -> SSAValue | None:
        scores, v = self.scores()
        if scores is None or v is None:
            return None
        p = self.emit(ops.ShiftmaxOp.of(scores, type=FixedType("i8", 7), n=10))
        return self.emit(ops.PotRequantOp.of(self.emit(ops.MatmulOp.of(p, v)), type=BYTES[0]))

    def scores(self) -> tuple[SSAValue | None, SSAValue | None]:
        """Products of all pairs of tokens, and values."""
        x = self.sequence(8)
        if x is None:
            return None, None
        s = self.emit(ops.MatmulOp.of(x, x, transpose_b=True))
        s = self.emit(ops.PotRequantOp.of(s, type=FixedType("i8", 3)))
        return s, self.emit(ops.PotRequantOp.of(x, type=FixedType("i8", 4)))


class RandomChains(RandomImages):
    """Convolutions and what works on pixels, most often on the latest result."""

    heights = (3, 7, 11, 16, 19, 24, 33)
    widths = (1, 3, 5, 8, 11)

    def menu(self) -> Sequence[Step]:
        return (
            *(self.conv, self.depthwise, self.pointwise, self.bottleneck, self.residual) * 2,
            *(self.stem, self.bottleneck, self.requant, self.table, self.gelu, self.mul),
            *(self.clamp, self.channels_joined, self.pool),
        )

    def one_of(self, values: list[SSAValue]) -> SSAValue:
        return values[-1] if self.rng.random() < 0.8 else self.of(values)
