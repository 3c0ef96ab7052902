"""Models as torch modules."""

from __future__ import annotations

import os

from torch import Tensor, nn

from slidescan.geometry import PATCH_PX
from slidescan.models import model
from slidescan.models.card import Card
from slidescan.networks.network import Network, probability


def load(source: str | os.PathLike[str] = "default") -> Classifier:
    """Load a model as a torch module, in evaluation mode on the CPU.

    Args:
        source: a shipped model ("default", "best", "fast"), FILE.safetensors with its card
            FILE.json beside it, or a run's folder.

    Raises:
        ModelError: weights or card are missing or damaged, or do not belong together.
    """
    loaded = model.load(str(source))
    return Classifier(loaded.network, loaded.card).eval()


class Classifier(nn.Module):
    """A patch classifier, and the fully convolutional network that it is.

    Input is RGB, (N, 3, H, W), uint8 or float with values 0..255; normalisation is part of the
    network. H and W are at least `field_px`. An input gives (h, w) cells, h = (H - field_px) //
    stride_px + 1 and w likewise, so a patch of 96 x 96 px gives one. A model that pads with zeros
    (`card.plan.valid` is false) takes patches only.

    Parameters do not require gradients; `requires_grad_()` turns them on.
    """

    def __init__(self, network: Network, card: Card) -> None:
        super().__init__()
        self.network = network
        self.card = card
        """Scores, data, split and lineage of the weights."""

    @property
    def field_px(self) -> int:
        """Side of the square that a cell depends on, in pixels."""
        return self.card.field_px

    @property
    def stride_px(self) -> int:
        """Pixels between neighbouring cells."""
        return self.card.stride_px

    @property
    def mpp(self) -> float:
        """Micrometres per pixel that the input should have."""
        return self.card.mpp

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2, h, w) of normal and tumour, calibrated where the model is.

        Raises:
            ValueError: the input has another shape than the class describes.
        """
        logits: Tensor = self.network(self._pixels(x))
        return logits

    def probability(self, x: Tensor) -> Tensor:
        """P(tumour in the central 32 x 32 px of each cell's field), (N, h, w)."""
        return probability(self(x))

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads of each cell, (N, channels, h, w).

        A head that pools its grid of answers, not of features (log-sum-exp, attention), reads
        several vectors for a cell; this is their mean.
        """
        network = self.network
        normalised = network.normalise(network.crop(self._pixels(x)))
        found: Tensor = network.head.features(network.head.relu(network.body(normalised)))
        answers = getattr(network.plan, "head", None)
        if answers is not None and answers.pool in ("log-sum-exp", "attention"):
            found = nn.functional.avg_pool2d(found, answers.grid, stride=1)
        return found

    def _pixels(self, x: Tensor) -> Tensor:
        """Check the shape and convert to the type of the weights."""
        field = self.field_px
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < field:
            raise ValueError(
                f"input {tuple(x.shape)}: needs (N, 3, H, W) with H and W of {field} or more"
            )
        if not self.network.plan.valid and x.shape[2:] != (PATCH_PX, PATCH_PX):
            raise ValueError(
                f"input {tuple(x.shape)}: {self.card.name} pads with zeros, so it takes patches of "
                f"{PATCH_PX} x {PATCH_PX} px only"
            )
        return x.to(next(self.network.parameters()).dtype)
