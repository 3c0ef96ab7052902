"""The history of a run as CSV tables: a row for each optimiser step and each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from slidescan.errors import DataError
from slidescan.tools.csv_tables import read_table, write_table

EPOCHS, STEPS = "metrics.csv", "steps.csv"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step."""

    number: int
    """From 1, over the whole run."""
    epoch: int
    learning_rate: float
    loss: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """The scores of one epoch.

    Training scores are of the augmented patches during the epoch; validation scores are of the
    averaged weights on the held-out patches, without augmentation.
    """

    number: int
    learning_rate: float
    """Of the last step."""
    training_loss: float
    training_accuracy: float
    training_auc: float
    validation_loss: float
    """Negative log-likelihood, natural logarithm."""
    validation_accuracy: float
    """At 0.5."""
    validation_auc: float
    """Area under the ROC curve."""
    images_per_second: float
    waiting: float
    """Share of the training time spent waiting for batches."""
    seconds: float


def best(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the first epoch with the highest validation AUC; None if no epoch has one."""
    scored = (epoch for epoch in epochs if not math.isnan(epoch.validation_auc))
    return max(scored, key=lambda epoch: epoch.validation_auc, default=None)


def finished(epochs: Sequence[Epoch], planned: int, patience: int | None) -> bool:
    """Whether all `planned` epochs are done, or the last `patience` epochs were not better."""
    top = best(epochs)
    since = len(epochs) - (top.number if top else 0)
    return len(epochs) >= planned or bool(patience and epochs and since >= patience)


Row = TypeVar("Row", Step, Epoch)


def write(path: Path, rows: Iterable[Row], kind: type[Row]) -> None:
    """Replace the table at `path` by `rows`."""
    names = [field.name for field in fields(kind)]
    write_table(path, names, map(attrgetter(*names), rows))


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read the rows of `path`. Raises `DataError` if it is not such a table."""
    types: dict[str, Callable[[Any], Any]] = {"int": int, "float": float}
    convert = {field.name: types[str(field.type)] for field in fields(kind)}
    rows = []
    for line, row in read_table(path, list(convert)):
        try:
            rows.append(kind(**{name: make(row[name]) for name, make in convert.items()}))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: line {line}: {error}") from error
    return rows
