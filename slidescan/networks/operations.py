"""Counts the arithmetic of a network, without weights and without computing anything."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch.utils.flop_counter import FlopCounterMode

from slidescan.geometry import PATCH_PX
from slidescan.networks.network import Network

OUTPUTS = (16, 32, 48)
"""Outputs along a side of the inputs that `per_cell` compares."""


def per_patch(network: Network) -> float:
    """Floating-point operations of one patch; a multiplication and an addition are two."""
    return _count(copy.deepcopy(network).to("meta").eval(), PATCH_PX)


def per_cell(network: Network) -> float:
    """Operations that each further cell of a large map costs, without the halo.

    An input of n x n outputs takes a n^2 + b n + c operations, where b comes from the halo. Three
    sizes give a. Raises `ValueError` for a network with zero padding, which has no map.
    """
    if not network.plan.valid:
        raise ValueError(f"{network.plan.arch} pads with zeros and takes patches alone")
    on_meta = copy.deepcopy(network).to("meta").eval()
    counts = [_count(on_meta, network.field.extent(n)) for n in OUTPUTS]
    first, second = (after - before for before, after in pairwise(counts))
    return (second - first) / (2 * (OUTPUTS[1] - OUTPUTS[0]) ** 2)


def _count(network: Network, side: int) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty((1, 3, side, side), device="meta"))
    return float(counter.get_total_flops())
