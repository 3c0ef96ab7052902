"""Heads: from features to two logits, pooled over a grid of cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slidescan.networks.plan import HeadPlan

CLASSES = 2
"""Normal and tumour, for a softmax."""


class Head(nn.Module):
    """ReLU, a pool of features, the classifier, a pool of its outputs; one pool is the identity."""

    def __init__(self, channels: int, features: nn.Module, answers: nn.Module, outputs: int):
        super().__init__()
        self.relu = nn.ReLU()
        self.features = features
        self.classifier = nn.Conv2d(channels, outputs, 1)
        self.answers = answers

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to logits (N, 2, h - grid + 1, w - grid + 1)."""
        logits: Tensor = self.answers(self.classifier(self.features(self.relu(x))))
        return logits


class LogSumExp(nn.Module):
    """The logarithm of the mean of exponentials over a square (Pinheiro and Collobert 2015).

    It lies between the mean and the maximum.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        side = self.side
        # Shifted copies: each window subtracts its own maximum before the exponential.
        copies = [
            x[:, :, r : (r - side + 1) or None, c : (c - side + 1) or None]
            for r in range(side)
            for c in range(side)
        ]
        highest = copies[0]
        for shifted in copies[1:]:
            highest = torch.maximum(highest, shifted)
        total = torch.exp(copies[0] - highest)
        for shifted in copies[1:]:
            total = total + torch.exp(shifted - highest)
        return highest + torch.log(total) - 2 * math.log(side)


class Attention(nn.Module):
    """The mean of the cells' logits, with weights that the classifier predicts for each cell.

    Attention for multiple instances (Ilse et al. 2018) with a sigmoid instead of the softmax: a
    weight does not depend on the window, so it is computed once for each cell.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(side, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """The last channel is the weight's logit."""
        weight = torch.sigmoid(x[:, -1:])
        pooled: Tensor = self.pool(x[:, :-1] * weight) / self.pool(weight)
        return pooled


def make_head(plan: HeadPlan, channels: int) -> Head:
    """The head of a network without padding."""
    none, side = nn.Identity(), plan.grid
    match plan.pool:
        case "mean":
            return Head(channels, nn.AvgPool2d(side, stride=1), none, CLASSES)
        case "max":
            return Head(channels, nn.MaxPool2d(side, stride=1), none, CLASSES)
        case "log-sum-exp":
            return Head(channels, none, LogSumExp(side), CLASSES)
        case "attention":
            return Head(channels, none, Attention(side), CLASSES + 1)


def global_head(channels: int) -> Head:
    """The head of published classifiers: global average pooling."""
    return Head(channels, nn.AdaptiveAvgPool2d(1), nn.Identity(), CLASSES)
