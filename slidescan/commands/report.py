"""`slidescan report`: what maps found, as HTML pages to read and to print."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.checks import check_exist, check_models, check_slide
from slidescan.commands.export.options import further_region_options, open_map_to_export
from slidescan.commands.options import PATH, PLACE, Threshold, resolve_threshold
from slidescan.commands.terminal import bar, open_slide_of, print_error

if TYPE_CHECKING:
    from slidescan.maps.regions import Rule
    from slidescan.protocols import OpenBar
    from slidescan.report.content import Choices, Content
    from slidescan.tools.urls import Place


@click.command()
@click.argument("maps", metavar="MAP...", type=PLACE, nargs=-1, required=True)
@click.option("--slide", type=PLACE, help="The slide of the map, where there is one map.")
@click.option("--slides", type=PATH, help="Folder of the slides, by the names that maps record.")
@click.option(
    "--threshold",
    type=Threshold(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Probability from which cells form regions. A name, e.g. sens95, is looked up in the card "
    "of the model that made the maps.",
)
@further_region_options
@click.option(
    "--model",
    help="The model that made the maps, for its card and a named --threshold: FILE.safetensors or "
    "a run's folder. [default: the shipped model that the maps name]",
)
@click.option(
    "--regions",
    "listed",
    type=click.IntRange(0, 500),
    default=12,
    show_default=True,
    help="Regions that are listed with a crop of the slide, the hottest first.",
)
@click.option("--partial", is_flag=True, help="Report unfinished maps as they are.")
@click.option("--overwrite", is_flag=True, help="Replace reports.")
@click.option(
    "--out",
    type=PATH,
    help="NAME.html for one map. Any other name is a folder, which gets a page for each map and "
    "index.html. [default: report.html for --slide, else report]",
)
def command(
    maps: tuple[Place, ...],
    slide: Place | None,
    slides: Path | None,
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
    listed: int,
    partial: bool,
    overwrite: bool,
    out: Path | None,
) -> None:
    """Write what MAPs found as HTML: pictures, scores, regions with crops, model and warnings.

    MAP is a map or a folder of maps. A page needs no network and no other file, and prints on A4.
    One bad map does not stop the others; the exit code is 1 if there was one.

    \b
    Examples:
      slidescan report map.zarr --slide slide.tif --out report.html
      slidescan report maps --slides slides --out report
    """
    if (slide is None) == (slides is None):
        raise click.UsageError("name either --slide or --slides")
    out = out or Path("report.html" if slide else "report")
    if slide:
        check_slide(slide)
    check_exist(slides)

    from slidescan.evaluation.paths import find_maps

    found = find_maps(maps)
    single = out.suffix.lower() in (".html", ".htm")
    if len(found) > 1 and (slide or single):
        what = f"--slide {slide} is one slide" if slide else f"--out {out} is one page"
        raise click.UsageError(f"{what}, and there are {len(found)} maps")

    from slidescan.report import pages as html
    from slidescan.report import writing
    from slidescan.report.content import Choices
    from slidescan.tools.atomic_files import check_folder

    pages = {found[0]: out.name} if single else writing.page_names(found)
    folder = out.parent if single else out
    index = [] if single else [folder / writing.INDEX]
    writing.check_new(*index, *(folder / name for name in pages.values()), overwrite=overwrite)
    names = threshold if isinstance(threshold, str) else ""
    rule = _rule(found, threshold, low, min_area, model)
    choices = Choices(rule, names, listed, (model,) if model else ())
    read = _Reader(slide, slides, choices, partial)
    if single:
        check_folder(out)
        writing.write_page(out, html.slide_page(read(found[0], bar)))
        click.echo(f"{out}: written, {out.stat().st_size / 1e6:.1f} MB")
        return
    _write_folder(folder, pages, read)


def _write_folder(folder: Path, pages: dict[Place, str], read: _Reader) -> None:
    from slidescan.errors import SlidescanError
    from slidescan.protocols import no_bar
    from slidescan.report import writing

    writing.make_folder(folder)
    with bar("reports", len(pages), "map") as done:
        failed = writing.write_cohort(
            folder, pages, partial(read, bar=no_bar), print_error, lambda: done.update(1)
        )
    click.echo(f"{folder / writing.INDEX}: written, {len(pages) - failed} slides")
    if failed:
        raise SlidescanError(f"{failed} of {len(pages)} maps failed and have no report")


class _Reader:
    """Reads maps, each with its slide."""

    def __init__(
        self, slide: Place | None, slides: Path | None, choices: Choices, unfinished: bool
    ) -> None:
        self._slide, self._slides = slide, slides
        self._choices, self._unfinished = choices, unfinished

    def __call__(self, path: Place, bar: OpenBar) -> Content:
        from slidescan.report.content import gather
        from slidescan.tools.hardware import cores

        heatmap = open_map_to_export(path, partial=self._unfinished)
        slide_path = self._slide
        if slide_path is None:
            assert self._slides is not None
            # Its name alone: the record of a map that somebody sent may hold any path.
            slide_path = self._slides / Path(heatmap.provenance["slide"]).name
        with open_slide_of(heatmap, slide_path) as slide:
            return gather(heatmap, slide, self._choices, cores(), bar)


def _rule(
    maps: list[Place],
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
) -> Rule:
    """What a region is; thresholds that are named are those of the model of all maps."""
    from slidescan.maps.regions import Rule

    check_models([model] if model else [])
    high = resolve_threshold(threshold, maps, model)
    return Rule(high, None if low is None else resolve_threshold(low, maps, model), min_area)
