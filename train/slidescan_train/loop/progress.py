"""The progress of a run: finished epochs, and the steps of the current one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidescan_train.loop.history import Epoch
from slidescan_train.loop.learner import Outcome


@dataclass
class Progress:
    """The progress of a run; with the learner's state, all that a resumed run needs."""

    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the finished steps of the current epoch."""
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    """P(tumour) of the patches of those steps."""
    seconds: float = 0.0
    """Spent on them."""
    waited_s: float = 0.0

    @property
    def epoch(self) -> int:
        """The number of the current epoch, from 1."""
        return len(self.history) + 1

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.losses.append(outcome.loss)
        self.probabilities.append(outcome.probabilities)
        self.seconds += seconds
        self.waited_s += outcome.waited_s

    def close(self, epoch: Epoch) -> None:
        self.history.append(epoch)
        self.losses, self.probabilities, self.seconds, self.waited_s = [], [], 0.0, 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the probabilities of each step, by name."""
        return {f"progress.{i}": torch.from_numpy(p) for i, p in enumerate(self.probabilities)}

    def numbers(self) -> dict[str, Any]:
        history = [asdict(epoch) for epoch in self.history]
        times = {"seconds": self.seconds, "waited_s": self.waited_s}
        return {"history": history, "losses": self.losses, **times}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> Progress:
        return cls(
            [Epoch(**epoch) for epoch in numbers["history"]],
            numbers["losses"],
            [tensors[f"progress.{i}"].numpy() for i in range(len(numbers["losses"]))],
            numbers["seconds"],
            numbers["waited_s"],
        )
