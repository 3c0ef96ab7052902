"""A rewritten network is the network: the same logits, for every body, head and stride."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import image, network, plain, plan, randomise
from torch import Tensor, nn

from slidescan.networks.cells import Cell
from slidescan.networks.fast_rewrites import REWRITES, rewritten
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, Plan
from slidescan.networks.shift_and_stitch import ShiftAndStitch

PLANS: dict[str, Plan] = {
    "R N N R": plan("4/2", "R N N R"),
    "R2 N, two separables": plan("4/2 3 2/2", "N2", "mean", 2),
    "dense, R N": plan("4/2 3 4/2 3", "R N"),
    "N, max 2": plan("4/2 3 4/2", "N N", "max", 2),
    "R N, log-sum-exp": plan("4/2 3 4/2", "R N", "log-sum-exp", 2),
    "R, attention": plan("4/2 4/2 3", "R", "attention", 4),
    "plain": plain("4/2 4/2 2/2p 4/2 3", "max", 2),
}
EXACT = 1e-12
"""Relative to the logits' scale: what float64 sums in another order leave."""


@torch.no_grad()
def assert_same(one: nn.Module, other: nn.Module, pixels: Tensor) -> None:
    expected = one(pixels)
    assert expected.std() > 0.01
    assert (other(pixels) - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_each_rewrite_is_exact(name: str, rewrite: Callable[[Network], None]) -> None:
    net, changed = network(PLANS[name]), network(PLANS[name])
    rewrite(changed)
    assert_same(net, changed, image(131, 142, count=2))


@pytest.mark.parametrize("name", PLANS)
def test_all_together_are_exact(name: str) -> None:
    net = network(PLANS[name])
    assert_same(net, rewritten(net), image(131, 142, count=2))


@pytest.mark.parametrize("stride", [2, 4])
def test_a_finer_stride_is_rewritten_too(stride: int) -> None:
    finer = ShiftAndStitch(network(PLANS["dense, R N"]), stride)
    assert_same(finer, rewritten(finer), image(114, 126))


def test_a_calibration_stays() -> None:
    net = Network(PLANS["dense, R N"], LogitMap(temperature=2.0, isotonic=((-1, -2), (1, 1))))
    net = randomise(net.double().eval())
    assert_same(net, rewritten(net), image(131, 142))


def test_a_padded_network_stays_as_it_is() -> None:
    net = randomise(Network(LitePlan(arch="efficientnet-lite")).double().eval())
    assert_same(net, rewritten(net), image(96, 96, count=3))


def test_every_rewrite_changes_something() -> None:
    for rewrite in REWRITES:
        net = network(PLANS["dense, R N"])
        before = str(net)
        rewrite(net)
        assert str(net) != before


def test_branches_of_a_source_have_one_activation() -> None:
    inputs: dict[Cell, set[Tensor]] = {}
    net = rewritten(network(PLANS["dense, R N"]))
    for cell in net.modules():
        if not isinstance(cell, Cell):
            continue
        for module in cell.steps.modules():
            if isinstance(module, nn.ReLU):
                seen = inputs.setdefault(cell, set())
                module.register_forward_pre_hook(lambda _, given, seen=seen: seen.add(given[0]))
    with torch.no_grad():
        net(image(96, 96))
    # CURRENT and PREVIOUS; of the reduction's states that which its last step convolves, too.
    assert [len(tensors) for tensors in inputs.values()] == [3, 2]


def test_the_caller_s_network_is_left_as_it_was() -> None:
    net = network(PLANS["dense, R N"]).train().requires_grad_()
    before = str(net)
    made = rewritten(net)
    assert str(net) == before
    assert all(part.training for part in net.modules())
    assert not any(part.training for part in made.modules())
    assert all(value.requires_grad for value in net.parameters())
