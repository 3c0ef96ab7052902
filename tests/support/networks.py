"""Small networks for tests: plans in shorthand, all weights drawn from one seed."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from slidescan.networks.network import Network
from slidescan.networks.plan import HeadPlan, NasnetPlan, PlainPlan, Plan

KINDS = {"N": "normal", "R": "reduction"}

Module = TypeVar("Module", bound=nn.Module)


def plan(
    stem: str, cells: str, pool: str = "mean", grid: int = 1, filters: int = 4, dense: int = 4
) -> NasnetPlan:
    """A plan from its shorthand.

    `stem` lists kernel/stride ("4/2 3", with a p for a pool), `cells` the kinds ("R N2": 2 for
    double separables), `dense` the filters of the stem.
    """
    return NasnetPlan.model_validate(
        {
            "stem": layers(stem, dense),
            "cells": [
                {"kind": KINDS[part[0]], "filters": filters, "separables": int(part[1:] or 1)}
                for part in cells.split()
            ],
            "head": {"pool": pool, "grid": grid},
        }
    )


def plain(stem: str, pool: str = "mean", grid: int = 1, filters: int = 8) -> PlainPlan:
    """A plan of dense layers alone."""
    head = HeadPlan.model_validate({"pool": pool, "grid": grid})
    return PlainPlan.model_validate(
        {"arch": "plain", "layers": layers(stem, filters), "head": head}
    )


def layers(shorthand: str, filters: int) -> list[dict[str, int | None]]:
    parts = [part.rstrip("p").partition("/") for part in shorthand.split()]
    return [
        {
            "kernel": int(kernel),
            "stride": int(stride or 1),
            "filters": None if text.endswith("p") else filters,
        }
        for text, (kernel, _, stride) in zip(shorthand.split(), parts, strict=True)
    ]


def network(plan: Plan, seed: int = 0) -> Network:
    """A float64 network in evaluation mode, all its parameters and statistics random."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights, which are replaced
        return randomise(Network(plan).double().eval(), seed)


def randomise(module: Module, seed: int = 0) -> Module:
    """Draw every weight and every BatchNorm statistic, the classifier's too, from `seed`.

    Convolutions keep the variance of what they read, so that every branch counts in the sum.
    """
    rng = torch.Generator().manual_seed(seed)

    def draw(target: Tensor, low: float, high: float) -> None:
        value = torch.rand(target.shape, generator=rng, dtype=torch.float64)
        target.copy_(value * (high - low) + low)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                bound = (3 / part.weight[0].numel()) ** 0.5
                draw(part.weight, -bound, bound)
                if part.bias is not None:
                    draw(part.bias, -1, 1)
            elif isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                draw(part.weight, 0.5, 1.5)
                draw(part.bias, -0.5, 0.5)
                draw(part.running_mean, -0.5, 0.5)
                draw(part.running_var, 0.5, 2)
    return module


def image(height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
    """Noise of whole pixel values, (count, 3, height, width) in float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=rng).double()
