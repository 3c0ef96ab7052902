"""`slidescan annotations`: regions drawn on a slide; shown, made a mask of, or converted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from slidescan.commands.options import PATH, Real, evaluation_libraries
from slidescan.commands.terminal import bar, open_slide, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slidescan.annotations.reading import Annotations, Region


class Frame(NamedTuple):
    """Level 0 of a slide: (width, height) in px, and um/px (x, y)."""

    size_l0: tuple[int, int]
    mpp: tuple[float, float]


def _number(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse nan, which every range lets pass."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no length", ctx, param)
    return value


_UM = Real(0.01, 1e5)
_file = click.argument("path", metavar="FILE", type=PATH)
_slide = click.option("--slide", "slide_path", type=PATH, help="The slide they were drawn on.")


@click.group()
def command() -> None:
    """Read annotations of ASAP (XML), of NCRF (JSON) or of QuPath (GeoJSON).

    Which of them FILE is, its content says. Coordinates are pixels of the slide's finest level.
    """


@command.command("show")
@_file
@_slide
@click.option(
    "--mpp",
    type=_UM,
    callback=_number,
    help="Micrometres per pixel of the slide's finest level, for areas in mm2.",
)
def show(path: Path, slide_path: Path | None, mpp: float | None) -> None:
    """List the regions with their classes and areas, and what is wrong with them.

    With --slide, vertices outside the slide are wrong as well, and areas are in mm2.
    """
    frame = _frame_of(slide_path, mpp) if slide_path else None
    found = _load(path, frame)
    pitch = frame.mpp if frame else (mpp, mpp) if mpp else None
    for line in _table(found, pitch):
        click.echo(line)
    for problem in found.problems:
        click.echo(f"problem  {problem}")


@command.command("rasterise")
@_file
@_slide
@click.option(
    "--size",
    type=(click.IntRange(1, 10_000_000), click.IntRange(1, 10_000_000)),
    metavar="WIDTH HEIGHT",
    help="Of the slide's finest level in px, in place of --slide.",
)
@click.option(
    "--slide-mpp",
    type=_UM,
    callback=_number,
    help="Micrometres per pixel of that level: with --size, or where the slide records none.",
)
@click.option(
    "--mpp",
    type=_UM,
    callback=_number,
    default=7.776,
    show_default=True,
    help="Micrometres per cell of the mask; the default is that of the shipped model's maps.",
)
@click.option("--out", type=PATH, required=True, help="The mask: .png, .tif (tiled) or .npy.")
def rasterise(
    path: Path,
    slide_path: Path | None,
    size: tuple[int, int] | None,
    slide_mpp: float | None,
    mpp: float,
    out: Path,
) -> None:
    """Make the mask of the tumour: 255 where a cell's centre lies in it, else 0.

    Cell (0, 0) has its corner at the slide's, so the mask lies on a map of the same resolution.
    """
    with evaluation_libraries():
        import tifffile  # noqa: F401  # here, and not when the first rows are written

    from slidescan.annotations.masks import check_suffix
    from slidescan.tools.atomic_files import check_folder

    if (slide_path is None) == (size is None):
        raise click.UsageError("give either --slide SLIDE, or --size WIDTH HEIGHT and --slide-mpp")
    if size and not slide_mpp:
        raise click.UsageError("--size needs --slide-mpp, the um/px of that level, e.g. 0.243")
    check_suffix(out)
    check_folder(out)
    if size and slide_mpp:
        frame = Frame(size, (slide_mpp, slide_mpp))
    elif slide_path:
        frame = _frame_of(slide_path, slide_mpp)
    _write(_load(path, frame), frame, mpp, out)


@command.command("convert")
@_file
@click.option("--out", type=PATH, required=True, help="The GeoJSON, e.g. slide.geojson.")
def convert(path: Path, out: Path) -> None:
    """Write the regions, repaired, as GeoJSON for QuPath."""
    import json

    found = _load(path, None)
    with evaluation_libraries():
        from shapely.geometry import mapping

        from slidescan.annotations.geojson import document
        from slidescan.tools.atomic_files import replacing

    regions = [(each.name, each.label, mapping(each.polygon)) for each in found.regions]
    with replacing(out) as beside:
        beside.write_text(json.dumps(document(regions)), encoding="utf-8")
    _warn(found)
    click.echo(f"{out}: {len(regions)} regions")


def _frame_of(slide_path: Path, mpp: float | None) -> Frame:
    with open_slide(slide_path, mpp) as slide:
        height, width = slide.extent_l0
        return Frame((width, height), (slide.mpp[1], slide.mpp[0]))


def _load(path: Path, frame: Frame | None) -> Annotations:
    with evaluation_libraries():
        from slidescan.annotations.reading import load_annotations

    return load_annotations(path, frame.size_l0 if frame else None)


def _warn(found: Annotations) -> None:
    for problem in found.problems:
        warn(f"{found.path}: {problem}")


def _write(found: Annotations, frame: Frame, mpp: float, out: Path) -> None:
    """The mask, and a line on it."""
    from slidescan.annotations.masks import TILE, write_mask
    from slidescan.annotations.rasters import raster_blocks

    _warn(found)
    pitch = (mpp / frame.mpp[0], mpp / frame.mpp[1])
    # A slide's mpp is rarely exact: a millionth of a cell makes no further column.
    columns, rows = (
        max(1, math.ceil(extent / step - 1e-6))
        for extent, step in zip(frame.size_l0, pitch, strict=True)
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
    """A line a region, then a line a class, then the lesions."""
    unit, scale = ("mm2", mpp[0] * mpp[1] / 1e6) if mpp else ("Mpx", 1e-6)
    names = [len(region.name) for region in found.regions]
    labels = [len(region.label) for region in found.regions]
    name, label = (min(40, max([6, *widths])) for widths in (names, labels))
    yield f"{'region':{name}}  {'class':{label}}  {'vertices':>8}  {'holes':>5}  {unit:>9}"
    for region in found.regions:
        vertices, holes = _complexity(region)
        area = region.polygon.area * scale
        yield (
            f"{region.name:{name}}  {region.label:{label}}  {vertices:8}  {holes:5}  {area:9.4f}"
        )
    areas = defaultdict(list)
    for region in found.regions:
        areas[region.label].append(region.polygon.area * scale)
    for each, of in areas.items():
        yield f"{each}: {_count(len(of), 'region')}, {sum(of):.4f} {unit}"
    lesions = found.tumour()
    area = sum(lesion.area for lesion in lesions) * scale
    yield f"tumour less what is excluded: {_count(len(lesions), 'lesion')}, {area:.4f} {unit}"


def _complexity(region: Region) -> tuple[int, int]:
    """Vertices and holes of a region."""
    import shapely

    holes = shapely.get_num_interior_rings(shapely.get_parts(region.polygon)).sum()
    return int(shapely.get_num_coordinates(region.polygon)), int(holes)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
