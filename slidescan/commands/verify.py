"""`slidescan verify`: does a map equal the patch classifier?"""

from __future__ import annotations

from typing import Literal

import click

from slidescan.commands.checks import check_models, check_slide_and_map
from slidescan.commands.options import PLACE, Real, recorded_engine_options, recorded_models_option
from slidescan.commands.terminal import bar, open_slide_of
from slidescan.tools.urls import Place


@click.command()
@click.argument("slide_path", metavar="SLIDE", type=PLACE)
@click.argument("map_path", metavar="MAP", type=PLACE)
@click.option(
    "--cells",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="How many cells are compared.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which cells are drawn.")
@click.option(
    "--tolerance",
    type=Real(0),
    help="Largest difference allowed. [default: 1e-5 in fp32, 0.05 in int8, else 0.02]",
)
@recorded_models_option
@recorded_engine_options
def command(
    slide_path: Place,
    map_path: Place,
    cells: int,
    seed: int,
    tolerance: float | None,
    models: tuple[str, ...],
    engine: Literal["openvino", "torch"] | None,
    device: str | None,
    threads: int | None,
    cache: bool,
) -> None:
    """Compare random cells of MAP with the patch classifier.

    The 96 x 96 px around each cell are read from SLIDE and scored alone, as a patch. Exit code 1
    if any cell differs by more than the tolerance. Precision and --tta are those of the map;
    engine and device are, too, unless others are named.

    \b
    Examples:
      slidescan verify slide.tif map.zarr
      slidescan verify slide.tif map.zarr --cells 64 --seed 1
    """
    check_slide_and_map(slide_path, map_path)
    check_models(models)

    from slidescan.api.maps import open_map
    from slidescan.engines.backend import TOLERANCE, choose
    from slidescan.engines.ensemble import Ensemble
    from slidescan.errors import MapError
    from slidescan.maps.finished import EngineSettings, settings_of
    from slidescan.models.identity import described, same_models, shipped_models
    from slidescan.scanning.verification import compare, draw
    from slidescan.tools.hardware import cores

    heatmap = open_map(map_path).heatmap
    settings = heatmap.settings
    made = settings_of(heatmap, EngineSettings)
    with open_slide_of(heatmap, slide_path) as slide:
        ensemble = Ensemble.load(models or shipped_models(settings), settings.get("tta"), cache)
        if not same_models(settings, ensemble.record()):
            raise MapError(
                f"{map_path}: made with {described(settings)}, not with "
                f"{described(ensemble.record())}; name the map's model with --model"
            )
        drawn = draw(heatmap.scanned, cells, seed)
        if not drawn:
            raise MapError(f"{map_path}: no cell was scanned, so there is nothing to compare")
        precision = made.precision
        if device is None:
            device, engine = made.device, engine or made.engine
        infer = ensemble.engine(choose(engine, device, precision, threads or cores()))
        with bar("verifying", len(drawn), "cell") as done:
            found = compare(heatmap, slide.plane(heatmap.mpp), infer, drawn, done.update)
    tolerance = TOLERANCE[precision] if tolerance is None else tolerance
    cell = drawn[found.worst]
    line = (
        f"{map_path}: {len(drawn)} cells scored as patches, largest difference {found.largest:.2g} "
        f"at cell ({cell.y0}, {cell.x0}), tolerance {tolerance:g}"
    )
    if not found.largest <= tolerance:
        raise MapError(f"{line}: the map does NOT equal the patch classifier")
    click.echo(line)
