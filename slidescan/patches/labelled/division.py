"""Divide surveyed folders into training patches and sets of validation patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.patches.labelled import splits
from slidescan.patches.labelled.defects import Defect
from slidescan.patches.labelled.near_copies import near_copies
from slidescan.patches.labelled.patches import Patches, joined
from slidescan.patches.labelled.sources import ABOUT
from slidescan.patches.labelled.survey import Survey

SPLIT = "split"
"""The name of the validation set that is split off the training folders."""


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """The training patches of one folder."""

    name: str
    patches: int
    tumour: int
    fingerprint: str
    """SHA-256 over id, label and the pixels' SHA-256 of each patch."""


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Patches that are scored and not trained on, sorted by id."""

    name: str
    """The folder's name, or `SPLIT`."""
    patches: Patches
    rule: str
    """Which patches they are, for a model's card."""
    fingerprint: str
    """As `TrainingFolder.fingerprint`."""


@dataclass(frozen=True, slots=True)
class Data:
    """Training patches, sorted by id, and sets of validation patches."""

    training: Patches
    sets: tuple[ValidationSet, ...]
    """At least one. The first chooses a run's best epoch."""
    about: str
    """Description of the training patches, for a model's card."""
    folders: tuple[TrainingFolder, ...]
    fingerprint: str
    """SHA-256 over side, id, label and the pixels' SHA-256 of every patch, in order."""
    left_out: tuple[Defect, ...]
    """Patches with defects, and copies of validation patches."""

    @property
    def validation(self) -> Patches:
        """The patches of the first validation set."""
        return self.sets[0].patches

    @property
    def split(self) -> str:
        """Which patches the first validation set has, for a model's card."""
        return self.sets[0].rule


@dataclass(frozen=True, slots=True)
class _Pool:
    """The patches without defects of all folders, sorted by id."""

    patches: Patches
    digests: tuple[str, ...]
    folder: NDArray[np.intp]
    """(N,): the number of each patch's folder."""
    published: NDArray[np.bool_]
    """(N,): whether a published split holds it out."""

    def take(self, rows: NDArray[np.intp]) -> _Pool:
        digests = tuple(self.digests[row] for row in rows)
        return _Pool(self.patches.take(rows), digests, self.folder[rows], self.published[rows])

    def fingerprint(self) -> str:
        patches = self.patches
        columns = zip(patches.ids, patches.labels.tolist(), self.digests, strict=True)
        return _sha256(f"{patch_id} {label} {digest}\n" for patch_id, label, digest in columns)


def divide(
    found: Sequence[Survey],
    share: float = splits.SHARE,
    slides: Mapping[str, str] | None = None,
    held: Sequence[Survey] = (),
) -> Data:
    """Divide the patches without defects into training and validation.

    The folders `held` are validation sets. A `share` of the folders `found` is one too, the last,
    unless it is 0. Copies of validation patches in other files are left out of training where there
    is more than one folder; see `near_copies`.

    Raises:
        DataError: there are no patches to validate on, or training or a set lacks a class.
    """
    pool, held_out, rule = _split(found, share, slides)
    names = unique_names([each.listing.root for each in held])
    parts = [_pooled([each]) for each in held]
    sets = [_explicit(*each) for each in zip(names, held, parts, strict=True)]
    if held_out.any():
        parts.append(pool.take(np.flatnonzero(held_out)))
        sets.append(ValidationSet(SPLIT, parts[-1].patches, rule, parts[-1].fingerprint()))
    if not sets:
        raise DataError("there are no patches to validate on; pass --validation DIR")
    training, copies = pool.take(np.flatnonzero(~held_out)), list[Defect]()
    if len(found) + len(held) > 1:
        training, copies = _without_copies(training, parts, [each.name for each in sets])
    splits.check_labels("training", training.patches.labels)
    for each in sets:
        splits.check_labels(f"validation set {each.name}", each.patches.labels)
    fingerprint = _fingerprint(pool, held_out)
    if held or copies:
        lines = (f"{each.name} {each.fingerprint}\n" for each in sets)
        fingerprint = _sha256([f"{fingerprint} {training.fingerprint()}\n", *lines])
    abouts = dict.fromkeys(ABOUT[each.listing.layout] for each in found)
    defects = (defect for each in (*found, *held) for defect in each.defects)
    return Data(
        training.patches,
        tuple(sets),
        " and ".join(abouts),
        _folders(found, training),
        fingerprint,
        (*defects, *copies),
    )


def unique_names(folders: Sequence[Path], taken: str = SPLIT) -> list[str]:
    """Name folders by their last part; a name that another has gets a number.

    >>> unique_names([Path("a/valid"), Path("b/valid"), Path("split")])
    ['valid', 'valid-2', 'split-2']
    """
    names: list[str] = []
    for folder in folders:
        stem = folder.resolve().name
        name, number = stem, 1
        while name in (*names, taken):
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _pooled(found: Sequence[Survey]) -> _Pool:
    kept = [each.kept() for each in found]
    if not sum(map(len, kept)):
        roots = ", ".join(str(each.listing.root) for each in found)
        raise DataError(f"{roots}: no patch is left; correct --data or --ids")
    stored = [each.cached.stored for each in found]
    starts = np.cumsum([0, *map(len, stored)]).tolist()
    both = list(zip(found, kept, starts, strict=False))
    ids = _unique_ids(
        [[each.listing.ids[row] for row in rows] for each, rows, _ in both],
        unique_names([each.listing.root for each in found]),
    )
    patches = Patches(
        tuple(ids),
        np.concatenate([each.listing.labels[rows] for each, rows, _ in both]),
        joined(stored),
        np.concatenate([each.cached.rows[rows] + start for each, rows, start in both]),
    )
    digests = tuple(each.cached.digests[row] for each, rows, _ in both for row in rows)
    folder = np.repeat(np.arange(len(found)), [len(rows) for rows in kept])
    published = np.concatenate(
        [
            np.zeros(len(rows), bool) if (held := each.listing.held_out) is None else held[rows]
            for each, rows, _ in both
        ]
    )
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.intp)
    return _Pool(patches, digests, folder, published).take(order)


def _unique_ids(ids: Sequence[Sequence[str]], folders: Sequence[str]) -> list[str]:
    """The ids of all folders; an id that an earlier folder has is preceded by its folder's name."""
    seen: set[str] = set()
    named: list[str] = []
    for own, folder in zip(ids, folders, strict=True):
        named += [f"{folder}/{patch_id}" if patch_id in seen else patch_id for patch_id in own]
        seen.update(own)
    return named


def _split(
    found: Sequence[Survey], share: float, slides: Mapping[str, str] | None
) -> tuple[_Pool, NDArray[np.bool_], str]:
    """The patches of the training folders, which of them are held out, and by which rule."""
    pool = _pooled(found)
    held_out = pool.published.copy()
    official = [each.listing.held_out is not None for each in found]
    free = np.flatnonzero(~np.array(official)[pool.folder])
    rules = [splits.OFFICIAL] if any(official) else []
    if share and not all(official):
        held_out[free], rule = _held_out(pool.patches.take(free), share, slides)
        rules.append(rule)
    return pool, held_out, " and ".join(rules)


def _held_out(
    patches: Patches, share: float, slides: Mapping[str, str] | None
) -> tuple[NDArray[np.bool_], str]:
    if slides is None:
        held_out = splits.by_id(patches.ids, patches.labels, share)
    else:
        held_out = splits.by_slide(patches.ids, patches.labels, slides, share)
    return held_out, splits.describe(held_out, share, slides, patches.ids)


def _explicit(name: str, found: Survey, pool: _Pool) -> ValidationSet:
    """A whole folder as a validation set."""
    side = "all" if found.listing.held_out is None else "the official validation"
    rule = f"validation: {side} patches of folder {name}, {ABOUT[found.listing.layout]}"
    return ValidationSet(name, pool.patches, rule, pool.fingerprint())


def _without_copies(
    training: _Pool, parts: Sequence[_Pool], names: Sequence[str]
) -> tuple[_Pool, list[Defect]]:
    """Leave out of training what repeats a validation patch, and list it."""
    dropped: dict[int, Defect] = {}
    for part, name in zip(parts, names, strict=True):
        held = dict(zip(part.digests, part.patches.ids, strict=True))
        for row, digest in enumerate(training.digests):
            if digest in held:
                detail = f"is {held[digest]} of validation set {name}"
                dropped.setdefault(row, Defect("held-out", training.patches.ids[row], detail))
        for row, of in near_copies(training.patches, part.patches):
            detail = f"looks the same as {part.patches.ids[of]} of validation set {name}"
            dropped.setdefault(row, Defect("near-copy", training.patches.ids[row], detail))
    kept = np.setdiff1d(np.arange(len(training.digests)), list(dropped))
    return training.take(kept), [dropped[row] for row in sorted(dropped)]


def _folders(found: Sequence[Survey], training: _Pool) -> tuple[TrainingFolder, ...]:
    names = unique_names([each.listing.root for each in found], taken="")
    parts = [training.take(np.flatnonzero(training.folder == n)) for n in range(len(found))]
    return tuple(
        TrainingFolder(name, len(part.digests), int(part.patches.labels.sum()), part.fingerprint())
        for name, part in zip(names, parts, strict=True)
    )


def _fingerprint(pool: _Pool, held_out: NDArray[np.bool_]) -> str:
    columns = zip(
        *(pool.patches.ids, pool.patches.labels.tolist(), pool.digests, held_out.tolist()),
        strict=True,
    )
    return _sha256(
        f"{held:d} {patch_id} {label} {digest}\n" for patch_id, label, digest, held in columns
    )


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
