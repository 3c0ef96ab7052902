"""Small networks for tests: a plan in a few characters, every weight drawn from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from slidescan.nasnet import Network, Plan

KINDS = {"N": "normal", "R": "reduction"}

Module = TypeVar("Module", bound=nn.Module)


def plan(
    stem: str, cells: str, pool: str = "mean", grid: int = 1, filters: int = 4, dense: int = 4
) -> Plan:
    """A plan from its shorthand.

    `stem` lists kernel/stride ("4/2 3"), `cells` the kinds ("R N2": 2 for double separables),
    `dense` the filters of the stem.
    """
    kernels = [part.partition("/") for part in stem.split()]
    return Plan.model_validate(
        {
            "stem": [
                {"kernel": int(kernel), "stride": int(stride or 1), "filters": dense}
                for kernel, _, stride in kernels
            ],
            "cells": [
                {"kind": KINDS[part[0]], "filters": filters, "separables": int(part[1:] or 1)}
                for part in cells.split()
            ],
            "head": {"pool": pool, "grid": grid},
        }
    )


def network(plan: Plan, seed: int = 0) -> Network:
    """A float64 network in evaluation mode, all its parameters and statistics random."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights; they are replaced
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


def one_thread() -> Iterator[None]:
    """Body of a fixture: threads gain nothing on nets this small, and beside another busy process
    they wait for each other a hundred times longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def image(height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
    """Noise of whole pixel values, (count, 3, height, width) in float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=rng).double()
