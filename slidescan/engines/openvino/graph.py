"""Converts a network to an OpenVINO graph, by running it on symbols instead of tensors.

When a torch function gets a foreign object, torch calls the object's `__torch_function__`
(https://docs.pytorch.org/docs/stable/notes/extending.html). A `Symbol` returns the OpenVINO node
that computes the same. So a network's `forward` suffices, also with zero padding and at a finer
stride. It takes a tenth of a second; torch.export took two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slidescan.engines.openvino.runtime import ops, ov
from slidescan.networks import quantised

Pair = int | Sequence[int]

ANSWERS: dict[Callable[..., Any], Callable[..., Symbol]] = {}
"""The conversion of each torch function, with the arguments that torch's modules pass."""

_PLANE = (2, 3)
_END = np.iinfo(np.int64).max


class Symbol:
    """Stands for a float32 tensor: the output of a node of the graph."""

    dtype = torch.float32

    def __init__(self, output: Any) -> None:
        self.output = output

    @classmethod
    def of(cls, node: Any) -> Symbol:
        """The first output of a node."""
        return cls(node.output(0))

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Symbol:
        if function not in ANSWERS:
            raise NotImplementedError(f"no node of OpenVINO is known for torch's {function}")
        return ANSWERS[function](*args, **(kwargs or {}))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes; -1 stands for any size."""
        sizes = self.output.get_partial_shape()
        return tuple(size.get_length() if size.is_static else -1 for size in sizes)

    def dim(self) -> int:
        return len(self.shape)

    def to(self, dtype: torch.dtype) -> Symbol:
        """Return itself: the precision of a graph is chosen when it is compiled."""
        assert dtype is self.dtype
        return self

    def chunk(self, count: int) -> list[Symbol]:
        """Split along the first axis."""
        return [Symbol(part) for part in ops.split(self.output, _whole(0), count).outputs()]

    def __add__(self, other: Operand) -> Symbol:
        return Symbol.of(ops.add(self.output, _operand(other)))

    def __radd__(self, other: Operand) -> Symbol:
        return self + other

    def __sub__(self, other: Operand) -> Symbol:
        return Symbol.of(ops.subtract(self.output, _operand(other)))

    def __mul__(self, other: Operand) -> Symbol:
        return Symbol.of(ops.multiply(self.output, _operand(other)))

    def __truediv__(self, other: Operand) -> Symbol:
        return Symbol.of(ops.divide(self.output, _operand(other)))

    def __neg__(self) -> Symbol:
        return Symbol.of(ops.negative(self.output))

    def __getitem__(self, key: tuple[slice | int, ...]) -> Symbol:
        """Take slices; an integer removes its axis."""
        cut = [(axis, part) for axis, part in enumerate(key) if part != slice(None)]
        if not cut:
            return self
        slices = [part if isinstance(part, slice) else slice(part, part + 1) for _, part in cut]
        node = ops.slice(
            self.output,
            _whole([part.start or 0 for part in slices]),
            _whole([_END if part.stop is None else part.stop for part in slices]),
            _whole([part.step or 1 for part in slices]),
            _whole([axis for axis, _ in cut]),
        )
        numbers = [axis for axis, part in cut if not isinstance(part, slice)]
        return Symbol.of(ops.squeeze(node, _whole(numbers)) if numbers else node)


Operand = Symbol | Tensor | float


def convert(network: nn.Module, shape: Sequence[int]) -> Any:
    """Convert a network in evaluation mode, of one float32 input, to an OpenVINO model.

    -1 in `shape` stands for any size. Raises `NotImplementedError` for a torch function that has no
    conversion.
    """
    pixels = ops.parameter(list(shape), np.float32)
    return ov.Model([network(Symbol.of(pixels)).output], [pixels])


def _operand(value: Operand) -> Any:
    if isinstance(value, Symbol):
        return value.output
    return ops.constant(np.asarray(torch.as_tensor(value).detach().cpu(), np.float32))


def _whole(numbers: int | Sequence[int]) -> Any:
    return ops.constant(np.asarray(numbers, np.int64))


def _pair(size: Pair) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _answers(*functions: Callable[..., Any]) -> Callable[..., Any]:
    def note(answer: Callable[..., Symbol]) -> Callable[..., Symbol]:
        ANSWERS.update(dict.fromkeys(functions, answer))
        return answer

    return note


@_answers(torch.conv2d)
def _convolution(
    x: Symbol,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Symbol:
    pads = _pair(padding)
    how = _pair(stride), pads, pads, _pair(dilation)
    if groups == 1:
        out = Symbol.of(ops.convolution(x.output, _operand(weight), *how))
    else:
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        out = Symbol.of(ops.group_convolution(x.output, _operand(grouped), *how))
    return out if bias is None else out + bias.view(1, -1, 1, 1)


@_answers(quantised.convolve)
def _quantised(
    x: Symbol, weight: Tensor, bias: Tensor, stride: tuple[int, ...], top: float
) -> Symbol:
    # Weights are rounded by nodes of the graph: OpenVINO then knows the steps and uses integers.
    reach = quantised.reach(weight).view(-1, 1, 1, 1)
    rounded = _rounded(_operand(weight), -reach, reach, 2 * quantised.HALF_STEPS)
    pixels = _rounded(x.output, 0.0, top, quantised.STEPS)
    how = list(stride), [0, 0], [0, 0], [1, 1]
    return Symbol.of(ops.convolution(pixels, rounded, *how)) + bias.view(1, -1, 1, 1)


def _rounded(x: Any, low: Operand, high: Operand, steps: int) -> Any:
    ends = _operand(low), _operand(high)
    return ops.fake_quantize(x, *ends, *ends, steps + 1)


@_answers(functional.batch_norm)
def _batch_norm(
    x: Symbol,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Symbol:
    assert not training
    # A product and a sum with constants, which OpenVINO folds into the convolution before them.
    scale = weight.double() / torch.sqrt(variance.double() + eps)
    shift = bias.double() - mean.double() * scale
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


@_answers(functional.relu)
def _relu(x: Symbol, inplace: bool) -> Symbol:
    return Symbol.of(ops.relu(x.output))


@_answers(functional.hardtanh)
def _hardtanh(x: Symbol, min_val: float, max_val: float, inplace: bool) -> Symbol:
    return Symbol.of(ops.clamp(x.output, min_val, max_val))


@_answers(torch.clamp)
def _clamp(x: Symbol, min: float = -math.inf, max: float = math.inf) -> Symbol:
    return Symbol.of(ops.clamp(x.output, min, max))


@_answers(functional.max_pool2d)
def _max_pool(
    x: Symbol,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    return_indices: bool,
) -> Symbol:
    pads, window = _pair(padding), (_pair(stride), _pair(dilation))
    return Symbol.of(
        ops.max_pool(x.output, *window, pads, pads, _pair(kernel), _rounding(ceil_mode))
    )


@_answers(functional.avg_pool2d)
def _avg_pool(
    x: Symbol,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: None,
) -> Symbol:
    if _pair(kernel) == [1, 1] and _pair(stride) == [1, 1]:
        return x  # a head's pool of one cell, which OpenVINO would copy
    pads, exclude = _pair(padding), not count_include_pad
    return Symbol.of(
        ops.avg_pool(
            x.output, _pair(stride), pads, pads, _pair(kernel), exclude, _rounding(ceil_mode)
        )
    )


def _rounding(ceil_mode: bool) -> str:
    return "ceil_torch" if ceil_mode else "floor"


@_answers(functional.adaptive_avg_pool2d)
def _global_average(x: Symbol, size: int) -> Symbol:
    assert size == 1
    return Symbol.of(ops.reduce_mean(x.output, _whole(_PLANE), keep_dims=True))


@_answers(functional.pad)
def _pad(x: Symbol, pads: Sequence[int], mode: str, value: float | None) -> Symbol:
    """torch's order: the last axis first."""
    left, right, top, bottom = pads
    begin, end = _whole([0, 0, top, left]), _whole([0, 0, bottom, right])
    return Symbol.of(ops.pad(x.output, begin, end, mode, _operand(value or 0.0)))


@_answers(functional.interpolate)
def _interpolate(x: Symbol, scale_factor: float, mode: str, **rest: Any) -> Symbol:
    assert mode == "bilinear"
    assert not any(rest.values())
    scales = ops.constant(np.full(2, scale_factor, np.float32))
    return Symbol.of(
        ops.interpolate(x.output, scales, "linear_onnx", "scales", axes=_whole(_PLANE))
    )


@_answers(functional.pixel_shuffle)
def _pixel_shuffle(x: Symbol, factor: int) -> Symbol:
    return Symbol.of(ops.depth_to_space(x.output, "depth_first", factor))


@_answers(torch.cat)
def _concatenate(parts: Sequence[Symbol], dim: int = 0) -> Symbol:
    return Symbol.of(ops.concat([part.output for part in parts], dim))


@_answers(torch.maximum)
def _maximum(x: Symbol, other: Symbol) -> Symbol:
    return Symbol.of(ops.maximum(x.output, other.output))


@_answers(torch.exp)
def _exp(x: Symbol) -> Symbol:
    return Symbol.of(ops.exp(x.output))


@_answers(torch.log)
def _log(x: Symbol) -> Symbol:
    return Symbol.of(ops.log(x.output))


@_answers(torch.sigmoid)
def _sigmoid(x: Symbol) -> Symbol:
    return Symbol.of(ops.sigmoid(x.output))
