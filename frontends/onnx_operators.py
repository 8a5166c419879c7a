"""One ONNX node to one operation of the `onnx` dialect, whatever its opset.

Each rule turns a node into the normal form that the dialect describes: parameters given as
constant tensors become attributes, axes are counted from the front, implicit padding is spelled
out. A rule that meets something it cannot express raises `UnsupportedError` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import OnnxOp, Plain
from vit_opt.frontends.onnx_graph import Graph, Node

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


class UnsupportedError(Exception):
    """Why a node cannot be expressed; collected, so that all are reported together."""


@dataclass(frozen=True)
class Form:
    """A node in normal form: the operation, its operands by value name, its attributes."""

    operation: type[OnnxOp]
    operands: tuple[str, ...]
    attributes: dict[str, Plain | None]
    results: int = 1
    """How many of the node's outputs are results; the others must be unused."""


@dataclass(frozen=True)
class View:
    """What a rule may ask about a node: types, constants and attributes."""

    node: Node
    graph: Graph

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return self.graph.opsets.get("ai.onnx", 1)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input."""
        return self.graph.types[self.node.inputs[index]].shape

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.graph.types[self.node.outputs[0]].shape

    @property
    def rank(self) -> int:
        """Rank of the first input."""
        return len(self.shape())

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return len(self.node.inputs) > index and self.node.inputs[index] != ""

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.node.attributes.get(name, default)

    def constant(self, index: int, what: str) -> Array:
        """The value of an input that must be constant."""
        found = self.graph.constants.get(self.node.inputs[index])
        if found is None:
            raise UnsupportedError(f"{what} is computed by the model; it must be a constant")
        return found

    def ints(self, index: int, name: str) -> list[int] | None:
        """A list that older opsets have as attribute and newer ones as input; None if absent."""
        if name in self.node.attributes:
            return [int(value) for value in self.node.attributes[name]]
        if not self.has(index):
            return None
        return [int(value) for value in self.constant(index, name).ravel()]

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = self.rank if rank is None else rank
        axis = int(self.get("axis", default))
        if not -rank <= axis < max(rank, 1):
            raise UnsupportedError(f"axis {axis} is out of range for rank {rank}")
        return axis % max(rank, 1)

    def form(
        self, operation: type[OnnxOp], operands: int | None = None, **attributes: Plain | None
    ) -> Form:
        """The node as an operation on its first operands (all by default) with attributes."""
        names = tuple(name for name in self.node.inputs[:operands] if name)
        return Form(operation, names, attributes)


Rule: TypeAlias = Callable[[View], Form]


def _same(operation: type[OnnxOp], operands: int | None = None) -> Rule:
    """No attributes: the operands say it all, or the result type does."""
    return lambda view: view.form(operation, operands)


def _reals(operation: type[OnnxOp], *names: str) -> Rule:
    """Real attributes under their own names."""

    def rule(view: View) -> Form:
        given = {name: float(view.node.attributes[name]) for name in names if view.get(name, None)}
        return view.form(operation, None, **{key: short(value) for key, value in given.items()})

    return rule


def short(value: float) -> float:
    """The double with the shortest text among those that round to the same float32.

    ONNX keeps attributes as float32: 1e-5 comes back as 9.999999747378752e-06.
    """
    import numpy as np

    return float(str(np.float32(value)))


def _clip(view: View) -> Form:
    bounds: dict[str, float | None] = {}
    for index, name in ((1, "min"), (2, "max")):
        if name in view.node.attributes:
            bounds[name] = short(view.node.attributes[name])
        elif view.has(index):
            bounds[name] = short(view.constant(index, name).item())
    limit = 3.4e38
    kept = {name: bound for name, bound in bounds.items() if bound and abs(bound) < limit}
    kept |= {name: 0.0 for name, bound in bounds.items() if bound == 0}
    return view.form(onnx.Clip, 1, min=kept.get("min"), max=kept.get("max"))


def _gelu(view: View) -> Form:
    return view.form(onnx.Gelu, 1, approximate=view.get("approximate", "none"))


def _dropout(view: View) -> Form:
    if view.has(2) and bool(view.constant(2, "training_mode").item()):
        raise UnsupportedError("training_mode is set")
    return view.form(onnx.Identity, 1)


def _sum(view: View) -> Form:
    if len(view.node.inputs) == 1:
        return view.form(onnx.Identity)
    if len(view.node.inputs) != 2:
        raise UnsupportedError(f"{len(view.node.inputs)} operands; write it as Add of two")
    return view.form(onnx.Add)


def _gemm(view: View) -> Form:
    return view.form(
        onnx.Gemm,
        3,
        alpha=short(view.get("alpha", 1.0)),
        beta=short(view.get("beta", 1.0)),
        trans_a=int(view.get("transA", 0)),
        trans_b=int(view.get("transB", 0)),
    )


def _einsum(view: View) -> Form:
    equation = str(view.node.attributes["equation"]).replace(" ", "")
    return view.form(onnx.Einsum, None, equation=equation)


def _spatial_rank(view: View) -> None:
    if view.rank != 4:
        raise UnsupportedError(
            f"input of shape {list(view.shape())}; only [N, C, H, W] is supported"
        )


def _window(view: View, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and explicit pads of a convolution or pooling node."""
    strides = [int(value) for value in view.get("strides", [1, 1])]
    dilations = [int(value) for value in view.get("dilations", [1, 1])]
    pads = [int(value) for value in view.get("pads", [0, 0, 0, 0])]
    mode = view.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for d in range(2):
            size, span = view.shape()[2 + d], (kernel[d] - 1) * dilations[d] + 1
            total = max(0, (-(-size // strides[d]) - 1) * strides[d] + span - size)
            small = total // 2
            pads[d] = small if mode == "SAME_UPPER" else total - small
            pads[2 + d] = total - pads[d]
    elif mode == "VALID":
        pads = [0, 0, 0, 0]
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _conv(view: View) -> Form:
    _spatial_rank(view)
    window = _window(view, view.shape(1)[2:])
    return view.form(onnx.Conv, 3, **window, group=int(view.get("group", 1)))


def _conv_transpose(view: View) -> Form:
    _spatial_rank(view)
    kernel = view.shape(1)[2:]
    mode = view.get("auto_pad", "NOTSET")
    window = _window(view, kernel)
    strides, dilations, pads = window["strides"], window["dilations"], window["pads"]
    extra = [int(value) for value in view.get("output_padding", [0, 0])]
    if mode.startswith("SAME") or "output_shape" in view.node.attributes:
        for d in range(2):
            full = strides[d] * (view.shape()[2 + d] - 1) + (kernel[d] - 1) * dilations[d] + 1
            total = full + extra[d] - view.result[2 + d]
            if total < 0:
                raise UnsupportedError("output_shape asks for more than the convolution gives")
            pads[d] = total - total // 2 if mode != "SAME_UPPER" else total // 2
            pads[2 + d] = total - pads[d]
    group = int(view.get("group", 1))
    return view.form(onnx.ConvTranspose, 3, **window, output_padding=extra, group=group)


def _pool(operation: type[OnnxOp]) -> Rule:
    def rule(view: View) -> Form:
        _spatial_rank(view)
        kernel = [int(value) for value in view.node.attributes["kernel_shape"]]
        window = _window(view, kernel)
        counted = int(view.get("count_include_pad", 0))
        added = _ceil_pads(view, kernel, window)
        if operation is onnx.AveragePool:
            if added and counted:
                raise UnsupportedError("ceil_mode together with count_include_pad")
            window["count_include_pad"] = counted
        return view.form(operation, 1, kernel_shape=kernel, **window)

    return rule


def _ceil_pads(view: View, kernel: Sequence[int], window: dict[str, Any]) -> bool:
    """Pad at the end until the result has the size that ceil_mode gave it; whether any was due."""
    added = False
    for d in range(2):
        span = (kernel[d] - 1) * window["dilations"][d] + 1
        wanted = (view.result[2 + d] - 1) * window["strides"][d] + span
        missing = wanted - (view.shape()[2 + d] + window["pads"][d] + window["pads"][2 + d])
        if missing > 0:
            window["pads"][2 + d] += missing
            added = True
    return added


def _reduce(operation: type[OnnxOp]) -> Rule:
    def rule(view: View) -> Form:
        axes = view.ints(1, "axes")
        if not axes:
            axes = [] if view.get("noop_with_empty_axes", 0) else list(range(view.rank))
        front = sorted(axis % view.rank for axis in axes) if view.rank else []
        return view.form(operation, 1, axes=front, keepdims=int(view.get("keepdims", 1)))

    return rule


def _softmax(view: View) -> Form:
    axis = view.axis(-1 if view.opset >= 13 else 1)
    if view.opset < 13 and any(size != 1 for size in view.shape()[axis + 1 :]):
        raise UnsupportedError("before opset 13 it spans all dimensions from axis on; export anew")
    return view.form(onnx.Softmax, 1, axis=axis)


def _layer_norm(view: View) -> Form:
    epsilon = short(view.get("epsilon", 1e-5))
    return view.form(onnx.LayerNormalization, 3, axis=view.axis(-1), epsilon=epsilon)


def _batch_norm(view: View) -> Form:
    if view.get("training_mode", 0):
        raise UnsupportedError("training_mode is set; export the model in evaluation mode")
    return view.form(onnx.BatchNormalization, 5, epsilon=short(view.get("epsilon", 1e-5)))


def _transpose(view: View) -> Form:
    perm = view.get("perm", list(range(view.rank))[::-1])
    return view.form(onnx.Transpose, 1, perm=[int(axis) for axis in perm])


def _along_axis(operation: type[OnnxOp], default: int) -> Rule:
    return lambda view: view.form(operation, None, axis=view.axis(default))


def _split(view: View) -> Form:
    form = view.form(onnx.Split, 1, axis=view.axis(0))
    return Form(form.operation, form.operands, form.attributes, len(view.node.outputs))


def _slice(view: View) -> Form:
    starts, ends = view.ints(1, "starts") or [], view.ints(2, "ends") or []
    axes = view.ints(3, "axes") or list(range(len(starts)))
    steps = view.ints(4, "steps") or [1] * len(starts)
    shape = view.shape()
    axes = [axis % len(shape) for axis in axes]
    for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        size = shape[axis]
        start, end = starts[index], ends[index]
        start, end, step = slice(start, _python_end(end, size, step), step).indices(size)
        starts[index] = start
        ends[index] = -size - 1 if end < 0 else end
    return view.form(onnx.Slice, 1, starts=starts, ends=ends, axes=axes, steps=steps)


def _python_end(end: int, size: int, step: int) -> int | None:
    """ONNX counts an end below -size as "before the first element", Python's None says so."""
    return None if step < 0 and end < -size else end


def _tile(view: View) -> Form:
    return view.form(onnx.Tile, 1, repeats=view.ints(1, "repeats") or [])


def _pad(view: View) -> Form:
    mode = str(view.get("mode", "constant"))
    given = view.ints(1, "pads") or []
    value = float(view.get("value", 0.0))
    if view.has(2):
        value = float(view.constant(2, "the padding value").item())
    axes = [axis % view.rank for axis in view.ints(3, "axes") or range(view.rank)]
    pads = [0] * (2 * view.rank)
    for index, axis in enumerate(axes):
        pads[axis] = given[index]
        pads[axis + view.rank] = given[index + len(axes)]
    if min(pads, default=0) < 0:
        raise UnsupportedError(f"negative pads {pads}; use Slice")
    if mode not in ("constant", "reflect", "edge"):
        raise UnsupportedError(f"mode {mode}")
    return view.form(
        onnx.Pad, 1, pads=pads, mode=mode, value=short(value) if mode == "constant" else None
    )


def _resize(view: View) -> Form:
    _spatial_rank(view)
    mode = str(view.get("mode", "nearest"))
    legacy = view.opset < 11 or view.node.operator == "Upsample"
    coordinates = str(
        view.get("coordinate_transformation_mode", "asymmetric" if legacy else "half_pixel")
    )
    rounding = str(view.get("nearest_mode", "floor" if legacy else "round_prefer_floor"))
    known = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
    if mode not in ("nearest", "linear") or coordinates not in known:
        raise UnsupportedError(f"mode {mode} with coordinates {coordinates}")
    if view.get("antialias", 0) or view.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("antialias or keep_aspect_ratio_policy")
    scales: list[float | None] = [None, None]
    position = 1 if legacy else 2
    if view.has(position) and view.graph.constants.get(view.node.inputs[position]) is not None:
        values = view.constant(position, "scales").ravel().tolist()
        axes = [axis % 4 for axis in view.get("axes", range(4))]
        by_axis = dict(zip(axes, values, strict=False))
        scales = [short(by_axis[axis]) if axis in by_axis else None for axis in (2, 3)]
    if view.result[:2] != view.shape()[:2]:
        raise UnsupportedError("it changes batch or channels")
    return view.form(
        onnx.Resize,
        1,
        mode=mode,
        coordinates=coordinates,
        rounding=rounding if mode == "nearest" else None,
        scale_h=scales[0],
        scale_w=scales[1],
    )


def _depth_to_space(view: View) -> Form:
    block, mode = int(view.node.attributes["blocksize"]), str(view.get("mode", "DCR"))
    return view.form(onnx.DepthToSpace, 1, blocksize=block, mode=mode)


def _space_to_depth(view: View) -> Form:
    return view.form(onnx.SpaceToDepth, 1, blocksize=int(view.node.attributes["blocksize"]))


SCALES = (2.0**-60, 2.0**30)
"""Scales that a quantised value may have."""


def _quantization(operation: type[OnnxOp]) -> Rule:
    def rule(view: View) -> Form:
        if view.get("block_size", 0):
            raise UnsupportedError("blocked quantisation (block_size)")
        scales = view.constant(1, "its scale").ravel()
        wrong = [float(value) for value in scales if not SCALES[0] <= value <= SCALES[1]]
        if wrong:
            raise UnsupportedError(
                f"its scale {view.node.inputs[1]} holds {wrong[0]:g}; scales reach from 2^-60 to 2^30"
            )
        return view.form(operation, 3, axis=view.axis(1) if view.shape(1) not in ((), (1,)) else 0)

    return rule


RULES: dict[str, Rule] = {
    "Abs": _same(onnx.Abs),
    "Add": _same(onnx.Add),
    "And": _same(onnx.And),
    "AveragePool": _pool(onnx.AveragePool),
    "BatchNormalization": _batch_norm,
    "Cast": _same(onnx.Cast, 1),
    "Clip": _clip,
    "Concat": _along_axis(onnx.Concat, 0),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _quantization(onnx.DequantizeLinear),
    "Div": _same(onnx.Div),
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Equal": _same(onnx.Equal),
    "Erf": _same(onnx.Erf),
    "Exp": _same(onnx.Exp),
    "Expand": _same(onnx.Expand, 1),
    "Flatten": _same(onnx.Flatten, 1),
    "Floor": _same(onnx.Floor),
    "Gather": _along_axis(onnx.Gather, 0),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _same(onnx.GlobalAveragePool),
    "GlobalMaxPool": _same(onnx.GlobalMaxPool),
    "Greater": _same(onnx.Greater),
    "HardSigmoid": _reals(onnx.HardSigmoid, "alpha", "beta"),
    "HardSwish": _same(onnx.HardSwish),
    "Identity": _same(onnx.Identity),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _reals(onnx.LeakyRelu, "alpha"),
    "Less": _same(onnx.Less),
    "Log": _same(onnx.Log),
    "MatMul": _same(onnx.MatMul),
    "Max": _same(onnx.Max),
    "MaxPool": _pool(onnx.MaxPool),
    "Min": _same(onnx.Min),
    "Mul": _same(onnx.Mul),
    "Neg": _same(onnx.Neg),
    "Not": _same(onnx.Not),
    "Or": _same(onnx.Or),
    "Pad": _pad,
    "Pow": _same(onnx.Pow),
    "QuantizeLinear": _quantization(onnx.QuantizeLinear),
    "Reciprocal": _same(onnx.Reciprocal),
    "ReduceL2": _reduce(onnx.ReduceL2),
    "ReduceMax": _reduce(onnx.ReduceMax),
    "ReduceMean": _reduce(onnx.ReduceMean),
    "ReduceMin": _reduce(onnx.ReduceMin),
    "ReduceSum": _reduce(onnx.ReduceSum),
    "Relu": _same(onnx.Relu),
    "Reshape": _same(onnx.Reshape, 1),
    "Resize": _resize,
    "Sigmoid": _same(onnx.Sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _same(onnx.Softplus),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _same(onnx.Sqrt),
    "Squeeze": _same(onnx.Squeeze, 1),
    "Sub": _same(onnx.Sub),
    "Sum": _sum,
    "Swish": _reals(onnx.Swish, "alpha"),
    "Tanh": _same(onnx.Tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _same(onnx.Unsqueeze, 1),
    "Upsample": _resize,
    "Where": _same(onnx.Where),
}
"""Rules for the operators of ONNX itself."""


def rule_for(node: Node) -> Rule | None:
    """The rule of a node's operator, None where there is none."""
    return RULES.get(node.operator) if node.domain in ("", "ai.onnx") else None
