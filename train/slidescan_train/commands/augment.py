"""`slidescan augment`: what augmentation makes of a patch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, settings_options, training_libraries
from slidescan.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 4
"""Pictures of each augmentation."""


@click.command()
@click.option("--preview", "out", type=PATH, required=True, help="PNG to write.")
@click.option("--data", type=PATH, required=True, help="Labelled patches, as `train` takes them.")
@click.option("--id", "wanted", help="Of which patch: its id, or its start. [default: a tumour]")
@settings_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(
    out: Path,
    data: Path,
    wanted: str | None,
    config: Path | None,
    changes: tuple[str, ...],
    seed: int,
) -> None:
    """Write a sheet of one patch with every augmentation, its name and its probability.

    Each is drawn four times, those of probability 0 as well.
    """
    from slidescan.tools.atomic_files import check_png

    check_png(out)
    with training_libraries():
        from slidescan.pictures.grids import grid
        from slidescan_train.augmentation import preview
        from slidescan_train.recipe.config import load_config

    settings = load_config(config, changes).augment
    patch_id, pixels = _patch(data, wanted)
    tiles = preview(pixels, settings, seed, DRAWS)
    title = f"Augmentations of patch {patch_id[:12]}; the label is about the square of 32 px"
    grid(out, tiles, columns=2 * DRAWS, title=title, mark=True)
    click.echo(f"{out}: every augmentation of patch {patch_id}")


def _patch(root: Path, wanted: str | None) -> tuple[str, NDArray[np.uint8]]:
    """The id and the (96, 96, 3) RGB of a patch: the one wanted, else the first with tumour."""
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
    with tempfile.TemporaryDirectory() as folder:  # nothing is left in the data for one patch
        cached = load_cache(listing, found, cache=Path(folder))
        pixels = np.array(cached.stored[cached.rows[0]])
    patch_id = listing.ids[found[0]]
    if cached.unread:
        raise DataError(f"{root}: patch {patch_id}: {cached.unread[0].detail}; choose another --id")
    return patch_id, pixels
