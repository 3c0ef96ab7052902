"""Read folders of patches and list their defects."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.patches.labelled.cache import Cached, Progress, Say, load_cache
from slidescan.patches.labelled.defects import Defect, repeated
from slidescan.patches.labelled.listing import Listing
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.reading import HASH
from slidescan.patches.labelled.sources import list_patches, list_several


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


def survey_all(
    roots: Sequence[Path],
    *,
    only: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> list[Survey]:
    """Read several folders; patches that are in an earlier one too are defects of the later one."""
    found = [
        survey_of(listing, rows, cache=cache, progress=progress, say=say)
        for listing, rows in list_several(roots, only)
    ]
    return _across(found)


def _across(found: Sequence[Survey]) -> list[Survey]:
    """Add the defects that two folders have together."""
    seen: dict[str, tuple[int, str, int]] = {}
    more: list[list[Defect]] = [[] for _ in found]
    for n, each in enumerate(found):
        own = {}
        for row in each.kept().tolist():
            digest, patch_id = each.cached.digests[row], each.listing.ids[row]
            label = int(each.listing.labels[row])
            own[digest] = n, patch_id, label
            if digest not in seen:
                continue
            at, other, labelled = seen[digest]
            if label == labelled:
                where = found[at].listing.root
                more[n].append(Defect("duplicate", patch_id, f"is {other} of {where} again"))
            else:
                more[n].append(_contradicting(patch_id, label, found[at], other, labelled))
                more[at].append(_contradicting(other, labelled, each, patch_id, label))
        seen = own | seen
    return [
        replace(each, defects=(*each.defects, *dict.fromkeys(new)))
        for each, new in zip(found, more, strict=True)
    ]


def _contradicting(
    patch_id: str, label: int, where: Survey, other: str, other_label: int
) -> Defect:
    detail = (
        f"is labelled {label}, and {other} of {where.listing.root}, the same pixels, {other_label}"
    )
    return Defect("contradiction", patch_id, detail)


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
