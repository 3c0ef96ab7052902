"""`slidescan heatmap`: slides in, maps of tumour probabilities out."""

from __future__ import annotations

import csv
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.options import (
    PATH,
    Terminal,
    engine_options,
    ensemble_options,
    mpp_option,
    precision_option,
)
from slidescan.errors import SlidescanError

if TYPE_CHECKING:
    from slidescan.scanning.session import Summary


@click.command()
@click.argument("slides", metavar="SLIDE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="The map of one slide, NAME.zarr; any other name is a folder that gets a map for every "
    "slide, and manifest.csv.",
)
@ensemble_options
@click.option(
    "--mode",
    type=click.Choice(["dense", "patch"]),
    default="dense",
    show_default=True,
    help="Fully convolutional, which shares what neighbouring cells have in common; or every cell "
    "from its own 96 x 96 px patch, which takes any model and any even stride, and far longer.",
)
@click.option(
    "--stride",
    type=int,
    help="Scan-plane pixels between neighbouring cells: 2, 4, 8, 16, ... with a model of stride 8, "
    "with --mode patch any even number from 2 to 96. [default: the model's own]",
)
@mpp_option
@engine_options
@precision_option
@click.option(
    "--tissue-mask/--no-tissue-mask", default=True, help="Scan tissue alone, or glass as well."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a finished map, or one made with other settings."
)
def command(slides: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Scan slides and write their tumour probabilities to zarr maps (OME-NGFF 0.5).

    Several --model are averaged, and with --tta d4 the eight flips and rotations of the pixels.
    A model that pads with zeros has to be scanned with --mode patch. Stopped at any moment, the
    same command goes on where it was. Cells without tissue are NaN.

    \b
    Examples:
      slidescan heatmap slide.tif --out map.zarr
      slidescan heatmap slide.tif --out map.zarr --model fast --stride 16
      slidescan heatmap slides/*.tif --out maps --precision auto
    """
    single = out.suffix == ".zarr"
    if single and len(slides) > 1:
        raise click.UsageError(f"--out {out} is one map; name a folder for {len(slides)} slides")
    targets = {out: slides[0]} if single else _targets(slides, out)

    from slidescan.scanning.session import Options, Session

    options["device"] = options["device"] or "auto"
    session = Session(Options(**options), Terminal())

    def scan_slide(slide: Path, target: Path) -> Summary:
        summary = session.run(slide, target)
        if not summary.complete_before:
            click.echo(
                f"{target}: {summary.rows} x {summary.columns} cells, {summary.scanned} scanned, "
                f"{summary.megapixels:.1f} Mpx in {summary.seconds:.1f} s"
            )
        return summary

    try:
        if single:
            scan_slide(slides[0], out)
        else:
            _scan_all(targets, out, scan_slide)
    except KeyboardInterrupt as error:
        raise SlidescanError(
            "interrupted; what was finished stays, the same command goes on from there"
        ) from error


def _targets(slides: tuple[Path, ...], folder: Path) -> dict[Path, Path]:
    """The slide of each map."""
    targets: dict[Path, Path] = {}
    for slide in slides:
        other = targets.setdefault(folder / f"{slide.stem}.zarr", slide)
        if other != slide:
            raise click.UsageError(
                f"{other} and {slide} would both be {slide.stem}.zarr; scan them apart"
            )
    return targets


COLUMNS = ["slide", "map", "status", "message", "rows", "columns", "scanned", "seconds"]


def _scan_all(
    targets: dict[Path, Path], folder: Path, scan_slide: Callable[[Path, Path], Summary]
) -> None:
    """Attempt every slide, say in manifest.csv what became of each, fail if any did."""
    from slidescan.tools.atomic_files import check_folder, writing

    check_folder(folder)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    manifest = folder / "manifest.csv"
    _read_manifest(manifest)  # a stranger's is refused before the first slide, not after it
    failed = 0
    for target, slide in targets.items():
        row: dict[str, object] = {"slide": slide, "map": target.name, "status": "done"}
        try:
            summary = scan_slide(slide, target)
            row |= {name: getattr(summary, name) for name in ("rows", "columns", "scanned")}
            row["seconds"] = summary.seconds
            if summary.complete_before:
                row |= {"status": "done before", "seconds": ""}
        except SlidescanError as error:
            click.echo(f"Error: {error}", err=True)
            row |= {"status": "failed", "message": error}
        except Exception as error:  # a bug, but the night's other slides must not pay for it
            traceback.print_exc()
            row |= {"status": "failed", "message": f"{type(error).__name__}: {error}"}
        failed += row["status"] == "failed"
        _note(manifest, row)
    if failed:
        raise SlidescanError(
            f"{failed} of {len(targets)} slides failed, see {manifest}; "
            "the same command tries them again"
        )


def _read_manifest(path: Path) -> dict[object, dict[str, object]]:
    """The rows by their maps; none where there is no manifest yet."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise SlidescanError(
                    f"{path}: not slidescan's, so left alone; choose another --out"
                )
            return {row["map"]: dict(row) for row in reader}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SlidescanError(f"{path}: cannot be read: {error}") from error


def _note(manifest: Path, row: dict[str, object]) -> None:
    """Put a map's row into the manifest, which other processes may be writing as well."""
    from slidescan.tools.atomic_files import lock, release, replacing

    held = lock(manifest, timeout_s=60)
    try:
        rows = _read_manifest(manifest)
        if row["status"] == "done before":  # what it took stands in the row of that time
            row["seconds"] = rows.get(row["map"], row).get("seconds", "")
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
