"""What an evaluation found, as a table to read, as Markdown and as JSON.

A number that is undefined is `undefined` to people and null in JSON, with the reason beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from slidescan.tools.atomic_files import replacing, writing
from slidescan.tools.settings_diff import JSON, strict

JSON_NAME, MARKDOWN_NAME = "metrics.json", "metrics.md"
UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number; NaN where it is undefined, and `note` says why."""

    key: str
    """Its name in JSON."""
    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    """Of its interval; NaN where there is none."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics, and what a reader has to know of them."""

    title: str
    about: Mapping[str, JSON]
    """What was evaluated and how, in the order to be read."""
    metrics: Sequence[Metric]
    notes: Sequence[str] = field(default=())
    level: float = 0.95
    """Of the intervals."""
    tables: Mapping[str, JSON] = field(default_factory=dict)
    """More for the JSON: curves, counts, a row for each slide."""


def text(report: Report) -> str:
    """Lines for a terminal."""
    return "\n".join([report.title, *_aligned(report), *report.notes])


def _aligned(report: Report) -> Iterator[str]:
    rows = list(_rows(report))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  " + "  ".join(cell.ljust(width) for cell, width in cells).rstrip()


def _rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    yield "metric", "value", f"{report.level:.0%} interval", ""
    for m in report.metrics:
        yield m.name, number(m.value), interval(m), m.note


def number(value: float) -> str:
    """Four decimals; a count stays whole."""
    if not isfinite(value):
        return UNDEFINED
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def interval(metric: Metric) -> str:
    """Both bounds, or nothing."""
    if not (isfinite(metric.low) and isfinite(metric.high)):
        return ""
    return f"{metric.low:.4f} to {metric.high:.4f}"


def markdown(report: Report) -> str:
    """The same as a document."""
    head, *rows = _rows(report)
    lines = [f"# {report.title}", ""]
    about = {key: value for key, value in report.about.items() if value is not None}
    lines += [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in about.items()]
    lines += ["", _row(head), "|---|---|---|---|", *map(_row, rows)]
    lines += [line for note in report.notes for line in ("", note)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: JSON) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def as_json(report: Report) -> dict[str, JSON]:
    """Strict JSON: what is undefined is null."""
    return strict(
        {
            "title": report.title,
            "about": report.about,
            "interval_level": report.level,
            "metrics": {m.key: _metric(m) for m in report.metrics},
            "notes": list(report.notes),
            **report.tables,
        }
    )


def _metric(metric: Metric) -> dict[str, JSON]:
    found: dict[str, JSON] = {"name": metric.name, "value": known(metric.value)}
    found |= {"low": known(metric.low), "high": known(metric.high)}
    return found | ({"note": metric.note} if metric.note else {})


def known(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if isfinite(value) else None


def write(folder: Path, report: Report) -> None:
    """`metrics.json` and `metrics.md` in `folder`, which is made. Raises `WriteError`."""
    make_folder(folder)
    content = json.dumps(as_json(report), indent=2) + "\n"
    for name, body in (JSON_NAME, content), (MARKDOWN_NAME, markdown(report)):
        with replacing(folder / name) as beside:
            beside.write_text(body, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Raises `WriteError`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
