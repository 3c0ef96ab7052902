"""Runs as a table in text: one part for each validation set, whose scores can be compared."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from slidescan_train.runs.comparison import RunSummary

HEADER = ("epochs", "best AUC", "last AUC", "loss", "accuracy", "images/s", "hours", "state")
MOST = 6
"""Settings of a run that are listed; `--all` lists more."""


def tables(runs: Sequence[RunSummary], width: int | None = None, all_settings: bool = False) -> str:
    """Show the runs by validation set, in the given order within each.

    The last column, the settings that differ, is wrapped to a terminal of `width` characters.
    """
    sets = list(dict.fromkeys(run.origin.validation for run in runs))
    parts = []
    if len(sets) > 1:
        parts.append(
            f"{len(sets)} validation sets: compare AUC, loss and accuracy within one only.\n"
        )
    ordered = sorted(runs, key=lambda run: sets.index(run.origin.validation))
    for _, group in groupby(ordered, key=lambda run: run.origin.validation):
        found = list(group)
        parts += [*_titles(found), table(found, width, all_settings), ""]
    return "\n".join(parts).rstrip("\n")


def _titles(runs: Sequence[RunSummary]) -> Iterator[str]:
    """What all of them were validated on, and trained on where that is the same."""
    origin = runs[0].origin
    if origin.validation is None:
        return
    same = len({run.origin.data for run in runs}) == 1
    yield f"validation  {origin.validation}{f' of {origin.data}' if same else ''}"


def table(runs: Sequence[RunSummary], width: int | None = None, all_settings: bool = False) -> str:
    """Show a line for each run, in the given order; scores are of the validation.

    Teachers, start and the number of training patches come first, where any run has them.
    """
    origins = {
        "teacher": [" + ".join(run.origin.teachers) or "-" for run in runs],
        "start": [run.origin.start for run in runs],
        "trained on": [
            "-" if run.origin.training is None else f"{run.origin.training:,}" for run in runs
        ],
    }
    shown = {name: column for name, column in origins.items() if set(column) != {"-"}}
    columns = [["run", *(run.name for run in runs)]]
    columns += [[name, *column] for name, column in shown.items()]
    columns += map(list, zip(HEADER, *map(_scores, runs), strict=True))
    widths = [max(map(len, column)) for column in columns]
    settings = [_settings(run, all_settings) for run in runs]
    last = ["settings that differ" if any(settings) else "", *settings]
    left = sum(widths) + 2 * len(widths)
    names = 1 + len({"teacher", "start"} & shown.keys())
    return "\n".join(
        _line(row, widths, names, _wrapped(text, None if width is None else max(width - left, 24)))
        for row, text in zip(zip(*columns, strict=True), last, strict=True)
    )


def _scores(run: RunSummary) -> tuple[str, ...]:
    best = f"{_number(run.best_auc, 4)} ({run.best_epoch})" if run.best_epoch else "-"
    return (
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


def _settings(run: RunSummary, everything: bool) -> str:
    """Settings as for --set; a plan is one word, and of many settings the first few are listed."""
    differing: Mapping[str, str] = run.differing
    if everything:
        return " ".join(f"{key}={value}" for key, value in differing.items())
    said = [f"{key}={value}" for key, value in differing.items() if not key.startswith("plan.")]
    if any(key.startswith("plan.") for key in differing):
        said.insert(0, f"plan={run.plan}")
    more = len(said) - MOST
    return " ".join(said if more <= 1 else [*said[:MOST], f"and {more} more (--all)"])


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None or not text:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _line(row: Sequence[str], widths: Sequence[int], names: int, last: Sequence[str]) -> str:
    """Left-align the first `names` columns and the state, right-align numbers between them."""
    cells = [
        text.ljust(w) if at < names or at == len(row) - 1 else text.rjust(w)
        for at, (text, w) in enumerate(zip(row, widths, strict=True))
    ]
    indent = " " * (sum(widths) + 2 * len(widths))
    return f"\n{indent}".join(["  ".join([*cells, last[0]]).rstrip(), *last[1:]])
