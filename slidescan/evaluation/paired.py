"""A paired comparison: several tables of predictions for the same patches, against the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slidescan.evaluation.mistakes import BY_FAR, counts, least_wrong
from slidescan.evaluation.patch_report import about_intervals, metric_note, notes
from slidescan.evaluation.report import Difference, Metric, Report
from slidescan.evaluation.scores import Scores
from slidescan.pictures import diagrams
from slidescan.statistics.arrays import Counts, Floats
from slidescan.statistics.bootstrap import LEVEL, Interval, bootstrap
from slidescan.statistics.curves import roc
from slidescan.statistics.delong import delong_p
from slidescan.statistics.metrics import Evaluation, OperatingPoints, names

OF_ONE_TABLE = ("precision-recall.png", "reliability.png", "histogram.png")
"""Pictures that an earlier evaluation of a single table may have left in the folder."""


def compare(
    tables: Mapping[str, Scores],
    choices: OperatingPoints,
    resamples: int,
    seed: int,
    on_resample: Callable[[], object] = lambda: None,
) -> Report:
    """Every metric of each table, and its difference from the first table.

    tables: two or more, by the name to print; the same patches in the same order. Every resample
    draws the same patches (slides where they are known) from all tables, so the interval of a
    difference is that of the pairs. DeLong's p-value of the ROC areas is added where the patches
    are not grouped, because the test takes them as independent.
    """
    first = next(iter(tables.values()))
    of, units = first.groups()
    found = [Evaluation(scores.labels, scores.p, choices) for scores in tables.values()]

    def statistic(counts: Counts) -> Floats:
        drawn = counts if first.slides is None else counts[of]
        rows = np.array([each.values(drawn) for each in found])
        return np.concatenate([rows, rows[1:] - rows[0]]).ravel()

    results = bootstrap(statistic, units, resamples, seed, LEVEL, on_resample)
    keys = names(choices)
    table = [results[i : i + len(keys)] for i in range(0, len(results), len(keys))]
    values, differences = table[: len(tables)], [None, *table[len(tables) :]]
    p_values = [float("nan")] + [
        delong_p(first.labels, first.p, scores.p) if first.slides is None else float("nan")
        for scores in list(tables.values())[1:]
    ]
    metrics = [
        _metric(key, name, table, values[t][m], resamples, _difference(d, m, p_values[t], key))
        for m, (key, name) in enumerate(keys.items())
        for t, (table, d) in enumerate(zip(tables, differences, strict=True))
    ]
    positives, count = int(first.labels.sum()), len(first)
    how = about_intervals(first, units, resamples, seed)
    wrong, by_far = counts(least_wrong(list(tables.values())), choices.threshold)
    return Report(
        f"{count:,} patches, {positives:,} with tumour; differences from {next(iter(tables))}",
        {
            "predictions": list(tables),
            "patches": count,
            "with_tumour": positives,
            "slides": None if first.slides is None else units,
            "choices": asdict(choices),
            "interval": how,
            "wrong_in_all": {"patches": wrong, f"by_more_than_{BY_FAR:g}": by_far},
        },
        metrics,
        [*notes(first, units, resamples, how), _wrong_in_all(len(tables), wrong, by_far)],
        LEVEL,
    )


def _wrong_in_all(tables: int, wrong: int, by_far: int) -> str:
    doubt = f", on {by_far:,} by more than {BY_FAR:g}: look at their labels" if by_far else ""
    return f"All {tables} tables are wrong on {wrong:,} patches{doubt}."


def _difference(
    found: list[Interval] | None, place: int, p_value: float, key: str
) -> Difference | None:
    """From the first table, which has none."""
    if found is None:
        return None
    result = found[place]
    return Difference(
        result.value, result.low, result.high, p_value if key == "roc_auc" else float("nan")
    )


def _metric(
    key: str,
    name: str,
    table: str,
    result: Interval,
    resamples: int,
    difference: Difference | None,
) -> Metric:
    note = metric_note(key, result, resamples)
    return Metric(key, name, result.value, result.low, result.high, note, table, difference)


def draw(folder: Path, tables: Mapping[str, Scores], report: Report) -> None:
    """Write roc.png with the ROC curve of each table, and remove pictures of one table alone.

    Raises `WriteError`.
    """
    curves = {name: roc(scores.labels, scores.p) for name, scores in tables.items()}
    for name in OF_ONE_TABLE:
        (folder / name).unlink(missing_ok=True)
    diagrams.roc_curves(folder / "roc.png", curves, report.title, diagrams.ONE_CLASS)
