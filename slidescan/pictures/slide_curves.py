"""Diagrams of an evaluation of slides: FROC of lesions, curves of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from slidescan.pictures import style
from slidescan.statistics.bootstrap import Interval
from slidescan.statistics.curves import FROC_RATES, Froc
from slidescan.statistics.ranking import Curve

LEAST, MOST = 1 / 8, 16
"""Range of the axis of false positives per slide: the six rates, and a factor of two beyond."""


def froc(path: Path, curves: Mapping[str, tuple[Froc, Sequence[Interval]]], title: str) -> None:
    """Write a PNG: each curve by its name, with the six sensitivities and their intervals.

    Intervals beyond the first six are ignored. Raises `WriteError`.
    """
    style.save(path, froc_figure(curves, title))


def froc_figure(curves: Mapping[str, tuple[Froc, Sequence[Interval]]], title: str) -> Figure:
    """Return the figure that `froc` writes."""
    drawn, (panel,) = style.figure(1, 1, title)
    style.name(panel, "", "false positives per slide", "share of lesions found")
    drawn.set_size_inches(7.2, 4.8)
    panel.set_xscale("log", base=2)
    panel.set_xlim(LEAST, MOST)
    panel.set_ylim(-0.01, 1.02)
    panel.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(-3, 5)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    )
    for i, (name, (curve, intervals)) in enumerate(curves.items()):
        _curve(panel, name, curve, intervals, style.COLOURS[i], 1.02**i)
    style.legend(panel)
    if all(np.isnan(curve.score) for curve, _ in curves.values()):
        style.note(panel, "undefined: there is no lesion to find")
    return drawn


def _curve(
    panel: Axes,
    name: str,
    curve: Froc,
    intervals: Sequence[Interval],
    colour: str,
    shift: float,
) -> None:
    """Draw one curve, interpolated linearly and constant beyond its end."""
    if np.isnan(curve.score):
        return
    # Lines between points are curved on a logarithmic axis, so they are drawn in small steps.
    x = np.geomspace(LEAST, MOST, 400)
    y = np.interp(x, curve.rates, curve.sensitivity)
    panel.plot(x, y, color=colour, label=f"{name}: score {curve.score:.3f}")
    rates = np.array(FROC_RATES)
    bounds = np.array([(i.low, i.high) for i in intervals[: len(rates)]]).T
    spread = np.abs(bounds - curve.at) if np.isfinite(bounds).all() else None
    # Shifted a little, so that the bars of two curves do not overlap.
    panel.errorbar(rates * shift, curve.at, spread, fmt="o", color=colour, markersize=4, capsize=2)


def cells(
    path: Path, roc: Curve, precision_recall: Curve, confusion: NDArray[np.int64], title: str
) -> None:
    """Write a PNG: ROC and precision-recall of cells, with the point of the threshold.

    confusion: [[true negatives, false positives], [false negatives, true positives]] at the
    threshold. Raises `WriteError`.
    """
    style.save(path, cells_figure(roc, precision_recall, confusion, title))


def cells_figure(
    roc: Curve, precision_recall: Curve, confusion: NDArray[np.int64], title: str
) -> Figure:
    """Return the figure that `cells` writes."""
    drawn, panels = style.figure(1, 2, title)
    (normal, false), (missed, true) = confusion.tolist()
    points = (
        (false, false + normal, true, true + missed),
        (true, true + missed, true, true + false),
    )
    names = (
        ("ROC: AUC", "false positive rate", "true positive rate"),
        ("Precision-recall: average precision", "recall", "precision"),
    )
    for panel, curve, name, at in zip(panels, (roc, precision_recall), names, points, strict=True):
        panel.set_xlim(-0.01, 1.01)
        panel.set_ylim(-0.01, 1.02)
        if np.isnan(curve.area):
            style.name(panel, *name)
            style.note(panel, "undefined: cells of one class")
            continue
        style.name(panel, f"{name[0]} {curve.area:.4f}", *name[1:])
        panel.plot(curve.x, curve.y, color=style.BLUE)
        if at[1] and at[3]:
            x, y = at[0] / at[1], at[2] / at[3]
            panel.plot(x, y, "o", color=style.ORANGE, label="at the threshold")
            style.legend(panel)
    return drawn
