"""`slidescan annotations`: list the regions drawn on a slide, rasterise or convert them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from slidescan.commands.options import PATH, Real, evaluation_libraries, tumour_class_option
from slidescan.commands.terminal import bar, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slidescan.annotations.reading import Annotations, Region


class Frame(NamedTuple):
    """Level 0 of a slide: (width, height) in px, and um/px (x, y)."""

    size_l0: tuple[int, int]
    mpp: tuple[float, float]


MOST_CELLS = 2**20
"""Of a side of a mask: a slide of 100 mm at 0.1 um/px."""

_UM = Real(0.01, 1e5)
_file = click.argument("path", metavar="FILE", type=PATH)
_slide = click.option("--slide", "slide_path", type=PATH, help="The slide they were drawn on.")


@click.group()
def command() -> None:
    """Read annotations of ASAP (XML), NCRF (JSON) or QuPath (GeoJSON).

    The content of FILE decides which of them it is. Coordinates are pixels of the slide's finest
    level.
    """


@command.command("show")
@_file
@_slide
@click.option(
    "--slide-mpp",
    type=_UM,
    help="Micrometres per pixel of the slide's finest level, for areas in mm2.",
)
@tumour_class_option
def show(
    path: Path,
    slide_path: Path | None,
    slide_mpp: float | None,
    tumour_classes: tuple[str, ...],
) -> None:
    """List the regions with their classes and areas, and the problems of the file.

    With --slide, vertices outside the slide are problems too, and areas are in mm2.

    \b
    Examples:
      slidescan annotations show annotations.geojson
      slidescan annotations show annotations.xml --slide slide.tif
    """
    frame = _frame_of(slide_path, slide_mpp) if slide_path else None
    found = _load(path, frame, tumour_classes)
    pitch = frame.mpp if frame else (slide_mpp, slide_mpp) if slide_mpp else None
    for line in _table(found, pitch):
        click.echo(line)
    for problem in found.problems:
        click.echo(f"problem: {problem}")
    if found.not_used:
        click.echo(f"not counted as tumour: {found.describe_not_used()}")


@command.command("rasterise")
@_file
@_slide
@click.option(
    "--size",
    type=(click.IntRange(1, 10_000_000), click.IntRange(1, 10_000_000)),
    metavar="WIDTH HEIGHT",
    help="Size of the slide's finest level in px, instead of --slide.",
)
@click.option(
    "--slide-mpp",
    type=_UM,
    help="Micrometres per pixel of that level: with --size, or if the slide records none.",
)
@click.option(
    "--mpp",
    type=_UM,
    default=7.776,
    show_default=True,
    help="Micrometres per cell of the mask; the default is the cell of the shipped models' maps.",
)
@tumour_class_option
@click.option("--out", type=PATH, required=True, help="The mask: .png, .tif (tiled) or .npy.")
def rasterise(
    path: Path,
    slide_path: Path | None,
    size: tuple[int, int] | None,
    slide_mpp: float | None,
    mpp: float,
    tumour_classes: tuple[str, ...],
    out: Path,
) -> None:
    """Make a mask of the tumour: 255 where the centre of a cell lies in it, else 0.

    The corner of cell (0, 0) is the corner of the slide, so the mask lies on a map of the same
    resolution.

    \b
    Examples:
      slidescan annotations rasterise annotations.xml --slide slide.tif --out mask.png
      slidescan annotations rasterise annotations.xml --slide slide.tif --mpp 2 --out mask.tif
    """
    if (slide_path is None) == (size is None):
        raise click.UsageError("give either --slide SLIDE, or --size WIDTH HEIGHT and --slide-mpp")
    if size and not slide_mpp:
        raise click.UsageError("--size needs --slide-mpp, the um/px of that level, e.g. 0.243")
    with evaluation_libraries():
        import tifffile  # noqa: F401  # here, and not when the first rows are written

        from slidescan.annotations.masks import check_suffix
    from slidescan.tools.atomic_files import check_folder

    check_suffix(out)
    check_folder(out)
    if size and slide_mpp:
        frame = Frame(size, (slide_mpp, slide_mpp))
    elif slide_path:
        frame = _frame_of(slide_path, slide_mpp)
    _write(_load(path, frame, tumour_classes), frame, mpp, out)


@command.command("convert")
@_file
@tumour_class_option
@click.option("--out", type=PATH, required=True, help="The GeoJSON, e.g. slide.geojson.")
def convert(path: Path, tumour_classes: tuple[str, ...], out: Path) -> None:
    """Write the repaired regions as GeoJSON for QuPath.

    \b
    Examples:
      slidescan annotations convert annotations.xml --out converted.geojson
    """
    import json

    from slidescan.tools.atomic_files import check_folder, replacing

    check_folder(out)
    found = _load(path, None, tumour_classes)
    with evaluation_libraries():
        from shapely.geometry import mapping

        from slidescan.annotations.geojson import document

    regions = [(each.name, each.label, mapping(each.polygon)) for each in found.regions]
    with replacing(out) as beside:
        beside.write_text(json.dumps(document(regions)), encoding="utf-8")
    _warn(found)
    click.echo(f"{out}: {_count(len(regions), 'region')}")


def _frame_of(slide_path: Path, mpp: float | None) -> Frame:
    """Open the slide; its messages name the option for its resolution, which is --slide-mpp here.

    Raises:
        AnnotationError: annotations in the place of the slide.
        SlideError: it cannot be opened, or its resolution is unknown.
    """
    from slidescan.commands.checks import check_slide
    from slidescan.errors import AnnotationError, SlideError
    from slidescan.slides.slide import Slide

    if slide_path.suffix.lower() in (".xml", ".json", ".geojson"):
        raise AnnotationError(f"--slide {slide_path}: annotations; FILE is for them, name a slide")
    check_slide(slide_path)
    try:
        with Slide.open(slide_path, mpp) as slide:
            for warning in slide.warnings:
                warn(f"{slide_path}: {_with_slide_mpp(warning)}")
            height, width = slide.extent_l0
            return Frame((width, height), (slide.mpp[1], slide.mpp[0]))
    except SlideError as error:
        raise SlideError(_with_slide_mpp(str(error))) from error


def _with_slide_mpp(message: str) -> str:
    return message.replace("--mpp", "--slide-mpp")


def _load(path: Path, frame: Frame | None, tumour_classes: tuple[str, ...]) -> Annotations:
    from slidescan.commands.checks import check_exist

    check_exist(path)
    with evaluation_libraries():
        from slidescan.annotations.reading import load_annotations

    return load_annotations(path, frame.size_l0 if frame else None, tumour_classes)


def _warn(found: Annotations) -> None:
    for problem in found.problems:
        warn(f"{found.path}: {problem}")


def _write(found: Annotations, frame: Frame, mpp: float, out: Path) -> None:
    """Write the mask and print a line about it."""
    from slidescan.annotations.masks import TILE, write_mask
    from slidescan.annotations.rasters import raster_blocks
    from slidescan.errors import ConfigError

    _warn(found)
    if found.not_used:
        warn(
            f"{found.path}: not in the mask: {found.describe_not_used()}; --tumour-class NAME adds "
            "a class"
        )
    pitch = (mpp / frame.mpp[0], mpp / frame.mpp[1])
    # The mpp of a slide is rarely exact: a millionth of a cell adds no column.
    columns, rows = (
        max(1, math.ceil(extent / step - 1e-6))
        for extent, step in zip(frame.size_l0, pitch, strict=True)
    )
    if max(columns, rows) > MOST_CELLS:
        raise ConfigError(
            f"--mpp {mpp:g}: a mask of {columns} x {rows} cells is too large; pass a larger --mpp"
        )
    lesions = found.tumour()

    def blocks() -> Iterator[NDArray[np.bool_]]:
        with bar("rasterising", rows, "row") as progress:
            for block in raster_blocks(lesions, (rows, columns), pitch, rows=TILE):
                yield block
                progress.update(len(block))

    cells = write_mask(out, blocks(), (rows, columns), mpp)
    click.echo(
        f"{out}: {columns} x {rows} cells of {mpp:g} um, tumour {cells / (rows * columns):.4%} "
        f"({cells * mpp**2 / 1e6:.4g} mm2), {_count(len(lesions), 'lesion')}"
    )


def _table(found: Annotations, mpp: tuple[float, float] | None) -> Iterator[str]:
    """A line for each region, each class, and the lesions."""
    from slidescan.tools.text_tables import aligned

    unit, scale = ("mm2", mpp[0] * mpp[1] / 1e6) if mpp else ("Mpx", 1e-6)
    rows = [("region", "class", "vertices", "holes", unit)]
    areas = defaultdict(list)
    for region in found.regions:
        vertices, holes = _complexity(region)
        area = region.polygon.area * scale
        areas[region.label].append(area)
        rows.append((region.name, region.label, str(vertices), str(holes), f"{area:.4f}"))
    yield from aligned(rows, right=(2, 3, 4))
    for each, of in areas.items():
        yield f"{each}: {_count(len(of), 'region')}, {sum(of):.4f} {unit}"
    lesions = found.tumour()
    area = sum(lesion.area for lesion in lesions) * scale
    yield f"tumour without excluded regions: {_count(len(lesions), 'lesion')}, {area:.4f} {unit}"


def _complexity(region: Region) -> tuple[int, int]:
    """Vertices and holes of a region."""
    import shapely

    holes = shapely.get_num_interior_rings(shapely.get_parts(region.polygon)).sum()
    return int(shapely.get_num_coordinates(region.polygon)), int(holes)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
