"""A finer stride is exact, and shares what precedes the strides it undoes."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import image, network, plain, plan
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.geometry import PATCH_PX, Field
from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, Plan
from slidescan.networks.shift_and_stitch import ShiftAndStitch

# Native strides of 4, 8 and 16; strides in the stem, in a cell behind the stem, in a cell behind a
# cell (PREVIOUS at half the stride), and by a pool.
PLANS: dict[str, Plan] = {
    "R N N R": plan("4/2", "R N N R"),
    "R N R, mean 3": plan("4/2", "R N R", "mean", 3),
    "R2 R": plan("4/2", "R2 R"),
    "dense, R N": plan("4/2 3 4/2 3", "R N"),
    "pool, R N": plan("4/2 3 2/2p 3", "R N"),
    "R, attention 4": plan("4/2 4/2 3", "R", "attention", 4),
    "N N, stride 4": plan("4/2 3 4/2", "N N", "max", 2),
    "plain, 16": plain("4/2 4/2 2/2p 4/2 3", "max", 2),
}
STRIDES = [
    (name, stride)
    for name, native in (
        ("R N N R", 8), ("R N R, mean 3", 8), ("R2 R", 8), ("dense, R N", 8), ("pool, R N", 8),
        ("R, attention 4", 8), ("N N, stride 4", 4), ("plain, 16", 16),
    )
    for stride in (2, 4, 8)
    if stride < native
]  # fmt: skip
EXACT = 1e-12
"""Largest difference, relative to the logits' scale, that float64 sums in another order leave."""


@lru_cache
def built(name: str) -> Network:
    return network(PLANS[name])


@torch.no_grad()
def by_patches(net: Network, pixels: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
    """The logits of the patch at every stride, each scored by itself."""
    windows = pixels.unfold(2, PATCH_PX, stride).unfold(3, PATCH_PX, stride)
    windows = windows[:, :, : shape[0], : shape[1]]  # (N, 3, h, w, 96, 96)
    flat = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, PATCH_PX, PATCH_PX)
    logits = torch.cat([net(part) for part in flat.split(64)])
    return logits.view(len(pixels), *shape, 2).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "stride"), STRIDES)
@settings(max_examples=3)
@given(
    down=st.integers(0, 9), across=st.integers(0, 9), rest=st.integers(0, 15), seed=st.integers(0)
)
@example(down=3, across=2, rest=1, seed=0)
def test_every_cell_of_a_finer_stride_equals_its_patch(
    name: str, stride: int, down: int, across: int, rest: int, seed: int
) -> None:
    net = built(name)
    finer = ShiftAndStitch(net, stride)
    assert finer.field == Field(0, PATCH_PX, stride)
    height, width = (PATCH_PX + (finer.multiple - 1 + n) * stride for n in (down, across))
    pixels = image(height + rest, width + rest, seed % 2**32, count=2)
    with torch.no_grad():
        whole = finer(pixels)
    shape = tuple(
        finer.field.outputs(n + rest) // finer.multiple * finer.multiple for n in (height, width)
    )
    assert whole.shape == (2, 2, *shape)
    expected = by_patches(net, pixels, stride, (shape[0], shape[1]))
    assert (whole - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("stride", [2, 4])
def test_layers_before_the_first_fan_run_once(stride: int) -> None:
    net = built("dense, R N")
    finer = ShiftAndStitch(net, stride)
    batches: dict[str, int] = {}
    for part_name, part in finer.network.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(
                lambda _, inputs, __, key=part_name: batches.update({key: len(inputs[0])})
            )
    with torch.no_grad():
        finer(image(128, 128))
    # The stem's second stride (its fourth convolution's index is 6) is undone for stride 2 alone.
    assert batches["body.stem.0"] == batches["body.stem.3"] == 1
    assert batches["head.classifier"] == finer.multiple**2
    behind = [batches[key] for key in batches if key.startswith("body.cells.1")]
    assert set(behind) == {finer.multiple**2}


def test_the_network_itself_stays_as_it_was() -> None:
    net = built("dense, R N")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ShiftAndStitch(net, 2)
    assert net.state_dict().keys() == before.keys()
    assert net(image(96, 96)).shape == (1, 2, 1, 1)


@pytest.mark.parametrize("stride", [1, 3, 6, 16, 5])
def test_a_stride_that_is_no_even_part_of_its_own_is_refused(stride: int) -> None:
    with pytest.raises(ConfigError, match=rf"stride {stride}: .*own, 8"):
        ShiftAndStitch(built("dense, R N"), stride)


def test_a_padded_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="pads with zeros"):
        ShiftAndStitch(Network(LitePlan(arch="efficientnet-lite")), 4)
