"""Style of the diagrams, without pyplot and its global state."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from slidescan.tools.atomic_files import replacing

# Distinguishable with colour blindness (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, BLACK, GREY = "#56B4E9", "#E69F00", "#222222", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK)

PANEL_INCHES = (4.6, 3.6)
DPI = 110


def figure(rows: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `rows` x `columns` panels, row by row."""
    width, height = PANEL_INCHES
    drawn = Figure(figsize=(columns * width, rows * height + 0.3), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(title, fontsize=13)
    panels = [drawn.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
    return drawn, panels


def name(panel: Axes, title: str, x: str, y: str) -> None:
    """Set title and axis labels."""
    panel.set_title(title, fontsize=11)
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def whole(panel: Axes) -> None:
    """Put the ticks of the x axis at few round integers."""
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend(panel: Axes) -> None:
    """Draw a legend where something has a label."""
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=9, framealpha=0.9)


def note(panel: Axes, text: str) -> None:
    """Write in the middle of an empty panel why it is empty."""
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=BLACK)


def save(path: Path, drawn: Figure) -> None:
    """Write a PNG. Raises `WriteError`."""
    with replacing(path) as beside:
        drawn.savefig(beside, format="png")
