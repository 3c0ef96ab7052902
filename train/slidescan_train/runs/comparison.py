"""Runs compared: the results of each, and the settings in which they differ."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from slidescan.errors import DataError
from slidescan.tools.regular_files import MB, read_regular
from slidescan.tools.settings_diff import flat
from slidescan_train.loop import history
from slidescan_train.loop.history import Epoch
from slidescan_train.recipe.yaml_files import load_yaml
from slidescan_train.runs.files import CONFIG
from slidescan_train.runs.provenance import Provenance, provenance

DEPTH = 3
"""Levels of folders below the given one that are searched for runs."""
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The results of a run; scores that it does not have are NaN."""

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
    """All epochs are done, or `patience` ended the run."""
    differing: Mapping[str, str] = field(default_factory=dict)
    """Settings that are not the same in all runs: keys as for `--set`, values in JSON."""
    history: Sequence[Epoch] = ()
    plan: str = ""
    """The network in a word, different for runs whose plans differ."""
    origin: Provenance = field(default_factory=Provenance)


def compare(
    root: Path, warn: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=3)
) -> list[RunSummary]:
    """Find the runs in `root` and in folders up to 3 below it: best AUC first, without one last.

    `warn` is called with one line for each run that is left out because its files are damaged.

    Raises:
        DataError: there is no run.
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
    plans = _plans(settings)
    found = [
        replace(summary, differing=d, plan=plan, origin=origin)
        for summary, d, plan, origin in zip(
            summaries, differing, plans, _named(summaries), strict=True
        )
    ]
    return sorted(found, key=lambda run: (math.isnan(run.best_auc), -run.best_auc, run.name))


def find(root: Path) -> Iterator[Path]:
    """Yield the folders of runs in the order of their names; `root` may be one."""
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
    """As they were written, unchecked, so that runs of other versions compare too."""
    try:
        settings = load_yaml(read_regular(path, MB))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML, {_where(error)}") from error
    if not isinstance(settings, Mapping) or not isinstance(settings.get("epochs"), int):
        raise DataError(f"{path}: not the settings of a run: it has no number of epochs")
    if not isinstance(settings.get("patience"), int | None):
        raise DataError(f"{path}: not the settings of a run: patience is no number")
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
        origin=provenance(folder),
    )


def _named(runs: Sequence[RunSummary]) -> list[Provenance]:
    """Their provenance, in which teachers and starts that are among the runs have their paths."""
    paths = {
        f"{name} {sha256[:8]}": f"{run.name}/{name}"
        for run in runs
        for sha256, name in (run.origin.models or {}).items()
    }
    return [
        replace(
            run.origin,
            teachers=tuple(paths.get(each, each) for each in run.origin.teachers),
            start=paths.get(run.origin.start, run.origin.start),
        )
        for run in runs
    ]


def _plans(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """A word for the plan of each, with a number where different plans would have the same."""
    words, seen = [], dict[str, list[Mapping[str, str]]]()
    for each in settings:
        plan = {key: value for key, value in each.items() if key.startswith("plan.")}
        alike = seen.setdefault(_plan(plan), [])
        if plan not in alike:
            alike.append(plan)
        number = alike.index(plan)
        words.append(f"{_plan(plan)}#{number + 1}" if number else _plan(plan))
    return words


def _plan(settings: Mapping[str, str]) -> str:
    """For example nasnet-a-32-64-128-128-R128-N128: filters of the layers, then of the cells."""
    parts = [settings.get("plan.arch", "nasnet-a").strip('"')]
    for group in "stem", "layers", "cells":
        for number in count():
            filters = settings.get(f"plan.{group}.{number}.filters")
            if filters is None:
                break
            kind = settings.get(f"plan.{group}.{number}.kind", '""').strip('"')
            parts.append(f"{kind[:1].upper()}{'pool' if filters == 'null' else filters}")
    parts += [settings[key] for key in ("plan.size",) if key in settings]
    return "-".join(parts)


def _differing(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    keys = dict.fromkeys(key for each in settings for key in each)  # as a set, but in order
    differ = [key for key in keys if len({each.get(key) for each in settings}) > 1]
    return [{key: each.get(key, "absent") for key in differ} for each in settings]
