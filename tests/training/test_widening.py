"""A wider network to start from: it gives what the narrower one gives, and its copies part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import image, network, plain, plan
from slidescan_train.teachers.widening import enlarged, may_enlarge, may_widen, widened

from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, Plan

PLANS: dict[str, Callable[[int], Plan]] = {
    "stem and cells": lambda n: plan("4/2 3 4/2 3", "R N", filters=n, dense=n + 1),
    "double separables": lambda n: plan("4/2 3 2/2", "N2", "mean", 2, filters=n, dense=n),
    "two reductions": lambda n: plan("4/2", "R N N R", filters=n, dense=4),
    "pools, attention": lambda n: plan("4/2 2/2p 3", "N N", "attention", 3, filters=n, dense=n),
    "dense alone": lambda n: plain("4/2 4/2 2/2p 4/2 3", "max", 2, filters=n),
}


@pytest.mark.parametrize("filters", [5, 8, 13])
@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_a_widened_network_gives_the_same_logits(name: str, filters: int) -> None:
    """Some channels have one copy, some two or three, and all have."""
    narrow, wide = PLANS[name](4), PLANS[name](filters)
    net, pixels = network(narrow), image(131, 142, count=2)
    assert may_widen(narrow, wide)
    made = widened(net, wide, seed=1).eval()
    assert made.plan == wide
    expected = net(pixels)
    assert expected.std() > 0.01
    assert (made(pixels) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_copies_learn_different_things() -> None:
    """One step, and channels that were the same are not."""
    narrow, wide = PLANS["stem and cells"](4), PLANS["stem and cells"](8)
    made = widened(network(narrow), wide, seed=1).train()
    first = next(made.body.parameters())
    assert torch.equal(first[:4], first[5:9])
    made(image(96, 96, count=8))[:, 1].sum().backward()
    assert first.grad is not None
    assert (first.grad[:4] - first.grad[5:9]).abs().min() > 0


def test_the_seed_draws_the_shares() -> None:
    narrow, wide = PLANS["dense alone"](4), PLANS["dense alone"](8)
    one, same, other = (widened(network(narrow), wide, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_what_cannot_be_widened() -> None:
    base = PLANS["stem and cells"](4)
    assert not may_widen(base, PLANS["stem and cells"](3))
    assert not may_widen(base, plan("4/2 3 4/2 3", "R N N", filters=8, dense=8))
    assert not may_widen(base, plan("4/2 3 4/2 3", "R R", filters=8, dense=8))
    assert not may_widen(base, plan("4/2 3 4/2 3", "R N", "max", 1, filters=8, dense=8))
    assert not may_widen(base, plan("4/2 5 4/2 3", "R N", filters=8, dense=8))
    assert not may_widen(base, plain("4/2 3 4/2 3"))
    assert not may_widen(plain("4/2 2/2p 3"), plain("4/2 2/2 3"))
    lite = LitePlan(arch="efficientnet-lite")
    assert not may_widen(lite, lite)


def test_weights_for_patches_as_they_are_serve_for_enlarged_ones() -> None:
    lite = LitePlan(arch="efficientnet-lite")
    twice = LitePlan(arch="efficientnet-lite", enlarge=2)
    assert may_enlarge(lite, twice)
    assert may_enlarge(twice, lite)
    assert not may_enlarge(lite, LitePlan(arch="efficientnet-lite", size=1, enlarge=2))
    trained = Network(lite)
    larger = enlarged(trained, twice)
    assert larger.plan == twice
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(larger.state_dict()[name], value)


def test_weights_stay_float32_unless_they_were_not() -> None:
    wide = PLANS["dense alone"](8)
    assert {p.dtype for p in widened(Network(PLANS["dense alone"](4)), wide, 0).parameters()} == {
        torch.float32
    }
