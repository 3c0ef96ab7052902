"""BatchNorm's running statistics over micro-batches and processes."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


class Statistics:
    """Updates BatchNorm's running statistics once per step, from all micro-batches.

    Each micro-batch starts from the statistics before the step. At the end they have moved towards
    the mean over all micro-batches, as far as one micro-batch after the other would move them.
    """

    def __init__(self, network: nn.Module, fabric: Fabric) -> None:
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self._counts = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._running = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        self._momentum = norms[0].momentum if norms and norms[0].momentum else 0.0
        self._fabric = fabric

    def begin(self) -> None:
        """Keep the statistics before a step."""
        self._before = [b.clone() for b in self._running]
        self._counted = [b.clone() for b in self._counts]
        self._sum = [torch.zeros_like(b) for b in self._running]

    def collect(self) -> None:
        """Add the statistics of a micro-batch and restore those before the step."""
        torch._foreach_add_(self._sum, self._running)
        torch._foreach_copy_(self._running, self._before)

    def end(self, parts: int) -> None:
        """Set the statistics after the last of `parts` micro-batches, over all processes."""
        if not self._running:
            return
        # One per step, like the statistics, however many micro-batches this process had.
        torch._foreach_copy_(self._counts, [count + 1 for count in self._counted])
        flat = total(self._fabric, torch.cat(self._sum)) / parts
        means = torch.split(flat, [len(b) for b in self._running])
        further = (1 - (1 - self._momentum) ** parts) / self._momentum
        torch._foreach_lerp_(self._running, list(means), further)


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum over all processes."""
    total = fabric.all_reduce(tensor, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total
