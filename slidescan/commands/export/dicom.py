"""`slidescan export dicom`: a map as Parametric Map, its regions as Segmentation."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import click

from slidescan.commands.checks import check_slide_and_map
from slidescan.commands.export.options import (
    RuleChoices,
    open_map_to_export,
    region_options,
    target_options,
)
from slidescan.commands.options import PATH, PLACE, dicom_libraries
from slidescan.commands.terminal import bar, open_slide_of, warn

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from slidescan.maps.regions import Rule
    from slidescan.maps.store import Heatmap
    from slidescan.slides.slide import Slide
    from slidescan.tools.urls import Place

FILES = MAP, REGIONS = "map.dcm", "regions.dcm"


@click.command("dicom")
@click.argument("map_path", metavar="MAP", type=PLACE)
@click.option(
    "--slide",
    "slide_path",
    type=PATH,
    required=True,
    help="The slide of the map, a DICOM file; the other levels of its series lie beside it.",
)
@region_options
@target_options
@click.option("--out", type=PATH, required=True, help="Folder for map.dcm and regions.dcm.")
def dicom(
    map_path: Place,
    slide_path: Path,
    out: Path,
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
    partial: bool,
    overwrite: bool,
) -> None:
    """Write a map of a DICOM slide as DICOM: a Parametric Map, and a Segmentation of its regions.

    Both refer to the slide's series and have the pixels of one of its levels, the coarsest that is
    at most 10 % coarser than the map's cells. Content Qualification is RESEARCH.

    \b
    Examples:
      slidescan export dicom dcm.zarr --slide slide.dcm --out dicom
      slidescan export dicom dcm.zarr --slide slide.dcm --threshold 0.9 --low 0.5 --out dicom
    """
    check_slide_and_map(slide_path, map_path)
    _check_folder(out, overwrite)
    rule = RuleChoices(threshold, low, min_area, model).rule(map_path)
    with dicom_libraries():
        import highdicom  # noqa: F401  # before the map is read

    heatmap = open_map_to_export(map_path, partial=partial)
    with open_slide_of(heatmap, slide_path) as slide:
        click.echo(f"{out}: {_export(heatmap, slide, rule, out)}")


def _check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or one that has the files already. Raises WriteError."""
    from slidescan.errors import WriteError
    from slidescan.tools.atomic_files import check_folder

    check_folder(out)
    if out.exists() and not out.is_dir():
        raise WriteError(f"{out}: is a file; --out is a folder for {' and '.join(FILES)}")
    for name in FILES:
        if (out / name).exists() and not overwrite:
            raise WriteError(f"{out / name}: exists; pass --overwrite or choose another --out")


def _export(heatmap: Heatmap, slide: Slide, rule: Rule, out: Path) -> str:
    """Write both files, one after the other for the memory, and return a line about them."""
    from slidescan.exports import dicom as exports
    from slidescan.exports.dicom_series import find_source
    from slidescan.maps.regions import find_regions

    source = find_source(slide, heatmap.mpp * heatmap.grid.stride)
    if not source.placed:
        warn(
            f"{slide.path}: does not record where it lies on the glass; its corner is taken for "
            "the glass' origin, which changes nothing for viewers that show one on the other"
        )
    by = exports.Maker(heatmap.settings["model"]["name"], heatmap.settings["model"]["sha256"])
    regions = find_regions(heatmap, rule, bar)
    segmentation = exports.segmentation(regions, source, slide.mpp, by)
    _write(out / REGIONS, segmentation)
    del segmentation
    with TemporaryFile(dir=out) as values:
        with bar("resampling", exports.count_tiles(source), "tile") as progress:
            tiles = exports.tiles(heatmap, source, values, progress)
        _write(out / MAP, exports.parametric_map(tiles, source, by))
    height, width = source.level.shape_px
    none = "" if regions else ", so the segmentation is empty"
    return (
        f"level {source.level.index} of the slide, {width} x {height} px of "
        f"{source.level.mpp[1]:.4g} um, {len(tiles.boxes)} tiles; {len(regions)} regions{none}"
    )


def _write(path: Path, dataset: Dataset) -> None:
    from slidescan.tools.atomic_files import replacing, writing

    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    with replacing(path) as beside:
        dataset.save_as(beside)
