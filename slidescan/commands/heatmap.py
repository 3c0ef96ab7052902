"""`slidescan heatmap`: slides in, maps of tumour probabilities out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.beside import viewer_of
from slidescan.commands.checks import check_map_name, check_models, check_slide
from slidescan.commands.options import (
    PATH,
    engine_options,
    ensemble_options,
    mpp_option,
    precision_option,
)
from slidescan.commands.terminal import Terminal, command_line, print_error, say
from slidescan.errors import SlidescanError

if TYPE_CHECKING:
    from slidescan.scanning.session import Summary


@click.command()
@click.argument("slides", metavar="SLIDE...", type=PATH, nargs=-1, required=True)
@ensemble_options
@click.option(
    "--mode",
    type=click.Choice(["dense", "patch"]),
    default="dense",
    show_default=True,
    help="dense: one fully convolutional pass, in which neighbouring cells share computation. "
    "patch: each cell from its own 96 x 96 px patch. This takes any model and any even stride, "
    "but about seventy times as long.",
)
@click.option(
    "--stride",
    type=int,
    help="Scan-plane pixels between neighbouring cells. dense: 2, 4, 8, 16, ... with a model of "
    "stride 8; patch: any even number from 2 to 96. [default: the model's own]",
)
@mpp_option
@engine_options
@precision_option
@click.option(
    "--tissue-mask/--no-tissue-mask",
    default=True,
    show_default=True,
    help="Scan tissue only, or glass as well.",
)
@click.option(
    "--damaged",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do where the slide cannot be read. stop: end with an error that says where; "
    "finished blocks stay. skip: leave the cells that see the damage NaN, and list it in the map.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a finished map, or one made with other settings."
)
@click.option(
    "--view",
    is_flag=True,
    help="Show the slides and their maps in the browser while they are scanned, and afterwards "
    "until Ctrl-C; see slidescan view.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="The map of one slide, NAME.zarr. Any other name is a folder, which gets a map for each "
    "slide and manifest.csv.",
)
def command(slides: tuple[Path, ...], out: Path, view: bool, **options: Any) -> None:
    """Scan slides and write their tumour probabilities to zarr maps (OME-NGFF 0.5).

    The slide is resampled to the model's resolution, the scan plane. A cell is one value of the
    map: the probability that the 32 x 32 px around its centre hold tumour. Cells without tissue
    are NaN. Several --model are averaged; --tta d4 averages eight flips and rotations. A scan that
    was stopped is resumed by the same command.

    \b
    Examples:
      slidescan heatmap slide.tif --out map.zarr
      slidescan heatmap slide.tif --model fast --stride 16 --out map.zarr
      slidescan heatmap slides/*.tif --precision auto --out maps
    """
    single = out.suffix == ".zarr"
    if single and len(slides) > 1:
        raise click.UsageError(f"--out {out} is one map; name a folder for {len(slides)} slides")
    check_map_name(out)
    if single:  # of many, each is attempted
        check_slide(slides[0])
    check_models(options["models"])

    from slidescan.scanning.cohort import scan_all, targets
    from slidescan.scanning.session import Options, Session

    maps = {out: slides[0]} if single else targets(slides, out)
    options["device"] = options["device"] or "auto"
    session = Session(Options(**options), Terminal(), command_line())

    def scan_slide(slide: Path, target: Path) -> Summary:
        summary = session.run(slide, target)
        if not summary.complete_before:
            say(
                f"{target}: {summary.rows} x {summary.columns} cells, {summary.scanned} scanned, "
                f"{summary.megapixels:.1f} Mpx in {summary.seconds:.1f} s"
            )
        return summary

    try:
        with viewer_of(slides, out, _viewing(options)) if view else nullcontext():
            if single:
                scan_slide(slides[0], out)
            else:
                scan_all(maps, out, scan_slide, print_error)
    except KeyboardInterrupt as error:
        raise SlidescanError(
            "interrupted; finished blocks are kept, and the same command resumes the scan"
        ) from error


def _viewing(options: dict[str, Any]) -> list[str]:
    """The options of a scan that the viewer needs as well."""
    mpp = ["--mpp", str(options["mpp"])] if options["mpp"] else []
    return [*mpp, *(word for source in options["models"] for word in ("--model", source))]
