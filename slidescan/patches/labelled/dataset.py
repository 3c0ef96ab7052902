"""Labelled patches of one or several folders, checked and divided into training and validation.

See `sources` for the layouts, `cache` for the pixels, `survey` for defects, `division` for the
division.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from slidescan.errors import DataError
from slidescan.patches.labelled import splits
from slidescan.patches.labelled.cache import Progress, Say
from slidescan.patches.labelled.defects import Defect, refusal, write_defects
from slidescan.patches.labelled.division import Data, divide
from slidescan.patches.labelled.sources import find_layout, list_patches
from slidescan.patches.labelled.survey import Survey, survey_all, survey_of
from slidescan.tools.csv_tables import write_table


def load_data(
    *roots: Path,
    held: Sequence[Path] = (),
    validation: float = splits.SHARE,
    groups: Path | None = None,
    only: Path | None = None,
    cache: Path | None = None,
    skip_bad: bool = False,
    report: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Data:
    """Load the labelled patches under `roots`, memory-mapped from caches that are built if needed.

    The patches under `held` are validation sets, and those among `roots` that look the same are
    left out of training. `validation` is the share of `roots` to hold out, 0 for none, by each id's
    hash or, with `groups` (a CSV of id and slide), by whole slides; it does not apply to the
    original PatchCamelyon, which has an official split. `only` is a file with the ids of `roots` to
    take, or unique beginnings of them. `cache` is a folder for the caches. With `skip_bad`, patches
    with a defect are left out. `report` is the file for a table of the defects and of the copies of
    validation patches, written if there are any, even if they end the loading. `progress` has
    tqdm's signature; `say` gets a line for each step that takes long. Scripts must call this under
    `if __name__ == "__main__"`, because worker processes read many patches.

    Raises:
        DataError: the layout, a table or a label is not as described, patches have defects and
            `skip_bad` is not set, or training or a validation set lacks a class.
        WriteError: a cache or the report cannot be written.
    """
    say = say or (lambda _: None)
    slides = None if groups is None else read_slides(groups, *roots)
    found = survey_all(roots, only=only, cache=cache, progress=progress, say=say)
    sets = [_survey_held(root, cache, progress, say) for root in held]
    found, sets = ([_settled(each, skip_bad, say) for each in part] for part in (found, sets))
    defects = tuple(defect for each in (*found, *sets) for defect in each.defects)
    if defects and report:
        write_defects(report, defects)
    if not skip_bad:
        for each in (*found, *sets):
            if each.defects:
                raise refusal(each.listing.root, each.defects, report)
    data = divide(found, validation, slides, sets)
    copies = [defect for defect in data.left_out if defect.kind in COPIES]
    if copies:
        _tell_copies(copies, report, say)
        if report:
            write_defects(report, data.left_out)
    return data


COPIES = ("held-out", "near-copy")
"""Kinds of training patches that are left out without `skip_bad`."""


def _tell_copies(copies: Sequence[Defect], report: Path | None, say: Say) -> None:
    near = sum(defect.kind == "near-copy" for defect in copies)
    where = f"; {report} lists them" if report else ""
    say(
        f"{len(copies):,} training patches are left out because they are in a validation set, "
        f"{near:,} of them as another file of the same picture{where}"
    )


def _survey_held(root: Path, cache: Path | None, progress: Progress | None, say: Say) -> Survey:
    """Read a validation set: all of a folder, or the validation side of an official split."""
    listing, rows = list_patches(root)
    if listing.held_out is not None:
        rows = np.flatnonzero(listing.held_out)
    return survey_of(listing, rows, cache=cache, progress=progress, say=say)


def _settled(found: Survey, skip_bad: bool, say: Say) -> Survey:
    """Decide what becomes of the copies that the original edition has by construction."""
    if skip_bad:
        return replace(found, defects=(*found.defects, *found.shared))
    if found.copies:
        say(
            f"{found.listing.root}: {found.copies} patches have the pixels of another, which the "
            f"original edition has by construction; kept. --skip-bad leaves out of training the "
            f"{len(found.shared)} whose pixels are in validation"
        )
    return found


def read_slides(groups: Path, *roots: Path) -> dict[str, str]:
    """Read the slide of each id. Raises `DataError` if one of `roots` has an official split."""
    for root in roots:
        if find_layout(root) == "hdf5":
            raise DataError(
                f"--groups {groups}: {root} has the official split of PatchCamelyon; leave "
                "--groups out"
            )
    return splits.read_groups(groups)


def write_split(path: Path, data: Data) -> None:
    """Write the split as CSV: id, label, split. Raises `WriteError`.

    The split is `training`, `validation` for the first validation set, or `validation.NAME`.
    """
    first, *others = data.sets
    sides = [("training", data.training), ("validation", first.patches)]
    sides += [(f"validation.{each.name}", each.patches) for each in others]
    rows = (
        (patch_id, label, side)
        for side, part in sides
        for patch_id, label in zip(part.ids, part.labels.tolist(), strict=True)
    )
    write_table(path, ("id", "label", "split"), rows)
