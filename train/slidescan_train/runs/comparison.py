"""Runs side by side: what each came to, and which settings tell them apart."""

from __future__ import annotations

import math
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from slidescan.errors import DataError
from slidescan.tools.settings_diff import flat
from slidescan_train.loop import history
from slidescan_train.loop.history import Epoch

DEPTH = 3
"""Folders below the given one in which runs are looked for."""
CONFIG = "config.yaml"
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run came to; scores that it does not have are NaN."""

    name: str
    """Its folder, from the one that was searched."""
    epochs: int
    """Done."""
    of: int
    """Planned."""
    best_auc: float
    best_epoch: int | None
    last_auc: float
    last_loss: float
    last_accuracy: float
    images_per_second: float
    """Median over the epochs."""
    hours: float
    finished: bool
    """All epochs done, or stopped for want of a better one."""
    differing: Mapping[str, str] = field(default_factory=dict)
    """Settings that are not the same in all runs, as for `--set`, values in JSON."""
    history: Sequence[Epoch] = ()


def compare(
    root: Path, warn: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=3)
) -> list[RunSummary]:
    """The runs in `root` and in folders up to 3 below it, best AUC first, those without one last.

    A run whose files are damaged is left out and named in a call of `warn`. Raises `DataError`
    where there is no run.
    """
    summaries, settings = [], []
    for folder in find(root):
        try:
            config = _settings(folder / CONFIG)
            summaries.append(_summary(root, folder, config))
            settings.append(flat(config))
        except DataError as error:
            warn(f"{error}; left out")
    if not summaries:
        raise DataError(
            f"{root}: no run in it that can be read; a run's folder has {CONFIG} and "
            f"{history.EPOCHS}, give one or the folder above"
        )
    differing = _differing(settings)
    found = [replace(s, differing=d) for s, d in zip(summaries, differing, strict=True)]
    return sorted(found, key=lambda run: (math.isnan(run.best_auc), -run.best_auc, run.name))


def find(root: Path) -> Iterator[Path]:
    """Folders of runs, in the order of their names; `root` may be one."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the runs")
    for place, folders, files in os.walk(root, followlinks=True):
        folder = Path(place)
        folders.sort()
        if len(folder.relative_to(root).parts) == DEPTH:
            folders.clear()
        if CONFIG in files and {history.EPOCHS, history.STEPS} & set(files):
            yield folder


def _settings(path: Path) -> Mapping[str, Any]:
    """As they were written: another version's runs compare as well."""
    try:
        settings = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML, {_where(error)}") from error
    if not isinstance(settings, Mapping) or not isinstance(settings.get("epochs"), int):
        raise DataError(f"{path}: not the settings of a run: it has no number of epochs")
    return settings


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _summary(root: Path, folder: Path, config: Mapping[str, Any]) -> RunSummary:
    table = folder / history.EPOCHS
    epochs = history.read(table, Epoch) if table.exists() else []
    best = history.best(epochs)
    last = epochs[-1] if epochs else None
    return RunSummary(
        name=folder.resolve().name if folder == root else folder.relative_to(root).as_posix(),
        epochs=len(epochs),
        of=config["epochs"],
        best_auc=best.validation_auc if best else NAN,
        best_epoch=best.number if best else None,
        last_auc=last.validation_auc if last else NAN,
        last_loss=last.validation_loss if last else NAN,
        last_accuracy=last.validation_accuracy if last else NAN,
        images_per_second=median(e.images_per_second for e in epochs) if epochs else NAN,
        hours=sum(epoch.seconds for epoch in epochs) / 3600 if epochs else NAN,
        finished=history.finished(epochs, config["epochs"], config.get("patience")),
        history=epochs,
    )


def _differing(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    keys = dict.fromkeys(key for each in settings for key in each)  # as a set, but in order
    differ = [key for key in keys if len({each.get(key) for each in settings}) > 1]
    return [{key: each.get(key, "absent") for key in differ} for each in settings]


HEADER = ("run", "epochs", "best AUC", "last AUC", "loss", "accuracy", "images/s", "hours", "state")


def table(runs: Sequence[RunSummary], width: int | None = None) -> str:
    """A line for each run, in the given order; scores are of the validation.

    The last column, the settings that differ, is wrapped to a terminal of `width` characters.
    """
    rows = [HEADER, *map(_row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    settings = [_said(run.differing) for run in runs]
    last = ["settings that differ" if any(settings) else "", *settings]
    left = sum(widths) + 2 * len(widths)
    return "\n".join(
        _line(row, widths, _wrapped(text, None if width is None else max(width - left, 24)))
        for row, text in zip(rows, last, strict=True)
    )


def _row(run: RunSummary) -> tuple[str, ...]:
    best = f"{_number(run.best_auc, 4)} ({run.best_epoch})" if run.best_epoch else "-"
    return (
        run.name,
        f"{run.epochs}/{run.of}",
        best,
        _number(run.last_auc, 4),
        _number(run.last_loss, 4),
        _number(run.last_accuracy, 4),
        _number(run.images_per_second, 0),
        _number(run.hours, 2),
        "finished" if run.finished else "unfinished",
    )


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _said(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None or not text:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _line(row: Sequence[str], widths: Sequence[int], last: Sequence[str]) -> str:
    """Names to the left, numbers to the right, what is wrapped beneath itself."""
    name, *numbers, state = row
    cells = [name.ljust(widths[0])]
    cells += [text.rjust(w) for text, w in zip(numbers, widths[1:-1], strict=True)]
    cells.append(state.ljust(widths[-1]))
    indent = " " * (sum(widths) + 2 * len(widths))
    return f"\n{indent}".join(["  ".join([*cells, last[0]]).rstrip(), *last[1:]])
