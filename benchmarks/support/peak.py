"""Operations and bytes that a network takes for a pixel, and the peaks of a device."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from slidescan.engines.backend import Precision
from slidescan.engines.torch_engine import TYPES, Scores
from slidescan.networks.network import Network

LEAST_S = 0.5
"""Least duration of a measurement."""
COUNTED = (16, 32, 48)
"""Outputs a side of the inputs on which operations are counted."""


def seconds(work: Callable[[], object]) -> float:
    """Measure the seconds of one call, among many in a row."""
    for _ in range(3):  # builds kernels, captures graphs
        work()
    count, taken = 1, 0.0
    while taken < LEAST_S:
        _wait()
        started = time.perf_counter()
        for _ in range(count):
            work()
        _wait()
        taken = time.perf_counter() - started
        count *= 2
    return taken / (count / 2)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Traffic(TorchDispatchMode):
    """Adds up the bytes of what operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = tree_leaves((args, kwargs, found))
            self.bytes += sum(t.nbytes for t in touched if isinstance(t, torch.Tensor))
        return found


def counted(network: Network, precision: Precision) -> tuple[float, float]:
    """Count floating-point operations and bytes for a pixel of the scan plane, halo excluded.

    A multiplication and an addition are two operations. Both counts are quadratic in the number n
    of outputs along a side: a n^2 for the pixels, b n for the halo and c for the weights. Three
    sizes of the input give a.
    """
    scores = Scores(copy.deepcopy(network).eval(), TYPES[precision]).to("meta")
    found = []
    for outputs in COUNTED:
        extent = network.field.extent(outputs)
        pixels = torch.empty((1, extent, extent, 3), dtype=torch.uint8, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as operations, Traffic() as traffic:
            scores(pixels)
        found.append((operations.get_total_flops(), traffic.bytes))
    step = COUNTED[1] - COUNTED[0]
    second = np.diff(np.array(found, np.float64), n=2, axis=0)[0] / (2 * step**2)
    flops, moved = second / network.field.stride**2
    return float(flops), float(moved)


def peaks(device: str, precision: Precision, side: int, size: int) -> tuple[float, float]:
    """Measure operations a second of a matrix product, and bytes a second of a copy.

    The matrices have `side` rows and columns; a copy of `size` bytes reads and writes each.
    """
    a, b = (torch.randn((side, side), device=device).to(TYPES[precision]) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    torch.backends.cuda.matmul.allow_tf32 = False
    product = 2 * side**3 / seconds(lambda: a @ b)
    return product, 2 * size / seconds(lambda: target.copy_(source))
