"""Dropout before the classifier, in training only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from slidescan.networks.network import Network


class HeadDropout:
    """Sets a share of the classifier's input channels to 0 and enlarges the others to match.

    Srivastava et al. 2014. It is a hook on the network that is trained, so plans, saved weights and
    the averaged network know nothing of it. Each patch has its own mask, the same at all cells of
    the head's grid.
    """

    def __init__(self, network: Network, share: float) -> None:
        classifier = network.head.classifier
        self._share, self._channels = share, classifier.in_channels
        self._mask = torch.ones(1)
        if share:
            classifier.register_forward_pre_hook(self._apply)

    def draw(self, patches: int, rng: np.random.Generator, device: torch.device) -> None:
        """Draw the masks of the next forward pass."""
        if self._share:
            kept = rng.random((patches, self._channels, 1, 1)) >= self._share
            mask = (kept / (1 - self._share)).astype(np.float32)
            self._mask = torch.from_numpy(mask).to(device)

    def _apply(self, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        (x,) = inputs
        return x * self._mask.to(x.dtype)
