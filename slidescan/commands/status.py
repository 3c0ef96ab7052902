"""`slidescan status`: what became of the slides of a folder of maps."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.checks import check_exist
from slidescan.commands.options import PLACE
from slidescan.commands.terminal import say
from slidescan.errors import DataError
from slidescan.tools.urls import Place

if TYPE_CHECKING:
    from slidescan.scanning.manifest import Row

STATES = ("done", "scanning", "waiting", "failed", "missing")


@click.command()
@click.argument("folder", type=PLACE)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="List the slides in this state; may be repeated. [default: failed, missing, scanning]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: an object a line and slide, with the columns of manifest.csv.",
)
def command(folder: Place, states: tuple[str, ...], log_format: str) -> None:
    """Print what became of the slides of FOLDER, by its manifest.csv.

    A slide is done, being scanned (by a process that is alive), waiting, failed, or missing: its
    file is not there. Of slides that are done, a lost map or file is named.

    \b
    Examples:
      slidescan status maps
      slidescan status maps --state waiting --log-format json
    """
    if isinstance(folder, Path):
        check_exist(folder)

    from slidescan.scanning.folder_status import read_status

    found = read_status(folder)
    if not found.rows:
        raise DataError(f"{folder}: has no manifest.csv; slidescan heatmap writes it")
    listed = states or (STATES if log_format == "json" else ("failed", "missing", "scanning"))
    chosen = [row for row in found.rows if row["state"] in listed]
    if log_format == "json":
        for row in chosen:
            say(json.dumps(row))
        return
    counts = Counter(row["state"] for row in found.rows)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    slides = "1 slide" if len(found.rows) == 1 else f"{len(found.rows)} slides"
    say(f"{folder}: {slides}, {told}")
    say(_sums(found.rows))
    for row in chosen:
        say(f"{row['state']}: {row['map']} ({row['slide']}){_reason(row)}")
    for note in found.notes:
        say(note)


def _reason(row: Row) -> str:
    return f": {row['reason']}" if row["reason"] else ""


def _sums(rows: list[Row]) -> str:
    tissue = sum(float(row["tissue_mm2"] or 0) for row in rows)
    warned = sum(bool(row["warnings"]) for row in rows)
    kinds = Counter((row["model"], row["settings"]) for row in rows if row["settings"])
    text = f"{tissue:,.1f} mm2 of tissue, {warned} with warnings"
    if len(kinds) > 1:
        names = ", ".join(f"{n} by {model} ({key})" for (model, key), n in kinds.most_common())
        text += f"{os.linesep}made with different settings: {names}"
    return text
