"""A report of an evaluation: as text, Markdown and JSON.

An undefined number is "undefined" in text and null in JSON, with the reason beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from slidescan.tools.atomic_files import replacing, writing
from slidescan.tools.settings_diff import JSON, strict
from slidescan.tools.text_tables import aligned

JSON_NAME, MARKDOWN_NAME = "metrics.json", "metrics.md"
UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric minus that of the first table, with its interval; NaN where undefined."""

    value: float
    low: float
    high: float
    delong_p_value: float
    """Of DeLong's test of equal ROC areas; NaN where it was not done."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number; NaN where it is undefined, and `note` says why."""

    key: str
    """Its name in JSON."""
    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    """Bounds of its interval; NaN where there is none."""
    note: str = ""
    predictions: str = ""
    """The table that it is of, where several are compared."""
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics, and what a reader has to know about them."""

    title: str
    about: Mapping[str, JSON]
    """What was evaluated and how, in reading order."""
    metrics: Sequence[Metric]
    notes: Sequence[str] = field(default=())
    """Printed below the table; two short sentences at most."""
    level: float = 0.95
    """Confidence level of the intervals."""
    tables: Mapping[str, JSON] = field(default_factory=dict)
    """For JSON only: curves, counts, a row for each slide."""
    details: Sequence[str] = field(default=())
    """More to know, for Markdown and JSON only."""


def text(report: Report) -> str:
    """Return the report for a terminal."""
    table = (f"  {line}" for line in aligned(_rows(report)))
    return "\n".join([report.title, *table, *report.notes])


def _rows(report: Report) -> list[tuple[str, ...]]:
    """Return the table's head and rows, with the columns of a comparison where it is one."""
    level = f"{report.level:.0%} interval"
    if not any(m.predictions for m in report.metrics):
        rows = [(m.name, number(m.value), interval(m), m.note) for m in report.metrics]
        return [("metric", "value", level, ""), *rows]
    head = ("metric", "predictions", "value", level, "difference", level, "DeLong p", "")
    return [head, *map(_compared, report.metrics)]


def _compared(m: Metric) -> tuple[str, ...]:
    own = (m.name, m.predictions, number(m.value), interval(m))
    d = m.difference
    if d is None:
        return (*own, "", "", "", m.note)
    p_value = f"{d.delong_p_value:.2g}" if isfinite(d.delong_p_value) else ""
    return (*own, number(d.value, "+"), interval(d, "+"), p_value, m.note)


def number(value: float, sign: str = "") -> str:
    """Four decimals; a count stays whole. sign: "+" to print it always."""
    if not isfinite(value):
        return UNDEFINED
    return str(value) if isinstance(value, int) else f"{value:{sign}.4f}"


def interval(found: Metric | Difference, sign: str = "") -> str:
    """Return both bounds, "" where there is no interval."""
    if not (isfinite(found.low) and isfinite(found.high)):
        return ""
    return f"{number(found.low, sign)} to {number(found.high, sign)}"


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    head, *rows = _rows(report)
    lines = [f"# {report.title}", ""]
    about = {key: value for key, value in report.about.items() if value is not None}
    lines += [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in about.items()]
    lines += ["", _row(head), "|---" * len(head) + "|", *map(_row, rows)]
    lines += [line for note in (*report.notes, *report.details) for line in ("", note)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: JSON) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def as_json(report: Report) -> dict[str, JSON]:
    """Return the report as strict JSON: undefined numbers are null."""
    return strict(
        {
            "title": report.title,
            "about": report.about,
            "interval_level": report.level,
            "metrics": _metrics(report.metrics),
            "notes": [*report.notes, *report.details],
            **report.tables,
        }
    )


def _metrics(metrics: Sequence[Metric]) -> dict[str, JSON]:
    """By key; a comparison has the values of each table below `predictions`."""
    found: dict[str, Any] = {}
    for m in metrics:
        if m.predictions:
            of = found.setdefault(m.key, {"name": m.name, "predictions": {}})["predictions"]
            of[m.predictions] = _values(m)
        else:
            found[m.key] = {"name": m.name, **_values(m)}
    return found


def _values(m: Metric) -> dict[str, JSON]:
    found: dict[str, JSON] = {"value": known(m.value), "low": known(m.low), "high": known(m.high)}
    if m.note:
        found["note"] = m.note
    if m.difference:
        found["difference"] = {key: known(value) for key, value in asdict(m.difference).items()}
    return found


def known(value: float) -> float | None:
    """Return the number, None where JSON has none for it."""
    return value if isfinite(value) else None


def write(folder: Path, report: Report) -> None:
    """Write `metrics.json` and `metrics.md` into `folder`, which is made. Raises `WriteError`."""
    make_folder(folder)
    content = json.dumps(as_json(report), indent=2) + "\n"
    for name, body in (JSON_NAME, content), (MARKDOWN_NAME, markdown(report)):
        with replacing(folder / name) as beside:
            beside.write_text(body, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it. Raises `WriteError`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
