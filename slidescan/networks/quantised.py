"""The dense stem in integers of 8 bits, which CPUs multiply faster than bf16.

Only its convolutions after the first: they have three quarters of the arithmetic, and the shipped
models stay within 0.04 in probability. With the cells in 8 bits as well, and ranges from real
patches, they came out off by 0.25 and 0.46.

Ranges need no data: behind a BatchNorm a channel has the mean and the deviation that its parameters
say (Nagel et al. 2019, https://arxiv.org/abs/1906.04721).
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import wrap_torch_function

from slidescan.errors import ConfigError
from slidescan.networks.network import Network
from slidescan.networks.plan import NasnetPlan, PlainPlan
from slidescan.networks.shift_and_stitch import ShiftAndStitch

SIGMAS = 8.0
"""How many deviations above a channel's mean are told apart. Below 6 clipping errs most, above 12
coarse steps do: `default` was off by 0.16 at 4, 0.026 at 8 and 0.046 at 16, by noise, which is no
tissue, 0.41, 0.08 and 0.08."""
STEPS = 255
"""From 0 to the largest activation, for which there is no sign to store."""
HALF_STEPS = 127
"""From 0 to the largest weight, and as many below it."""

AnyNetwork = TypeVar("AnyNetwork", bound=Network | ShiftAndStitch)


@wrap_torch_function(lambda x, *_: (x,))
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], top: float
) -> Tensor:
    """A valid convolution of `x`, rounded to `STEPS` from 0 to `top`, with rounded weights.

    In floating point, for reference; an engine answers with its integers, see
    `engines.openvino.graph`.
    """
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    scales = reach(weight).float() / HALF_STEPS
    return functional.conv2d(
        torch.fake_quantize_per_tensor_affine(x, top / STEPS, 0, 0, STEPS),
        torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -HALF_STEPS, HALF_STEPS),
        bias,
        stride,
    )


def reach(weight: Tensor) -> Tensor:
    """The largest of each output's weights, (outputs)."""
    return weight.abs().amax((1, 2, 3))


class Quantised(nn.Conv2d):
    """A valid convolution and its BatchNorm, of activations from 0 to `top`."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, top: float) -> None:
        sizes = convolution.kernel_size, convolution.stride
        kernel, stride = (cast("tuple[int, int]", size) for size in sizes)
        super().__init__(convolution.in_channels, convolution.out_channels, kernel, stride)
        folded = nn.utils.fuse_conv_bn_eval(convolution.eval(), norm.eval())
        self.weight, self.bias = folded.weight, folded.bias
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return convolve(x, self.weight, self.bias, self.stride, self.top)


def quantised(network: AnyNetwork) -> AnyNetwork:
    """A copy for inference, its stem's convolutions after the first in 8 bits.

    Raises `ConfigError` where there are none.
    """
    made = copy.deepcopy(network)
    made.requires_grad_(False)
    dense = _dense(made.network if isinstance(made, ShiftAndStitch) else made)
    convolutions = [(n, part) for n, part in dense.named_modules() if isinstance(part, nn.Conv2d)]
    norms = [(n, part) for n, part in dense.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if len(convolutions) < 2:
        raise ConfigError(
            f"--precision int8: this {network.plan.arch} network has no dense stem beyond its "
            "first convolution, which is all that INT8 speeds up; use bf16 or fp32"
        )
    pairs = zip(convolutions[1:], norms[1:], norms, strict=False)
    for (name, convolution), (after, norm), (_, before) in pairs:
        dense.set_submodule(name, Quantised(convolution, norm, _top(before)))
        dense.set_submodule(after, nn.Identity())
    made.eval()
    return made


def _dense(network: Network) -> nn.Module:
    """The layers of which each convolution but the first reads a ReLU of a BatchNorm."""
    match network.plan:
        case NasnetPlan():
            return cast("nn.Module", network.body.stem)
        case PlainPlan():
            return cast("nn.Module", network.body.layers)
    return nn.Sequential()


def _top(norm: nn.BatchNorm2d) -> float:
    """The largest activation that is expected, over all channels."""
    return float((norm.bias + SIGMAS * norm.weight.abs()).max())
