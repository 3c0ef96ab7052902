"""Networks to start from that have another plan: what they give, and which plans they may have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import image, network, plain, plan
from slidescan_train.teachers.reshaping import reshaped
from torch import nn

from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, NasnetPlan, Plan
from slidescan.networks.valid import Nasnet

PLANS: dict[str, Callable[[int], Plan]] = {
    "stem and cells": lambda n: plan("4/2 3 4/2 3", "R N", filters=n, dense=n + 1),
    "double separables": lambda n: plan("4/2 3 2/2", "N2", "mean", 2, filters=n, dense=n),
    "two reductions": lambda n: plan("4/2", "R N N R", filters=n, dense=4),
    "pools, attention": lambda n: plan("4/2 2/2p 3", "N N", "attention", 3, filters=n, dense=n),
    "dense alone": lambda n: plain("4/2 4/2 2/2p 4/2 3", "max", 2, filters=n),
}


def changed(trained: Network, plan: Plan, seed: int = 1) -> Network:
    made = reshaped(trained, plan, seed)
    assert made is not None
    return made.eval()


@pytest.mark.parametrize("filters", [5, 8, 13])
@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_a_widened_network_gives_the_same_logits(name: str, filters: int) -> None:
    """Some channels have one copy, some two or three, and all have."""
    narrow, wide = PLANS[name](4), PLANS[name](filters)
    net, pixels = network(narrow), image(131, 142, count=2)
    made = changed(net, wide)
    assert made.plan == wide
    expected = net(pixels)
    assert expected.std() > 0.01
    assert (made(pixels) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_copies_learn_different_things() -> None:
    """One step, and channels that were the same are not."""
    narrow, wide = PLANS["stem and cells"](4), PLANS["stem and cells"](8)
    made = changed(network(narrow), wide).train()
    first = next(made.body.parameters())
    assert torch.equal(first[:4], first[5:9])
    made(image(96, 96, count=8))[:, 1].sum().backward()
    assert first.grad is not None
    assert (first.grad[:4] - first.grad[5:9]).abs().min() > 0


def test_the_seed_draws_the_shares() -> None:
    narrow, wide = PLANS["dense alone"](4), PLANS["dense alone"](8)
    one, same, other = (changed(network(narrow), wide, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_a_narrower_stem_keeps_the_filters_of_the_largest_scales() -> None:
    """Filters that give nothing are left out, so the logits stay."""
    wide = network(plan("4/2 3 4/2 3", "R N", filters=4, dense=6))
    idle = torch.tensor([0, 3])
    assert isinstance(wide.body, Nasnet)
    for part in wide.body.stem:
        if isinstance(part, nn.BatchNorm2d):
            with torch.no_grad():
                part.weight[idle], part.bias[idle] = 0, 0
    pixels = image(131, 142, count=2)
    made = changed(wide, plan("4/2 3 4/2 3", "R N", filters=4, dense=4))
    assert (made(pixels) - wide(pixels)).abs().max() <= 1e-12 * wide(pixels).abs().max()


def test_some_layers_may_be_narrower_and_others_wider() -> None:
    trained = network(plan("4/2 3", "R N", filters=4, dense=6))
    wanted = plan("4/2 3", "R N", filters=5, dense=6)
    stem = [wanted.stem[0].model_copy(update={"filters": 3}), wanted.stem[1]]
    made = changed(trained, wanted.model_copy(update={"stem": tuple(stem)}))
    assert isinstance(made.plan, NasnetPlan)
    assert [layer.filters for layer in made.plan.stem] == [3, 6]
    assert made(image(96, 96)).isfinite().all()


def test_the_same_plan_is_the_same_network() -> None:
    trained = network(PLANS["stem and cells"](4))
    assert reshaped(trained, PLANS["stem and cells"](4), seed=1) is trained


def test_plans_that_no_weights_serve_for() -> None:
    trained = network(PLANS["stem and cells"](4))
    for wanted in (
        plan("4/2 3 4/2 3", "R N", filters=3, dense=4),  # cells
        plan("4/2 3 4/2 3", "R N N", filters=8, dense=8),
        plan("4/2 3 4/2 3", "R R", filters=8, dense=8),
        plan("4/2 3 4/2 3", "R N", "max", 1, filters=8, dense=8),
        plan("4/2 5 4/2 3", "R N", filters=8, dense=8),
        plain("4/2 3 4/2 3"),
    ):
        assert reshaped(trained, wanted, seed=1) is None
    assert reshaped(network(plain("4/2 2/2p 3")), plain("4/2 2/2 3"), seed=1) is None


def test_weights_for_patches_as_they_are_serve_for_enlarged_ones() -> None:
    trained = Network(LitePlan(arch="efficientnet-lite"))
    larger = changed(trained, LitePlan(arch="efficientnet-lite", enlarge=2))
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(larger.state_dict()[name], value)
    back = changed(larger, trained.plan)
    assert torch.equal(back.head.classifier.weight, trained.head.classifier.weight)
    assert reshaped(trained, LitePlan(arch="efficientnet-lite", size=1, enlarge=2), 1) is None


def test_weights_stay_float32_unless_they_were_not() -> None:
    made = changed(Network(PLANS["dense alone"](4)), PLANS["dense alone"](8))
    assert {p.dtype for p in made.parameters()} == {torch.float32}
