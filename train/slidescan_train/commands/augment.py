"""`slidescan augment`: a patch under every augmentation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, settings_options, training_libraries
from slidescan.errors import DataError
from slidescan.tools.atomic_files import check_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 4
"""Pictures of each augmentation."""


@click.command()
@click.option("--data", type=PATH, required=True, help="Labelled patches, as for `train`.")
@click.option(
    "--id", "wanted", help="Id of a patch, or its start. [default: the first patch with tumour]"
)
@settings_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=PATH, default="augment.png", show_default=True, help="PNG to write.")
def command(
    data: Path,
    wanted: str | None,
    config: Path | None,
    changes: tuple[str, ...],
    seed: int,
    out: Path,
) -> None:
    """Draw one patch under every augmentation, with its name and probability.

    Each augmentation is drawn four times, even if its probability is 0.

    \b
    Examples:
      slidescan augment --data pcam
      slidescan augment --data pcam --config best --set augment.stain.p=1 --out augment.png
    """
    check_png(out)
    with training_libraries():
        # Everything that is mistyped is refused before albumentations is imported.
        from slidescan_train.commands.checks import check_data
        from slidescan_train.recipe.config import load_config

    settings = load_config(config, changes).augment
    check_data([data])
    with training_libraries():
        from slidescan.pictures.grids import grid
        from slidescan_train.augmentation import preview

    patch_id, pixels = _patch(data, wanted)
    tiles = preview(pixels, settings, seed, DRAWS)
    title = f"Augmentations of patch {patch_id[:12]}; the label is about the square of 32 px"
    grid(out, tiles, columns=2 * DRAWS, title=title, mark=True)
    click.echo(f"{out}: every augmentation of patch {patch_id}")


def _patch(root: Path, wanted: str | None) -> tuple[str, NDArray[np.uint8]]:
    """Return the id and the (96, 96, 3) RGB of a patch: the wanted one, or the first tumour."""
    import numpy as np

    from slidescan.patches.labelled.cache import load_cache
    from slidescan.patches.labelled.sources import list_patches

    listing, _ = list_patches(root)
    if wanted is None:
        found = np.flatnonzero(listing.labels == 1)[:1]
    else:
        exact = wanted in listing.ids
        found = np.flatnonzero(
            [i == wanted if exact else i.startswith(wanted) for i in listing.ids]
        )
    if len(found) != 1:
        raise DataError(
            f"{root}: --id {wanted} matches {len(found)} patches; give the whole id of one"
        )
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # no cache stays in the data's folder for one patch
        cached = load_cache(listing, found, cache=Path(folder))
        pixels = np.array(cached.stored[cached.rows[0]])
    patch_id = listing.ids[found[0]]
    if cached.unread:
        raise DataError(f"{root}: patch {patch_id}: {cached.unread[0].detail}; choose another --id")
    return patch_id, pixels
