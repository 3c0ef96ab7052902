"""Diagrams of predictions against labels: ROC, precision-recall, confusion, reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from slidescan.pictures import style
from slidescan.statistics import curves
from slidescan.statistics.arrays import Labels, Probabilities
from slidescan.statistics.ranking import Curve

ONE_CLASS = "undefined: the patches are all of one class"
NORMAL_TUMOUR = ("normal", "tumour")


def validation(
    path: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float32], title: str
) -> None:
    """Write a PNG: ROC, precision-recall, confusion matrix at 0.5 and reliability diagram.

    Patches without a probability (NaN) are left out; the title counts them. Raises `WriteError`.
    """
    style.save(path, validation_figure(labels, probabilities, title))


def validation_figure(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], title: str
) -> Figure:
    """Return the figure that `validation` writes."""
    known = np.isfinite(probabilities)
    labels, p = np.asarray(labels)[known], np.asarray(probabilities)[known]
    about = [title, f"{len(p):,} patches, {int(labels.sum()):,} with tumour"]
    if not known.all():
        about.append(f"{np.count_nonzero(~known):,} without a probability left out")
    drawn, panels = style.figure(2, 2, "; ".join(filter(None, about)))
    _roc(panels[0], labels, p)
    _precision_recall(panels[1], labels, p)
    _confusion(panels[2], curves.confusion(labels, p))
    _reliability(panels[3], labels, p)
    return drawn


def separately(
    folder: Path,
    labels: Labels,
    p: Probabilities,
    title: str,
    intervals: Mapping[str, str],
    threshold: float,
) -> tuple[str, ...]:
    """Write a PNG each for ROC, precision-recall, reliability and scores; return their names.

    `intervals`, by the keys roc_auc, average_precision and ece, follow the values in the titles.
    Raises `WriteError`.
    """

    def draw(name: str, of: Callable[..., None], interval: str, *more: float) -> str:
        drawn, (panel,) = style.figure(1, 1, title)
        of(panel, labels, p, *more, interval=intervals.get(interval, ""))
        style.save(folder / name, drawn)
        return name

    return (
        draw("roc.png", _roc, "roc_auc", threshold),
        draw("precision-recall.png", _precision_recall, "average_precision", threshold),
        draw("reliability.png", _reliability, "ece"),
        draw("histogram.png", _histogram, "", threshold),
    )


def roc_curves(path: Path, curves: Mapping[str, Curve], title: str, undefined: str) -> None:
    """Write a PNG with several ROC curves by name, or `undefined` where none has an area.

    Raises `WriteError`.
    """
    style.save(path, roc_curves_figure(curves, title, undefined))


def roc_curves_figure(curves: Mapping[str, Curve], title: str, undefined: str) -> Figure:
    """Return the figure that `roc_curves` writes."""
    drawn, (panel,) = style.figure(1, 1, title)
    drawn.set_size_inches(6.4, 5.2)
    style.name(panel, "", "false positive rate", "true positive rate")
    _square(panel)
    panel.plot([0, 1], [0, 1], ":", color=style.GREY)
    for (name, curve), colour in zip(curves.items(), cycle(style.COLOURS), strict=False):
        if not np.isnan(curve.area):
            panel.plot(curve.x, curve.y, color=colour, label=f"{name}: AUC {curve.area:.3f}")
    style.legend(panel)
    if all(np.isnan(curve.area) for curve in curves.values()):
        style.note(panel, undefined)
    return drawn


def _histogram(
    panel: Axes, labels: Labels, p: Probabilities, threshold: float, interval: str
) -> None:
    style.name(panel, "Scores", "predicted P(tumour)", "patches")
    edges = np.linspace(0, 1, 51).tolist()
    for label, colour in enumerate((style.BLUE, style.ORANGE)):
        of = p[labels == label]
        name = f"{NORMAL_TUMOUR[label]}, {len(of):,}"
        panel.hist(of, edges, color=colour, alpha=0.35)
        panel.hist(of, edges, color=colour, histtype="step", label=name)
    panel.set_yscale("symlog", linthresh=1)  # most patches are in the outer bins
    panel.set_ylim(bottom=0)
    panel.axvline(threshold, linestyle=":", color=style.GREY, label=f"threshold {threshold:g}")
    style.legend(panel)


def _roc(
    panel: Axes, labels: Labels, p: Probabilities, threshold: float = 0.5, interval: str = ""
) -> None:
    style.name(panel, "ROC", "false positive rate", "true positive rate")
    _square(panel)
    curve = curves.roc(labels, p)
    panel.plot([0, 1], [0, 1], ":", color=style.GREY)
    if np.isnan(curve.area):
        return style.note(panel, f"AUC {ONE_CLASS}")
    panel.set_title(f"ROC: AUC {curve.area:.4f}{interval}", fontsize=11)
    panel.plot(curve.x, curve.y, color=style.BLUE)
    (normal, false), (missed, true) = curves.confusion(labels, p, threshold).tolist()
    point = false / (false + normal), true / (true + missed)
    panel.plot(*point, "o", color=style.ORANGE, label=f"at {threshold:g}")
    panel.legend(fontsize=9, loc="lower right")


def _precision_recall(
    panel: Axes, labels: Labels, p: Probabilities, threshold: float = 0.5, interval: str = ""
) -> None:
    style.name(panel, "Precision-recall", "recall", "precision")
    _square(panel)
    curve = curves.precision_recall(labels, p)
    if np.isnan(curve.area):
        return style.note(panel, "average precision undefined:\nno patch has tumour")
    of = "average precision" if not interval else "AP"
    panel.set_title(f"Precision-recall: {of} {curve.area:.4f}{interval}", fontsize=11)
    panel.plot(curve.x, curve.y, color=style.BLUE, drawstyle="steps-pre")
    share = float(labels.mean())
    label = f"prevalence {share:.3f}"
    panel.axhline(share, linestyle=":", color=style.GREY, label=label)
    (_, false), (missed, true) = curves.confusion(labels, p, threshold).tolist()
    if true + false:
        point = true / (true + missed), true / (true + false)
        panel.plot(*point, "o", color=style.ORANGE, label=f"at {threshold:g}")
    panel.legend(fontsize=9, loc="lower left")


def _confusion(panel: Axes, counts: NDArray[np.int64]) -> None:
    total = int(counts.sum())
    title = "Confusion at 0.5: no patches"
    if total:
        title = f"Confusion at 0.5: accuracy {np.trace(counts) / total:.4f}"
    style.name(panel, title, "predicted", "label")
    panel.grid(visible=False)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(2, 2):
        share = shares[row, column]
        of_row = f"{share:.1%} of {NORMAL_TUMOUR[row]}" if counts[row].any() else "none"
        colour = "white" if share > 0.5 else style.BLACK
        text = f"{counts[row, column]:,}\n{of_row}"
        panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
    panel.set_xticks([0, 1], NORMAL_TUMOUR)
    panel.set_yticks([0, 1], NORMAL_TUMOUR, rotation=90, va="center")


def _reliability(panel: Axes, labels: Labels, p: Probabilities, interval: str = "") -> None:
    beneath = _split(panel)
    bins = curves.reliability(labels, p)
    title = f"Reliability: ECE {bins.error:.4f}{interval}"
    if not interval:
        title += f", Brier {curves.brier(labels, p):.4f}"
    if not len(p):
        title = "Reliability: no patches"
    style.name(panel, title, "", "share with tumour")
    _square(panel)
    panel.tick_params(labelbottom=False)
    panel.plot([0, 1], [0, 1], ":", color=style.GREY)
    some = bins.counts > 0
    spread = np.array([bins.observed - bins.low, bins.high - bins.observed])[:, some]
    panel.errorbar(
        bins.predicted[some],
        bins.observed[some],
        np.maximum(spread, 0),  # a rounding error below 0 where all or none have tumour
        fmt="o-",
        color=style.BLUE,
        ecolor=style.SKY,
        markersize=4,
        label=f"{len(bins.counts)} bins, 95 % interval",
    )
    panel.legend(fontsize=9, loc="upper left")
    style.name(beneath, "", "predicted P(tumour)", "patches")
    beneath.bar(bins.edges[:-1], bins.counts, np.diff(bins.edges), align="edge", color=style.GREY)
    beneath.set_yscale("symlog", linthresh=1)  # most patches are in the outer bins
    beneath.set_ylim(0, max(2 * bins.counts.max(), 1))


def _split(panel: Axes) -> Axes:
    """Turn the lower quarter of a panel into axes of its own with the same x axis."""
    place, drawn = panel.get_subplotspec(), panel.get_figure(root=True)
    assert place is not None
    assert drawn is not None
    rows = place.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.05)
    panel.set_subplotspec(rows[0])
    beneath = drawn.add_subplot(rows[1], sharex=panel)
    beneath.spines[["top", "right"]].set_visible(False)
    return beneath


def _square(panel: Axes) -> None:
    panel.set_xlim(-0.01, 1.01)
    panel.set_ylim(-0.01, 1.02)
