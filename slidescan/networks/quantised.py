"""The dense stem in 8-bit integers, which CPUs multiply faster than bf16.

Only the convolutions after the first are quantised: they have three quarters of the arithmetic, and
the probabilities of the shipped models change by at most 0.04. With the cells in 8 bits as well,
and ranges from real patches, they changed by up to 0.25 and 0.46.

The ranges need no data: after a BatchNorm, a channel's mean and deviation are its parameters (Nagel
et al. 2019, https://arxiv.org/abs/1906.04721).
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
"""The range ends this many deviations above a channel's mean. Below 6 clipping dominates the error,
above 12 the coarse steps do: probabilities of `default` changed by 0.16 at 4, 0.026 at 8 and 0.046
at 16; on noise instead of tissue by 0.41, 0.08 and 0.08."""
STEPS = 255
"""Steps from 0 to the largest activation; activations are not negative."""
HALF_STEPS = 127
"""Steps from 0 to the largest weight, and as many for negative weights."""

AnyNetwork = TypeVar("AnyNetwork", bound=Network | ShiftAndStitch)


@wrap_torch_function(lambda x, *_: (x,))
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], top: float
) -> Tensor:
    """Convolve `x`, rounded to `STEPS` from 0 to `top`, with rounded weights, without padding.

    This is the reference in floating point. OpenVINO uses integers, see `engines.openvino.graph`.
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
    """The largest absolute weight of each output channel, (outputs)."""
    return weight.abs().amax((1, 2, 3))


class Quantised(nn.Conv2d):
    """A convolution without padding and its BatchNorm, for activations from 0 to `top`."""

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
    """A copy for inference with the stem's convolutions, except the first, in 8 bits.

    Raises `ConfigError` if the stem has no second convolution.
    """
    made = copy.deepcopy(network)
    made.requires_grad_(False)
    dense = _dense(made.network if isinstance(made, ShiftAndStitch) else made)
    convolutions = [(n, part) for n, part in dense.named_modules() if isinstance(part, nn.Conv2d)]
    norms = [(n, part) for n, part in dense.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if len(convolutions) < 2:
        raise ConfigError(
            f"--precision int8: this {network.plan.arch} network has no second convolution in a "
            "dense stem, and int8 speeds up no other layers; use bf16 or fp32"
        )
    pairs = zip(convolutions[1:], norms[1:], norms, strict=False)
    for (name, convolution), (after, norm), (_, before) in pairs:
        dense.set_submodule(name, Quantised(convolution, norm, _top(before)))
        dense.set_submodule(after, nn.Identity())
    made.eval()
    return made


def _dense(network: Network) -> nn.Module:
    """The dense layers: each convolution except the first has a BatchNorm and a ReLU before it."""
    match network.plan:
        case NasnetPlan():
            return cast("nn.Module", network.body.stem)
        case PlainPlan():
            return cast("nn.Module", network.body.layers)
    return nn.Sequential()


def _top(norm: nn.BatchNorm2d) -> float:
    """The largest expected activation of all channels."""
    return float((norm.bias + SIGMAS * norm.weight.abs()).max())
