"""Elementwise operations: one operand, or several under numpy broadcasting."""

from __future__ import annotations

from xdsl.irdl import irdl_op_definition, operand_def, result_def, var_operand_def

from vit_opt.dialects.onnx.base import (
    TENSOR,
    OnnxOp,
    broadcast,
    dims,
    element_of,
    opt_real_prop,
    real_prop,
    require,
    shape_of,
    str_prop,
)


class Unary(OnnxOp):
    """y = f(x), element by element: same shape, same element type."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        require(
            shape_of(self.x) == shape_of(self.y),
            f"result shape {dims(shape_of(self.y))} differs from operand shape "
            f"{dims(shape_of(self.x))}",
        )


class Broadcast(OnnxOp):
    """y = f(a, b, ...), element by element under numpy broadcasting."""

    inputs = var_operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        expected = broadcast([shape_of(value) for value in self.inputs])
        require(
            expected == shape_of(self.y),
            f"result shape {dims(shape_of(self.y))} differs from the broadcast shape "
            f"{dims(expected)}",
        )


class Binary(Broadcast):
    """y = f(a, b) with exactly two operands of one element type."""

    def verify_(self) -> None:
        require(len(self.inputs) == 2, f"expected 2 operands, got {len(self.inputs)}")
        left, right = (element_of(value) for value in self.inputs)
        require(left == right, f"operand element types {left} and {right} differ")
        super().verify_()


@irdl_op_definition
class Relu(Unary):
    """max(x, 0)."""

    name = "onnx.Relu"


@irdl_op_definition
class LeakyRelu(Unary):
    """x if x >= 0 else alpha * x."""

    name = "onnx.LeakyRelu"
    alpha = real_prop(0.01)


@irdl_op_definition
class Clip(Unary):
    """min(max(x, min), max); a missing bound does not limit (ReLU6 is min = 0, max = 6)."""

    name = "onnx.Clip"
    min = opt_real_prop()
    max = opt_real_prop()


@irdl_op_definition
class HardSwish(Unary):
    """x * max(0, min(1, x / 6 + 1 / 2))."""

    name = "onnx.HardSwish"


@irdl_op_definition
class HardSigmoid(Unary):
    """max(0, min(1, alpha * x + beta))."""

    name = "onnx.HardSigmoid"
    alpha = real_prop(0.2)
    beta = real_prop(0.5)


@irdl_op_definition
class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    name = "onnx.Sigmoid"


@irdl_op_definition
class Swish(Unary):
    """x / (1 + exp(-alpha * x)): SiLU with alpha = 1, the fast form of GELU with alpha = 1.702."""

    name = "onnx.Swish"
    alpha = real_prop(1.0)


@irdl_op_definition
class Tanh(Unary):
    """Hyperbolic tangent."""

    name = "onnx.Tanh"


@irdl_op_definition
class Erf(Unary):
    """Gauss error function."""

    name = "onnx.Erf"


@irdl_op_definition
class Gelu(Unary):
    """x * (1 + erf(x / sqrt(2))) / 2, or its tanh approximation (`approximate = "tanh"`)."""

    name = "onnx.Gelu"
    approximate = str_prop("none")

    def verify_(self) -> None:
        require(
            self.approximate.data in ("none", "tanh"),
            f'approximate is "none" or "tanh", got "{self.approximate.data}"',
        )
        super().verify_()


@irdl_op_definition
class Softplus(Unary):
    """log(1 + exp(x))."""

    name = "onnx.Softplus"


@irdl_op_definition
class Exp(Unary):
    """e^x."""

    name = "onnx.Exp"


@irdl_op_definition
class Log(Unary):
    """Natural logarithm."""

    name = "onnx.Log"


@irdl_op_definition
class Sqrt(Unary):
    """Square root."""

    name = "onnx.Sqrt"


@irdl_op_definition
class Neg(Unary):
    """-x."""

    name = "onnx.Neg"


@irdl_op_definition
class Reciprocal(Unary):
    """1 / x."""

    name = "onnx.Reciprocal"


@irdl_op_definition
class Abs(Unary):
    """|x|."""

    name = "onnx.Abs"


@irdl_op_definition
class Floor(Unary):
    """Largest integer not above x."""

    name = "onnx.Floor"


@irdl_op_definition
class Identity(Unary):
    """x; also stands for Dropout, which does nothing in inference."""

    name = "onnx.Identity"


@irdl_op_definition
class Cast(Unary):
    """x converted to the element type of the result (to integers: towards zero)."""

    name = "onnx.Cast"


@irdl_op_definition
class Not(Unary):
    """Logical negation of i1."""

    name = "onnx.Not"


@irdl_op_definition
class Add(Binary):
    """a + b."""

    name = "onnx.Add"


@irdl_op_definition
class Sub(Binary):
    """a - b."""

    name = "onnx.Sub"


@irdl_op_definition
class Mul(Binary):
    """a * b."""

    name = "onnx.Mul"


@irdl_op_definition
class Div(Binary):
    """a / b (integers: towards zero)."""

    name = "onnx.Div"


@irdl_op_definition
class Pow(Broadcast):
    """a ^ b; the exponent may have its own element type."""

    name = "onnx.Pow"

    def verify_(self) -> None:
        require(len(self.inputs) == 2, f"expected 2 operands, got {len(self.inputs)}")
        super().verify_()


@irdl_op_definition
class Equal(Binary):
    """a == b, as i1."""

    name = "onnx.Equal"


@irdl_op_definition
class Less(Binary):
    """a < b, as i1."""

    name = "onnx.Less"


@irdl_op_definition
class Greater(Binary):
    """a > b, as i1."""

    name = "onnx.Greater"


@irdl_op_definition
class And(Binary):
    """Logical and of i1."""

    name = "onnx.And"


@irdl_op_definition
class Or(Binary):
    """Logical or of i1."""

    name = "onnx.Or"


@irdl_op_definition
class Max(Broadcast):
    """Largest of the operands."""

    name = "onnx.Max"


@irdl_op_definition
class Min(Broadcast):
    """Smallest of the operands."""

    name = "onnx.Min"


@irdl_op_definition
class Where(Broadcast):
    """Second operand where the first (i1) holds, else the third."""

    name = "onnx.Where"

    def verify_(self) -> None:
        require(len(self.inputs) == 3, f"expected 3 operands, got {len(self.inputs)}")
        super().verify_()
