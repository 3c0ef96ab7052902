"""Report on predictions of patches: metrics with intervals, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slidescan.evaluation.report import Metric, Report
from slidescan.evaluation.scores import Scores
from slidescan.pictures import diagrams
from slidescan.statistics.arrays import Counts, Floats
from slidescan.statistics.bootstrap import FEW, LEVEL, Interval, bootstrap
from slidescan.statistics.curves import reliability
from slidescan.statistics.metrics import BINS, Evaluation, OperatingPoints, names
from slidescan.tools.settings_diff import JSON

ONE_CLASS = "all patches have one label"
NOTHING = "no patch is labelled or called tumour"
RANKING = {"roc_auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity"} | {
    "sensitivity_at_specificity", "specificity_at_sensitivity"
}  # fmt: skip
"""Metrics that need both labels."""


def evaluate(
    scores: Scores,
    choices: OperatingPoints,
    resamples: int,
    seed: int,
    on_resample: Callable[[], object] = lambda: None,
) -> Report:
    """Compute every metric with its 95 % interval; slides are resampled where they are known."""
    scores = scores.ranked()
    evaluation = Evaluation(scores.labels, scores.p, choices)
    of, units = scores.groups()

    def statistic(counts: Counts) -> Floats:
        return evaluation.values(counts if scores.slides is None else counts[of])

    results = bootstrap(statistic, units, resamples, seed, LEVEL, on_resample)
    metrics = [
        Metric(key, name, found.value, found.low, found.high, metric_note(key, found, resamples))
        for (key, name), found in zip(names(choices).items(), results, strict=True)
    ]
    positives, count = int(scores.labels.sum()), len(scores)
    how = about_intervals(scores, units, resamples, seed)
    about: dict[str, JSON] = {
        "patches": count,
        "with_tumour": positives,
        "slides": None if scores.slides is None else units,
        "choices": asdict(choices),
        "interval": how,
    }
    title = f"{count:,} patches, {positives:,} with tumour"
    below = notes(scores, units, resamples, how)
    return Report(title, about, metrics, below, LEVEL, _tables(scores, evaluation))


def about_intervals(scores: Scores, units: int, resamples: int, seed: int) -> str:
    """How the intervals were made; "none" where nothing can be resampled."""
    if resamples == 0 or units < 2:
        return "none"
    unit = "patches" if scores.slides is None else "slides"
    return f"{LEVEL:.0%} percentile bootstrap, {resamples} resamples of {unit}, seed {seed}"


def metric_note(key: str, result: Interval, resamples: int) -> str:
    """Why a metric is undefined, or what its interval leaves out; "" for most."""
    if np.isnan(result.value):
        return ONE_CLASS if key in RANKING else NOTHING
    if result.undefined:
        return f"undefined in {result.undefined} of {resamples} resamples, which are left out"
    if not (np.isnan(result.low) or result.low <= result.value <= result.high):
        return "resampling biases it: the interval shows its spread only"
    return ""


def notes(scores: Scores, units: int, resamples: int, how: str) -> list[str]:
    """The lines below the table."""
    if resamples and units < 2:
        return ["No intervals: all patches are from one slide, which cannot be resampled."]
    lines = [f"Intervals: {how}."]
    if resamples and scores.slides is None:
        lines.append("Patches of one slide are not independent: --groups resamples slides.")
    elif resamples and units < FEW:
        lines.append(f"{units} slides give intervals that are too narrow; use at least {FEW}.")
    return lines


def _tables(scores: Scores, found: Evaluation) -> dict[str, JSON]:
    """Return the confusion matrix and the bins of the reliability diagram."""
    bins = reliability(scores.labels, scores.p, BINS)
    confusion = found.confusion(np.ones(len(scores), np.int64)).astype(int).tolist()
    rows = zip(
        bins.edges[:-1].tolist(), bins.counts.tolist(), bins.predicted, bins.observed, strict=True
    )
    return {
        "confusion": dict(zip(("normal", "tumour"), confusion, strict=True)),
        "reliability": [
            {
                "from": low,
                "patches": count,
                "predicted": float(predicted) if count else None,
                "observed": float(observed) if count else None,
            }
            for low, count, predicted, observed in rows
        ],
    }


def draw(folder: Path, scores: Scores, report: Report, threshold: float) -> None:
    """Write the PNGs of curves. Raises `WriteError`."""
    bounds = {
        m.key: f" ({m.low:.4f} to {m.high:.4f})" for m in report.metrics if np.isfinite(m.low)
    }
    diagrams.separately(folder, scores.labels, scores.p, report.title, bounds, threshold)
