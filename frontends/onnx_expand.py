"""Fused operators taken apart again, into the operators of ONNX that they stand for.

ONNX Runtime's optimiser and newer exporters write attention, "skip" LayerNorm or a convolution with
its activation as one node, most of them in the domain "com.microsoft". Their pieces are what the
rest of the compiler knows, so a fused node becomes those pieces here, before shapes are inferred
(ONNX's own inference does not know the foreign ones). Definitions: ONNX's operator documentation
and ONNX Runtime's `docs/ContribOperators.md`.

Expansions need the shapes of their operands; a node whose operands have no known shape yet waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import onnx

    from vit_opt.frontends.onnx_types import ValueType


class NotExpandableError(Exception):
    """What a fused operator asks for that its pieces cannot express here."""


@dataclass
class Fused:
    """A fused node, and the nodes that take its place so far."""

    node: onnx.NodeProto
    types: Mapping[str, ValueType]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list["onnx.NodeProto"])

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or its default; strings are decoded."""
        from onnx import helper

        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return default

    def input(self, index: int) -> str:
        """The name of an operand, "" where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def refuse_inputs(self, *indices: int) -> None:
        """Raise NotExpandableError for operands that are given but not supported."""
        given = [str(index) for index in indices if self.input(index)]
        if given:
            raise NotExpandableError(
                f"its operand {', '.join(given)} (mask or cache) is not supported"
            )

    def refuse_set(self, *names: str) -> None:
        """Raise NotExpandableError for attributes that are set to anything but zero."""
        given = [name for name in names if self.get(name, 0)]
        if given:
            raise NotExpandableError(f"{', '.join(given)} is not supported")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand."""
        return self.types[name].shape

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Append a node; the name of its result."""
        from onnx import helper

        base = self.node.name or self.node.output[0]
        output = output or f"{self.node.output[0]}//{len(self.nodes)}"
        name = f"{base}.{operator}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def ints(self, *values: int) -> str:
        """A constant vector of integers."""
        import numpy as np
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.array(values, np.int64))
        return self.add("Constant", [], value=tensor)

    def real(self, value: float) -> str:
        """A constant number."""
        import numpy as np
        from onnx import numpy_helper

        return self.add("Constant", [], value=numpy_helper.from_array(np.array(value, np.float32)))

    def sum(self, *names: str) -> str:
        """The sum of the operands that are given."""
        given = [name for name in names if name]
        total = given[0]
        for name in given[1:]:
            total = self.add("Add", [total, name])
        return total

    def finish(self, value: str, output: int = 0) -> None:
        """Let a value be one of the node's outputs."""
        self.add("Identity", [value], self.node.output[output])

    def has_output(self, index: int) -> bool:
        """Whether an output is wanted."""
        return index < len(self.node.output) and bool(self.node.output[index])


def _gelu(node: Fused, x: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2))."""
    error = node.add("Erf", [node.add("Mul", [x, node.real(math.sqrt(0.5))])])
    product = node.add("Mul", [x, node.add("Add", [error, node.real(1.0)])])
    return node.add("Mul", [product, node.real(0.5)])


def _bias_gelu(node: Fused) -> None:
    """Gelu(x [+ bias])."""
    node.finish(_gelu(node, node.sum(node.input(0), node.input(1))))


def _fast_gelu(node: Fused) -> None:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) of x [+ bias]."""
    x = node.sum(node.input(0), node.input(1))
    cube = node.add("Mul", [node.add("Mul", [x, x]), x])
    inner = node.sum(x, node.add("Mul", [cube, node.real(0.044715)]))
    tanh = node.add("Tanh", [node.add("Mul", [inner, node.real(math.sqrt(2 / math.pi))])])
    product = node.add("Mul", [x, node.add("Add", [tanh, node.real(1.0)])])
    node.finish(node.add("Mul", [product, node.real(0.5)]))


def _quick_gelu(node: Fused) -> None:
    """x * sigmoid(alpha * x)."""
    alpha = float(node.get("alpha", 1.702))
    x = node.input(0)
    gate = node.add("Sigmoid", [node.add("Mul", [x, node.real(alpha)])])
    node.finish(node.add("Mul", [x, gate]))


def _normalize(node: Fused, x: str, gamma: str, beta: str, epsilon: float, axis: int) -> str:
    """LayerNorm from `axis` on: as one operator where the opset has it, else in pieces."""
    if node.opset >= 17:
        operands = [x, gamma, beta] if beta else [x, gamma]
        return node.add("LayerNormalization", operands, axis=axis, epsilon=epsilon)
    rank = len(node.shape(node.input(0)))
    axes = list(range(axis % rank, rank))
    centred = node.add("Sub", [x, node.add("ReduceMean", [x], axes=axes)])
    square = node.add("Mul", [centred, centred])
    variance = node.add("Add", [node.add("ReduceMean", [square], axes=axes), node.real(epsilon)])
    y = node.add("Mul", [node.add("Div", [centred, node.add("Sqrt", [variance])]), gamma])
    return node.sum(y, beta)


def _layer_norm(node: Fused) -> None:
    """LayerNormalization in a model whose opset does not know it yet."""
    _only_first_output(node)
    x, gamma, beta = (node.input(index) for index in range(3))
    epsilon, axis = float(node.get("epsilon", 1e-5)), int(node.get("axis", -1))
    node.finish(_normalize(node, x, gamma, beta, epsilon, axis))


def _skip_layer_norm(node: Fused) -> None:
    """LayerNorm(x + skip [+ bias]); the sum is the fourth output."""
    if node.has_output(1) or node.has_output(2):
        raise NotExpandableError("mean and variance as outputs are not supported")
    x, skip, gamma, beta, bias = (node.input(index) for index in range(5))
    total = node.sum(node.sum(x, bias), skip)
    epsilon = float(node.get("epsilon", 1e-12))
    node.finish(_normalize(node, total, gamma, beta, epsilon, -1))
    if node.has_output(3):
        node.finish(total, 3)


def _only_first_output(node: Fused) -> None:
    given = [name for name in node.node.output[1:] if name]
    if given:
        raise NotExpandableError(f"its outputs {', '.join(given)} are not supported")


def _fused_matmul(node: Fused) -> None:
    """alpha * a' @ b', the last two dimensions of a and b transposed if asked for."""
    node.refuse_set("transBatchA", "transBatchB")
    sides = [node.input(0), node.input(1)]
    for index, name in enumerate(("transA", "transB")):
        rank = len(node.shape(sides[index]))
        if node.get(name, 0) and rank > 1:
            perm = [*range(rank - 2), rank - 1, rank - 2]
            sides[index] = node.add("Transpose", [sides[index]], perm=perm)
    product = node.add("MatMul", sides)
    alpha = float(node.get("alpha", 1.0))
    node.finish(product if alpha == 1.0 else node.add("Mul", [product, node.real(alpha)]))


def _activated(node: Fused, x: str) -> str:
    """The activation that a fused convolution or Gemm names."""
    name = str(node.get("activation", ""))
    parameters = [float(value) for value in node.get("activation_params", [])]
    for part in ("alpha", "beta", "gamma"):
        value = node.get(f"activation_{part}", None)
        parameters += [] if value is None else [float(value)]
    match name:
        case "":
            return x
        case "Relu" | "Sigmoid" | "Tanh":
            return node.add(name, [x])
        case "Clip":
            return node.add("Clip", [x, *(node.real(value) for value in parameters)])
        case "LeakyRelu":
            return node.add("LeakyRelu", [x], alpha=parameters[0] if parameters else 0.01)
        case "HardSigmoid":
            alpha, beta = parameters if len(parameters) == 2 else (0.2, 0.5)
            return node.add("HardSigmoid", [x], alpha=alpha, beta=beta)
        case _:
            raise NotExpandableError(f"the activation {name} is not supported")


def _fused_layer(operator: str) -> Callable[[Fused], None]:
    """A convolution or Gemm, [+ a summand,] and an activation."""

    def expansion(node: Fused) -> None:
        import onnx

        count = 3
        operands = [name for name in node.node.input[:count] if name]
        y = node.add(operator, operands)
        kept = [a for a in node.node.attribute if not a.name.startswith("activation")]
        node.nodes[-1].attribute.extend(
            onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept
        )
        node.finish(_activated(node, node.sum(y, node.input(count))))

    return expansion


@dataclass(frozen=True)
class _Heads:
    """Operands of attention, [B, heads, tokens, depth] each, and what changes the scores."""

    q: str
    k: str
    v: str
    depth: int
    scale: float | None
    """Factor on the scores; None or 0: 1 / sqrt(depth)."""
    bias: str = ""


def _attend(node: Fused, heads: _Heads) -> str:
    """softmax(q k^T * scale + bias) v: [B, heads, tokens, depth of v]."""
    turned = node.add("Transpose", [heads.k], perm=[0, 1, 3, 2])
    scores = node.add("MatMul", [heads.q, turned])
    factor = heads.scale or 1 / math.sqrt(heads.depth)
    scores = node.sum(node.add("Mul", [scores, node.real(factor)]), heads.bias)
    return node.add("MatMul", [node.add("Softmax", [scores], axis=-1), heads.v])


def _to_heads(node: Fused, x: str, tokens: int, heads: int, width: int) -> str:
    """[B, tokens, heads * width] to [B, heads, tokens, width]."""
    parts = node.add("Reshape", [x, node.ints(-1, tokens, heads, width)])
    return node.add("Transpose", [parts], perm=[0, 2, 1, 3])


def _from_heads(node: Fused, x: str, tokens: int, width: int) -> str:
    """[B, heads, tokens, width / heads] to [B, tokens, width]."""
    return node.add(
        "Reshape", [node.add("Transpose", [x], perm=[0, 2, 1, 3]), node.ints(-1, tokens, width)]
    )


def _slice(node: Fused, x: str, axis: int, start: int, end: int) -> str:
    return node.add("Slice", [x, node.ints(start), node.ints(end), node.ints(axis)])


def _attention(node: Fused) -> None:
    """com.microsoft.Attention: one product for q, k and v, then attention."""
    node.refuse_inputs(3, 4, 6)
    node.refuse_set("unidirectional", "do_rotary", "past_present_share_buffer")
    _only_first_output(node)
    tokens = node.shape(node.input(0))[1]
    heads, columns = int(node.get("num_heads", 1)), node.shape(node.input(1))[1]
    sizes = [int(size) for size in node.get("qkv_hidden_sizes", [])] or [columns // 3] * 3
    product = node.sum(node.add("MatMul", [node.input(0), node.input(1)]), node.input(2))
    parts: list[str] = []
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        part = _slice(node, product, 2, start, start + size)
        parts.append(_to_heads(node, part, tokens, heads, size // heads))
    q, k, v = parts
    scale = float(node.get("scale", 0.0))
    y = _attend(node, _Heads(q, k, v, sizes[0] // heads, scale, node.input(5)))
    node.finish(_from_heads(node, y, tokens, sizes[2]))


def _multi_head_attention(node: Fused) -> None:
    """com.microsoft.MultiHeadAttention: q, k and v [B, tokens, width], or by heads already."""
    node.refuse_inputs(4, 6, 7, 8, 9)
    node.refuse_set("unidirectional")
    _only_first_output(node)
    heads = int(node.get("num_heads", 1))
    sides, tokens, depth, width = _separate_sides(node, heads)
    q, k, v = sides
    scale = float(node.get("scale", 0.0))
    y = _attend(node, _Heads(q, k, v, depth, scale, node.input(5)))
    node.finish(_from_heads(node, y, tokens, width))


def _separate_sides(node: Fused, heads: int) -> tuple[list[str], int, int, int]:
    """q, k and v by heads, tokens of q, depth of q, width of v; see `_multi_head_attention`."""
    names = [node.input(index) for index in range(3)]
    if not all(names) or any(len(node.shape(name)) not in (3, 4) for name in names):
        raise NotExpandableError("operands packed in one are not supported")
    width = node.shape(names[0])[2]
    sides: list[str] = []
    start, last = 0, width
    for name in names:
        if len(node.shape(name)) == 4:  # [B, heads, tokens, depth] already
            last = heads * node.shape(name)[3]
            side = name
            if node.input(3):
                bias = _slice(node, node.input(3), 0, start, start + last)
                turned = node.add("Reshape", [bias, node.ints(1, heads, 1, last // heads)])
                side = node.add("Add", [name, turned])
        else:
            last = node.shape(name)[2]
            bias = _slice(node, node.input(3), 0, start, start + last) if node.input(3) else ""
            side = _to_heads(node, node.sum(name, bias), node.shape(name)[1], heads, last // heads)
        sides.append(side)
        start += last
    return sides, node.shape(names[0])[1], width // heads, last


def _onnx_attention(node: Fused) -> None:
    """ONNX's Attention (opset 23): q, k and v [B, heads, tokens, depth] or [B, tokens, width]."""
    node.refuse_inputs(4, 5, 6)
    node.refuse_set("is_causal", "softcap")
    _only_first_output(node)
    q, k, v = (node.input(index) for index in range(3))
    shape, flat = node.shape(q), len(node.shape(q)) == 3
    heads = int(node.get("q_num_heads", 0)) if flat else shape[1]
    pairs = int(node.get("kv_num_heads", 0)) if flat else node.shape(k)[1]
    if not heads or heads != pairs:
        raise NotExpandableError(f"{heads} heads of queries and {pairs} of keys are not supported")
    mask = node.input(3)
    if mask and node.types[mask].dtype.kind == "b":
        raise NotExpandableError("a mask of truth values is not supported; export it as numbers")
    tokens, width = (shape[1], node.shape(v)[2]) if flat else (shape[2], 0)
    depth = shape[2] // heads if flat else shape[3]
    if flat:
        q, k, v = (
            _to_heads(node, x, node.shape(x)[1], heads, node.shape(x)[2] // heads)
            for x in (q, k, v)
        )
    scale = node.get("scale", None)
    y = _attend(node, _Heads(q, k, v, depth, None if scale is None else float(scale), mask))
    node.finish(_from_heads(node, y, tokens, width) if flat else y)


def _same_in_onnx(node: Fused) -> None:
    """An operator that ONNX itself has under the same name."""
    import onnx

    copy = onnx.NodeProto.FromString(node.node.SerializeToString())
    copy.domain = ""
    node.nodes.append(copy)


Expansion: TypeAlias = Callable[[Fused], None]

MICROSOFT: Mapping[str, Expansion] = {
    "Attention": _attention,
    "BiasGelu": _bias_gelu,
    "DequantizeLinear": _same_in_onnx,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_layer("Conv"),
    "FusedGemm": _fused_layer("Gemm"),
    "FusedMatMul": _fused_matmul,
    "Gelu": _bias_gelu,
    "MultiHeadAttention": _multi_head_attention,
    "QuantizeLinear": _same_in_onnx,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "TransposeMatMul": _fused_matmul,
}
"""Operators of ONNX Runtime's domain "com.microsoft"."""


def expansion_of(node: onnx.NodeProto, opset: int) -> Expansion | None:
    """How a node is taken apart, None for one that is not fused."""
    if node.domain == "com.microsoft":
        return MICROSOFT.get(node.op_type)
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Attention":
        return _onnx_attention
    return _layer_norm if node.op_type == "LayerNormalization" and opset < 17 else None


def expand_nodes(
    nodes: Sequence[onnx.NodeProto],
    types: Mapping[str, ValueType],
    opset: int,
    refusals: dict[str, str],
) -> list[onnx.NodeProto] | None:
    """Nodes with the fused ones taken apart, None if there is none that could be.

    What cannot be taken apart stays; `refusals` then gets the reason, under its first output.
    """
    result: list[onnx.NodeProto] = []
    changed = False
    for node in nodes:
        expansion = expansion_of(node, opset)
        known = all(name in types for name in node.input if name)
        if expansion is None or not known or node.output[0] in refusals:
            result.append(node)
            continue
        fused = Fused(node, types, opset)
        try:
            expansion(fused)
        except NotExpandableError as error:
            refusals[node.output[0]] = str(error)
            result.append(node)
        except (IndexError, KeyError, ZeroDivisionError, TypeError, ValueError):
            refusals[node.output[0]] = "its operands or attributes do not fit together"
            result.append(node)
        else:
            result += fused.nodes
            changed = True
    return result if changed else None
