"""`slidescan export png` and `jpg`: a map as a picture, with or without its slide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.checks import check_map, check_new, check_slide_and_map
from slidescan.commands.export.options import (
    open_map_to_export,
    target_options,
    threshold_options,
)
from slidescan.commands.options import (
    PATH,
    PLACE,
    Real,
    check_use_of_model,
    colours_option,
    resolve_threshold,
)
from slidescan.commands.terminal import bar, open_slide_of

if TYPE_CHECKING:
    from slidescan.exports.pictures import View
    from slidescan.geometry import Box
    from slidescan.maps.store import Heatmap
    from slidescan.slides.slide import Slide
    from slidescan.tools.urls import Place

USUAL_PX = 1600
LAYOUTS = ("side-by-side", "overlay", "map")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--out", type=PATH, required=True, help="The picture, e.g. map.png."),
        target_options,
        click.option(
            "--plain",
            is_flag=True,
            help="The picture only: no scale bar, key, title and outline. In a PNG, a map alone is "
            "then transparent where nothing is drawn.",
        ),
        click.option(
            "--crop",
            type=int,
            nargs=4,
            metavar="X Y W H",
            help="Only this part of the slide: left, top, width and height in level-0 px.",
        ),
        click.option(
            "--opacity",
            type=Real(0, 1),
            help="Opacity of the map, 0 to 1. [default: 1 for a map alone, else 0.75 in heat and "
            "0.5 in other colours]",
        ),
        colours_option,
        threshold_options(None, "Draw only cells of at least this probability."),
        click.option(
            "--width", type=click.IntRange(64), help="Width of the slide in the picture, px."
        ),
        click.option(
            "--size",
            type=click.IntRange(64),
            help=f"Longest side of the slide in the picture, px; up to the resolution of the "
            f"slide. [default: {USUAL_PX}, or the scan's resolution if that is coarser]",
        ),
        click.option(
            "--layout",
            type=click.Choice(LAYOUTS),
            default="side-by-side",
            show_default=True,
            help="The slide beside the slide under its map, the latter alone, or the map alone.",
        ),
        click.option(
            "--slide", "slide_path", type=PLACE, help="The slide of the map; not for --layout map."
        ),
        click.argument("map_path", metavar="MAP", type=PLACE),
    ):
        command = option(command)
    return command


@click.command("png")
@_options
def png(**given: Any) -> None:
    """Draw a map over its slide, with scale bar and key.

    \b
    Examples:
      slidescan export png map.zarr --slide slide.tif --out map.png
      slidescan export png map.zarr --slide slide.tif --layout overlay --size 300 --out small.png
      slidescan export png map.zarr --layout map --plain --colours viridis --out values.png
    """
    _export((".png",), {"format": "PNG"}, None, **given)


@click.command("jpg")
@_options
def jpg(**given: Any) -> None:
    """Draw a map over its slide as JPEG, which is smaller than PNG.

    \b
    Examples:
      slidescan export jpg map.zarr --slide slide.tif --out map.jpg
      slidescan export jpg map.zarr --slide slide.tif --crop 40 40 160 120 --out part.jpg
    """
    how = {"format": "JPEG", "quality": 92, "subsampling": 0}
    _export((".jpg", ".jpeg"), how, 65535, **given)


def _export(
    suffixes: tuple[str, ...],
    how: dict[str, Any],
    most_side_px: int | None,
    *,
    map_path: Place,
    slide_path: Place | None,
    layout: Any,
    size: int | None,
    width: int | None,
    threshold: float | str | None,
    model: str | None,
    colour_name: str,
    opacity: float | None,
    crop: tuple[int, int, int, int] | None,
    plain: bool,
    partial: bool,
    overwrite: bool,
    out: Path,
) -> None:
    if size and width:
        raise click.UsageError("give --size or --width, not both")
    if slide_path is None and layout != "map":
        raise click.UsageError(f"--layout {layout} needs --slide; --layout map does not")
    if plain and layout == "side-by-side":
        raise click.UsageError("--plain is one picture; choose --layout overlay or map")
    if slide_path:
        check_slide_and_map(slide_path, map_path)
    else:
        check_map(map_path)
    check_new(out, suffixes, overwrite=overwrite)
    check_use_of_model(model, threshold)

    from contextlib import nullcontext

    from slidescan.exports import pictures
    from slidescan.pictures.colours import colours
    from slidescan.pictures.overlay import Look
    from slidescan.tools.atomic_files import replacing
    from slidescan.tools.hardware import cores

    heatmap = open_map_to_export(map_path, partial=partial)
    if opacity is None and layout == "map":
        opacity = 1.0
    if threshold is not None:
        threshold = resolve_threshold(threshold, [map_path], model)
    look = Look(colours(colour_name), opacity, threshold)
    title = None if plain else _title(heatmap)
    with open_slide_of(heatmap, slide_path) if slide_path else nullcontext() as slide:
        view = _view(heatmap, slide, crop, size, width, drawn=layout != "map")
        pictures.check_view(view, layout, most_side_px)
        plane = slide.plane(view.um_per_px) if slide and layout != "map" else None
        what = pictures.Drawing(view, look, layout, title, transparent=how["format"] == "PNG")
        with bar("drawing", view.box.area, "px") as progress:
            drawn = pictures.draw(heatmap, plane, what, cores(), progress)
    with replacing(out) as beside:
        drawn.image.save(beside, **how)
    _tell(out, view, drawn.any)


def _title(heatmap: Heatmap) -> str:
    from slidescan.maps.finished import scanned_share

    model = heatmap.settings["model"]["name"]
    share = "" if heatmap.complete else f"   {scanned_share(heatmap):.1%} scanned"
    return f"{heatmap.provenance['slide']}   model {model}   research use only{share}"


def _view(
    heatmap: Heatmap,
    slide: Slide | None,
    crop: tuple[int, int, int, int] | None,
    size: int | None,
    width: int | None,
    *,
    drawn: bool,
) -> View:
    """The part of the slide to draw, and its resolution; `drawn`: with the slide's pixels.

    Raises ConfigError where the crop is not in the slide, or the slide is not that fine.
    """
    from slidescan.errors import ConfigError
    from slidescan.exports.pictures import View
    from slidescan.geometry import Box
    from slidescan.maps.finished import recorded_bounds

    recorded = heatmap.settings["slide"]
    mpp = recorded["mpp"][0], recorded["mpp"][1]
    whole = Box(0, 0, *recorded["extent_l0"])
    # The scanned part of the slide: MIRAX slides are mostly empty outside of it.
    bounds = slide.bounds_l0 if slide else (recorded_bounds(heatmap) or whole).clip(whole)
    part = _cropped(crop, whole) if crop else bounds if bounds.area else whole
    px, side = (width, "width") if width else (size, "longest")
    if px:
        view = View.of(part, mpp, px=px, side=side)  # type: ignore[arg-type]
    else:
        longest_um = max(n * um for n, um in zip(part.shape, mpp, strict=True))
        px = max(1, min(USUAL_PX, round(longest_um / heatmap.mpp)))
        view = View.of(part, mpp, px=px, side="longest")
    if drawn and view.um_per_px < max(mpp) / 1.1:
        finest = round(part.shape[1] * mpp[1] / max(mpp))
        raise ConfigError(
            f"{px} px are more than the slide has, which is {part.shape[1]} x {part.shape[0]} px "
            f"here; choose at most --width {finest}"
        )
    return view


def _cropped(crop: tuple[int, int, int, int], whole: Box) -> Box:
    from slidescan.errors import ConfigError
    from slidescan.geometry import Box

    x, y, width, height = crop
    box = Box(y, x, y + height, x + width)
    if min(width, height) < 1 or box != box.clip(whole):
        given = " ".join(map(str, crop))
        raise ConfigError(
            f"--crop {given}: not a part of the slide, which is {whole.x1} x {whole.y1} px; give "
            "X Y W H in level-0 px"
        )
    return box


def _tell(out: Path, view: View, any_drawn: bool) -> None:
    (height, width), (x, y, w, h) = view.box.shape, view.box_l0
    click.echo(
        f"{out}: {width} x {height} px at {view.um_per_px:.3g} um/px, "
        f"level-0 x={x:.6g}, y={y:.6g}, {w:.6g} x {h:.6g} px"
    )
    if not any_drawn:
        click.echo("no cell of this part has a value at or above the threshold")
