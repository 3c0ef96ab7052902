"""The history of a run as CSV tables: a row for each optimiser step and each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
    averaged weights on the first validation set, without augmentation.
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
    further: Mapping[str, float] = field(default_factory=dict)
    """Scores on further validation sets by their columns, e.g. `validation_auc.split`."""


SCORES = ("loss", "accuracy", "auc")


def column(score: str, name: str) -> str:
    """The column, and the key of `Epoch.further`, of a score on the validation set `name`."""
    return f"validation_{score}.{name}"


def further_sets(epochs: Sequence[Epoch]) -> list[str]:
    """Names of the validation sets beside the first."""
    start = column("auc", "")
    keys = epochs[-1].further if epochs else ()
    return [key.removeprefix(start) for key in keys if key.startswith(start)]


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
    names: list[str] = _columns(kind)
    kept: list[Step | Epoch] = list(rows)
    more: list[str] = list(_scores(kept[-1])) if kept else []
    write_table(path, (*names, *more), (_cells(row, names, more) for row in kept))


def _scores(row: Step | Epoch) -> Mapping[str, float]:
    """Scores on further validation sets."""
    return row.further if isinstance(row, Epoch) else {}


def _cells(row: Step | Epoch, names: Sequence[str], more: Sequence[str]) -> list[object]:
    scores = _scores(row)
    return [*(getattr(row, name) for name in names), *(scores.get(name) for name in more)]


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read the rows of `path`. Raises `DataError` if it is not such a table."""
    types: dict[str, Callable[[Any], Any]] = {"int": int, "float": float}
    declared = {each.name: str(each.type) for each in fields(kind)}
    convert = {name: types[declared[name]] for name in _columns(kind)}
    rows = []
    for line, row in read_table(path, list(convert)):
        try:
            values = {name: make(row[name]) for name, make in convert.items()}
            if further := _further(row):
                values["further"] = further
            rows.append(kind(**values))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: line {line}: {error}") from error
    return rows


def _columns(kind: type[Row]) -> list[str]:
    """The columns that every table of this kind has."""
    return [each.name for each in fields(kind) if each.name != "further"]


def _further(row: Mapping[str, str | None]) -> dict[str, float]:
    starts = tuple(column(score, "") for score in SCORES)
    cells = ((key, text) for key, text in row.items() if key)  # not those beyond the header
    return {key: float(text or "nan") for key, text in cells if key.startswith(starts)}
