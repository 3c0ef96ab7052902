"""Many slides into one folder: a map for each, and a manifest of what became of them."""

from __future__ import annotations

import csv
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slidescan.errors import ConfigError, SlidescanError
from slidescan.tools.atomic_files import check_folder, lock, release, replacing, writing

if TYPE_CHECKING:
    from slidescan.scanning.session import Summary

MANIFEST = "manifest.csv"
COLUMNS = ("slide", "map", "status", "message", "rows", "columns", "scanned", "seconds")

Row = dict[str, object]


def targets(slides: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The slide of each map, which is named after it.

    Raises:
        ConfigError: two slides have the same name.
    """
    found: dict[Path, Path] = {}
    for slide in slides:
        other = found.setdefault(folder / f"{slide.stem}.zarr", slide)
        if other != slide:
            raise ConfigError(
                f"{other} and {slide} would both become {slide.stem}.zarr; "
                "scan them into two folders"
            )
    return found


def scan_all(
    slides: Mapping[Path, Path],
    folder: Path,
    scan: Callable[[Path, Path], Summary],
    on_error: Callable[[SlidescanError], object],
) -> None:
    """Scan every slide into its map and record each in the folder's manifest.

    Args:
        slides: the slide of each map, see `targets`.
        folder: is created where it is missing.
        scan: scans a slide into a map.
        on_error: is told of a slide that cannot be scanned; the others are scanned all the same.

    Raises:
        SlidescanError: the folder or the manifest cannot be written, or a slide failed.
    """
    check_folder(folder)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    manifest = folder / MANIFEST
    read_manifest(manifest)  # a file of somebody else is refused before the first slide
    failed = 0
    for target, slide in slides.items():
        row = _scan_one(slide, target, scan, on_error)
        failed += row["status"] == "failed"
        _write_row(manifest, row)
    if failed:
        raise SlidescanError(
            f"{failed} of {len(slides)} slides failed, see {manifest}; "
            "the same command tries them again"
        )


def _scan_one(
    slide: Path,
    target: Path,
    scan: Callable[[Path, Path], Summary],
    on_error: Callable[[SlidescanError], object],
) -> Row:
    row: Row = {"slide": slide, "map": target.name, "status": "done"}
    try:
        summary = scan(slide, target)
    except SlidescanError as error:
        on_error(error)
        return row | {"status": "failed", "message": error}
    except Exception as error:  # a bug in one slide must not stop the others
        traceback.print_exc()
        return row | {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    row |= {name: getattr(summary, name) for name in ("rows", "columns", "scanned")}
    if summary.complete_before:
        return row | {"status": "done before"}
    return row | {"seconds": summary.seconds}


def read_manifest(path: Path) -> dict[object, Row]:
    """The rows by the names of their maps; none where there is no manifest yet.

    Raises:
        SlidescanError: the file is not a manifest, or cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise SlidescanError(
                    f"{path}: not slidescan's, so left alone; choose another --out"
                )
            return {row["map"]: dict(row) for row in reader}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SlidescanError(f"{path}: cannot be read: {error}") from error


def _write_row(manifest: Path, row: Row) -> None:
    """Put a map's row into the manifest, which other processes may be writing as well."""
    held = lock(manifest, timeout_s=60)
    try:
        rows = read_manifest(manifest)
        if row["status"] == "done before":  # the seconds are those of the run that scanned it
            row["seconds"] = rows.get(row["map"], {}).get("seconds", "")
        rows[row["map"]] = row
        with (
            replacing(manifest) as beside,
            beside.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows.values())
    finally:
        release(held)
