"""Labelled patches of a folder, checked and divided into training and validation.

See `sources` for the layouts, `cache` for the pixels, `splits` for the division.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.patches.labelled import splits
from slidescan.patches.labelled.cache import Cached, Progress, Say, load_cache
from slidescan.patches.labelled.defects import Defect, refusal, repeated, write_defects
from slidescan.patches.labelled.listing import Listing
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.reading import HASH
from slidescan.patches.labelled.sources import ABOUT, find_layout, list_patches
from slidescan.tools.csv_tables import write_table


@dataclass(frozen=True, slots=True)
class Data:
    """Training and validation patches, each side sorted by id."""

    training: Patches
    validation: Patches
    about: str
    """Description of the patches, for a model's card."""
    split: str
    """Description of the split, for a model's card."""
    fingerprint: str
    """SHA-256 over side, id, label and the pixels' SHA-256 of every patch, in order."""
    left_out: tuple[Defect, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The content of a folder of patches and its defects."""

    listing: Listing
    """Defects of the selected patches."""
    cached: Cached
    """Their pixels."""
    defects: tuple[Defect, ...]
    copies: int
    """Patches of the original edition that repeat the pixels of another; no defect there."""
    shared: tuple[Defect, ...]
    """Training patches of the original edition whose pixels are also in validation."""

    def patches(self) -> Patches:
        """All listed patches, those with defects included."""
        return Patches(self.listing.ids, self.listing.labels, self.cached.stored, self.cached.rows)

    def kept(self) -> NDArray[np.intp]:
        """Rows of the listing without a defect."""
        bad = {defect.name for defect in self.defects}
        return np.flatnonzero([i not in bad for i in self.listing.ids])


def load_data(
    root: Path,
    *,
    validation: float = splits.SHARE,
    groups: Path | None = None,
    only: Path | None = None,
    cache: Path | None = None,
    skip_bad: bool = False,
    report: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Data:
    """Load the labelled patches under `root`, memory-mapped from a cache that is built if needed.

    `validation` is the share to hold out, by each id's hash or, with `groups` (a CSV of id and
    slide), by whole slides; it does not apply to the original PatchCamelyon, which has an official
    split. `only` is a file with the ids to take, or unique beginnings of them. `cache` is a folder
    for the cache. With `skip_bad`, patches with a defect are left out. `report` is the file for a
    table of the defects, written if there are any, even if they end the loading. `progress` has
    tqdm's signature; `say` gets a line for each step that takes long. Scripts must call this under
    `if __name__ == "__main__"`, because worker processes read many patches.

    Raises:
        DataError: the layout, a table or a label is not as described, patches have defects and
            `skip_bad` is not set, or a side lacks a class.
        WriteError: the cache or the report cannot be written.
    """
    say = say or (lambda _: None)
    slides = None if groups is None else read_slides(groups, root)
    found = survey(root, only=only, cache=cache, progress=progress, say=say)
    if skip_bad:
        found = replace(found, defects=(*found.defects, *found.shared))
    elif found.copies:
        say(
            f"{root}: {found.copies} patches have the pixels of another, which the original "
            f"edition has by construction; kept. --skip-bad leaves out of training the "
            f"{len(found.shared)} whose pixels are in validation"
        )
    if found.defects and report:
        write_defects(report, found.defects)
    if found.defects and not skip_bad:
        raise refusal(root, found.defects, report)
    return divide(found, validation, slides)


def read_slides(groups: Path, root: Path) -> dict[str, str]:
    """Read the slide of each id. Raises `DataError` if `root` has an official split."""
    if find_layout(root) == "hdf5":
        raise DataError(
            f"--groups {groups}: {root} has the official split of PatchCamelyon; leave --groups out"
        )
    return splits.read_groups(groups)


def survey(
    root: Path,
    *,
    only: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Survey:
    """Read everything and list every defect; the arguments are those of `load_data`."""
    return survey_of(*list_patches(root, only), cache=cache, progress=progress, say=say)


def survey_of(
    listing: Listing,
    chosen: NDArray[np.intp] | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Survey:
    """Read the listed patches, or the rows `chosen`, and list every defect."""
    cached = load_cache(listing, chosen, cache=cache, progress=progress, say=say)
    if chosen is not None:
        listing = replace(listing.take(chosen), defects=listing.defects)
    unusable = _unread(listing, cached) + _misnamed(listing, cached)
    bad = {defect.name for defect in unusable}
    rows = [row for row, patch_id in enumerate(listing.ids) if patch_id not in bad]
    equal = repeated(
        [listing.ids[row] for row in rows],
        listing.labels[rows].tolist(),
        [cached.digests[row] for row in rows],
    )
    if listing.held_out is None:
        return Survey(listing, cached, (*listing.defects, *unusable, *equal), 0, ())
    shared = _shared(listing, cached, bad)
    return Survey(listing, cached, (*listing.defects, *unusable), len(equal), shared)


def _unread(listing: Listing, cached: Cached) -> list[Defect]:
    return [Defect(bad.kind, listing.ids[bad.row], bad.detail) for bad in cached.unread]


def _misnamed(listing: Listing, cached: Cached) -> list[Defect]:
    """Patches whose id is not the SHA-1 of their pixels, as Kaggle's ids are.

    Other ids of 40 hex digits need not be hashes, so these are defects only if most ids match.
    """
    rows = np.flatnonzero(cached.misnamed)
    hashes = sum(HASH.fullmatch(patch_id) is not None for patch_id in listing.ids)
    if listing.layout != "kaggle" or 2 * len(rows) >= hashes:
        return []
    detail = "holds other pixels than those whose SHA-1 its name is"
    return [Defect("pixels", listing.ids[row], detail) for row in rows]


def _shared(listing: Listing, cached: Cached, bad: Container[str]) -> tuple[Defect, ...]:
    """Training patches with the pixels of a validation patch."""
    assert listing.held_out is not None
    rows = zip(listing.ids, cached.digests, listing.held_out.tolist(), strict=True)
    sides = [row for row in rows if row[0] not in bad]
    held = {digest: patch_id for patch_id, digest, out in sides if out}
    return tuple(
        Defect("duplicate", patch_id, f"is {held[digest]}, of validation, again")
        for patch_id, digest, out in sides
        if not out and digest in held
    )


def divide(
    found: Survey, share: float = splits.SHARE, slides: Mapping[str, str] | None = None
) -> Data:
    """Divide the patches without defects into training and validation. Raises `DataError`."""
    kept = found.kept()
    if not len(kept):
        raise DataError(f"{found.listing.root}: no patch is left; correct --data or --ids")
    patches = found.patches().take(kept)
    if found.listing.held_out is not None:
        held_out, split = found.listing.held_out[kept], splits.OFFICIAL
        splits.check_sides(patches.labels, held_out)
    elif slides is not None:
        held_out = splits.by_slide(patches.ids, patches.labels, slides, share)
        split = splits.describe(held_out, share, slides, patches.ids)
    else:
        held_out = splits.by_id(patches.ids, patches.labels, share)
        split = splits.SPLIT.format(share=share)
    digests = [found.cached.digests[row] for row in kept]
    return Data(
        patches.take(np.flatnonzero(~held_out)),
        patches.take(np.flatnonzero(held_out)),
        ABOUT[found.listing.layout],
        split,
        _fingerprint(patches, digests, held_out),
        found.defects,
    )


def _fingerprint(patches: Patches, digests: Sequence[str], held_out: NDArray[np.bool_]) -> str:
    lines = (
        f"{held:d} {patch_id} {label} {digest}\n"
        for patch_id, label, digest, held in zip(
            patches.ids, patches.labels.tolist(), digests, held_out.tolist(), strict=True
        )
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def write_split(path: Path, data: Data) -> None:
    """Write the split as CSV: id, label, split. Raises `WriteError`."""
    rows = (
        (patch_id, label, side)
        for side, part in (("training", data.training), ("validation", data.validation))
        for patch_id, label in zip(part.ids, part.labels.tolist(), strict=True)
    )
    write_table(path, ("id", "label", "split"), rows)
