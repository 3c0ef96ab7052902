"""Reports on disk: one file for a slide, or a folder with a file a slide and an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from slidescan.errors import ConfigError, SlidescanError, WriteError
from slidescan.report.content import Content
from slidescan.report.pages import Row, index_page, slide_page
from slidescan.tools.atomic_files import check_folder, replacing, writing
from slidescan.tools.urls import Place

INDEX = "index.html"


def page_names(maps: list[Place]) -> dict[Place, str]:
    """The file of each map's report, named after the map.

    Raises ConfigError where two maps have the same name, or one that of the index.
    """
    found: dict[str, Place] = {}
    for path in maps:
        name = f"{path.stem}.html"
        # Some file systems do not distinguish capitals.
        other = found.setdefault(name.casefold(), path)
        if other != path or name.casefold() == INDEX:
            what = "the index" if name.casefold() == INDEX else str(other)
            raise ConfigError(
                f"{path}: its report would be {name}, as is that of {what}; report it into "
                "another folder"
            )
    return {path: f"{path.stem}.html" for path in maps}


def check_new(*paths: Path, overwrite: bool) -> None:
    """Refuse to replace a report. Raises WriteError."""
    for path in paths:
        if path.is_dir():
            raise WriteError(f"{path}: is a folder; choose another --out")
        if path.exists() and not overwrite:
            raise WriteError(f"{path}: exists; pass --overwrite or choose another --out")


def make_folder(folder: Path) -> None:
    """Create the folder of a cohort where it is missing. Raises WriteError."""
    check_folder(folder)
    with writing(folder):
        folder.mkdir(exist_ok=True)


def write_page(out: Path, html: str) -> None:
    """Write one page, all or nothing. Raises WriteError."""
    with replacing(out) as beside:
        beside.write_text(html, encoding="utf-8")


def write_cohort(
    folder: Path,
    pages: Mapping[Place, str],
    gather: Callable[[Place], Content],
    on_error: Callable[[SlidescanError], object],
    on_map: Callable[[], object],
) -> int:
    """Write the report of each map, then the index, hottest first; returns how many maps failed.

    `gather` reads one map. A map that fails is told to `on_error` and named in the index.

    Raises WriteError.
    """
    rows: list[Row] = []
    failed: list[tuple[str, str]] = []
    for path, name in pages.items():
        try:
            content = gather(path)
        except SlidescanError as error:
            on_error(error)
            failed.append((path.name, str(error)))
        else:
            write_page(folder / name, slide_page(content, INDEX))
            # Without what is large: a cohort may have a thousand slides.
            rows.append(Row(replace(content, pictures=[], regions=[]), name))
        on_map()
    rows.sort(key=lambda row: np.nan_to_num(row.content.row["top_mean"], nan=-1), reverse=True)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_page(folder / INDEX, index_page(rows, failed, made))
    return len(failed)
