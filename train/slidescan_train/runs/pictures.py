"""Plots of a run while it trains, of a range test, and of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from slidescan.pictures import style
from slidescan_train.loop.history import Epoch, Step, best, column, further_sets

POINTS = 2000
"""Most steps that are drawn: more than a panel has pixels."""
LABELS = {"loss": "loss (nats)", "accuracy": "accuracy at 0.5", "auc": "ROC AUC"}
"""Axis labels of an epoch's scores."""
FURTHER = tuple(c for c in style.COLOURS if c not in (style.BLUE, style.ORANGE))
"""Colours of validation sets beside the first."""
UNDEFINED = "undefined: one class, or not finite"


def training(path: Path, steps: Sequence[Step], epochs: Sequence[Epoch]) -> None:
    """Write a PNG of a run so far; either table may be empty. Raises `WriteError`.

    The loss of the steps within the last epoch, the learning rate over all steps, and over the
    epochs loss, accuracy and AUC of training and validation, and images per second.
    """
    style.save(path, training_figure(steps, epochs))


def range_test(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    suggestion: float | None,
) -> None:
    """Write a PNG of a learning-rate range test (Smith 2017). Raises `WriteError`."""
    style.save(path, range_test_figure(rates, losses, smooth, suggestion))


def runs(path: Path, histories: Mapping[str, Sequence[Epoch]], validation_sets: int = 1) -> None:
    """Write a PNG of validation loss and AUC over epochs and over time, a line for each run.

    The title warns where the runs have more than one validation set. Raises `WriteError`.
    """
    style.save(path, runs_figure(histories, validation_sets))


def training_figure(steps: Sequence[Step], epochs: Sequence[Epoch]) -> Figure:
    """Draw the figure of `training`."""
    drawn, panels = style.figure(2, 3, _standing(steps, epochs))
    _within(panels[0], _tail(steps))
    _rate(panels[1], steps)
    top = best(epochs)
    for panel, score in zip(panels[2:], LABELS, strict=False):
        _scores(panel, epochs, score, top)
    _speed(panels[5], epochs)
    return drawn


def _standing(steps: Sequence[Step], epochs: Sequence[Epoch]) -> str:
    top = best(epochs)
    return ", ".join(
        [
            f"After {_count(len(epochs), 'epoch')} and {_count(len(steps), 'step')}",
            f"best validation AUC {top.validation_auc:.4f} in epoch {top.number}"
            if top
            else "no validation AUC",
        ]
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _tail(steps: Sequence[Step]) -> Sequence[Step]:
    """Return the steps of the last epoch, searched from the end as there may be millions."""
    first = len(steps)
    while first and steps[first - 1].epoch == steps[-1].epoch:
        first -= 1
    return steps[first:]


def _within(panel: Axes, steps: Sequence[Step]) -> None:
    title = f"Loss within epoch {steps[-1].epoch}" if steps else "Loss within the epoch"
    style.name(panel, title, "optimiser step of the epoch", "training loss (nats)")
    if not steps:
        return style.note(panel, "no step yet")
    losses = np.array([step.loss for step in steps])
    width = max(1, len(losses) // 20)
    shown, size = thinned(len(losses)), 3 if len(losses) > 100 else 6
    panel.plot(shown + 1, losses[shown], ".", color=style.SKY, markersize=size, label="step")
    if len(losses) > 1:
        label = f"mean of {_count(width, 'step')}"
        panel.plot(shown + 1, smoothed(losses, width)[shown], color=style.BLUE, label=label)
    finite = losses[np.isfinite(losses)]
    if len(finite):
        # A single outlier must not flatten the rest of the curve.
        panel.set_ylim(min(0, finite.min()), 1.1 * max(np.quantile(finite, 0.995), 1e-6))
    style.whole(panel)
    style.legend(panel)


def thinned(count: int, most: int = POINTS) -> NDArray[np.intp]:
    """Return at most `most` of `count` indices, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def smoothed(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the moving mean over `width` values; values that are not finite are skipped."""
    finite = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(np.where(finite, x, 0.0))])
        for x in (values, np.ones(len(values)))
    )
    at = np.arange(len(values))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + (width + 1) // 2, len(values))
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[high] - sums[low]) / (counts[high] - counts[low]))


def _rate(panel: Axes, steps: Sequence[Step]) -> None:
    style.name(panel, "Learning rate", "optimiser step", "learning rate per step")
    if not steps:
        return style.note(panel, "no step yet")
    shown = [steps[i] for i in thinned(len(steps))]
    look = "-" if len(shown) > 1 else "o"  # a line through one point would not be seen
    panel.plot([s.number for s in shown], [s.learning_rate for s in shown], look, color=style.BLUE)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    panel.set_ylim(bottom=0)
    style.whole(panel)


def _scores(panel: Axes, epochs: Sequence[Epoch], score: str, top: Epoch | None) -> None:
    title = "AUC" if score == "auc" else score.capitalize()
    style.name(panel, title, "epoch", LABELS[score])
    if not epochs:
        return style.note(panel, "no epoch yet")
    numbers = [epoch.number for epoch in epochs]
    for side, look in (("training", "--o"), ("validation", "-s")):
        colour = style.BLUE if side == "training" else style.ORANGE
        values = [getattr(epoch, f"{side}_{score}") for epoch in epochs]
        if not np.isfinite(values).any():
            values, side = [np.nan] * len(values), f"{side}: {UNDEFINED}"
        panel.plot(numbers, values, look, color=colour, label=side, markersize=_dots(epochs))
    for at, name in enumerate(further_sets(epochs)):
        values = [epoch.further.get(column(score, name), np.nan) for epoch in epochs]
        colour = FURTHER[at % len(FURTHER)]
        panel.plot(numbers, values, "-^", color=colour, label=name, markersize=_dots(epochs))
    if top:
        value = getattr(top, f"validation_{score}")
        text = f"epoch {top.number}, best by AUC: {value:.4f}"
        panel.plot(top.number, value, "*", color=style.BLACK, markersize=11, label=text)
    style.whole(panel)
    style.legend(panel)


def _dots(epochs: Sequence[Epoch]) -> int:
    """Size of the markers: none if there are many; a single epoch needs one."""
    return 4 if len(epochs) <= 40 else 0


def _speed(panel: Axes, epochs: Sequence[Epoch]) -> None:
    style.name(panel, "Speed", "epoch", "images per second")
    if not epochs:
        return style.note(panel, "no epoch yet")
    waiting = np.mean([epoch.waiting for epoch in epochs])
    panel.set_title(f"Speed: {waiting:.1%} of the time waiting for data", fontsize=11)
    numbers, speeds = zip(*((e.number, e.images_per_second) for e in epochs), strict=True)
    panel.plot(numbers, speeds, "-o", color=style.GREEN, markersize=_dots(epochs))
    panel.set_ylim(bottom=0)
    style.whole(panel)


def range_test_figure(
    rates: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    suggestion: float | None,
) -> Figure:
    """Draw the figure of `range_test`."""
    drawn, (panel,) = style.figure(1, 1, "Learning-rate range test")
    drawn.set_size_inches(7.5, 5)
    found = "the loss did not fall: no suggestion"
    if suggestion is not None:
        found = f"suggested: {suggestion:.2g}, a tenth of the rate at the lowest loss"
    style.name(panel, found, "learning rate per step (logarithmic)", "training loss (nats)")
    panel.set_xscale("log")
    panel.plot(rates, losses, ".", color=style.SKY, markersize=4, label="step")
    panel.plot(rates, smooth, color=style.BLUE, label="smoothed")
    if suggestion is not None:
        label = f"suggested learning rate {suggestion:.2g}"
        panel.axvline(suggestion, color=style.ORANGE, linestyle="--", label=label)
    values = np.array([x for x in smooth if np.isfinite(x)])
    if len(values):
        # Show the descent, and only the beginning of the divergence.
        low, start = values.min(), values[0]
        room = max(start - low, 0.1 * abs(low), 1e-6)
        panel.set_ylim(low - 0.3 * room, max(start, low) + 0.7 * room)
    style.legend(panel)
    return drawn


def runs_figure(histories: Mapping[str, Sequence[Epoch]], validation_sets: int = 1) -> Figure:
    """Draw the figure of `runs`."""
    title = f"Validation of {_count(len(histories), 'run')}"
    if validation_sets > 1:
        title += f" on {validation_sets} validation sets, which cannot be compared"
    drawn, panels = style.figure(2, 2, title)
    unit, unit_s = _unit(max((sum(e.seconds for e in h) for h in histories.values()), default=0))
    for (by_epoch, by_time), score in zip((panels[:2], panels[2:]), ("loss", "auc"), strict=True):
        label = f"validation {LABELS[score]}"
        style.name(by_epoch, f"V{label[1:]} by epoch", "epoch", label)
        style.name(by_time, f"V{label[1:]} by time", f"time spent ({unit})", label)
        for number, (run, epochs) in enumerate(histories.items()):
            colour, line = _look(number)
            values = [getattr(e, f"validation_{score}") for e in epochs]
            clock = np.cumsum([e.seconds / unit_s for e in epochs])
            for panel, at in ((by_epoch, [e.number for e in epochs]), (by_time, clock)):
                panel.plot(
                    at, values, f"o{line}", color=colour, markersize=_dots(epochs), label=run
                )
        style.whole(by_epoch)
    lines, names = panels[0].get_legend_handles_labels()
    if names:
        drawn.legend(lines, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=9)
    return drawn


def _unit(seconds: float) -> tuple[str, float]:
    return ("hours", 3600.0) if seconds >= 2 * 3600 else ("minutes", 60.0)


def _look(number: int) -> tuple[str, str]:
    """Colour and line style of a run; the style changes when the colours are used up."""
    again, colour = divmod(number, len(style.COLOURS))
    return style.COLOURS[colour], ("-", "--", "-.", ":")[again % 4]
