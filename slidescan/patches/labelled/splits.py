"""Which patches are held out for validation: by their id, by their slide, or as published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.tools.csv_tables import read_table

SHARE = 0.1
RULE = "validation: SHA-256(id) / 2**256 < "
SPLIT = RULE + "{share}; training: the rest; not slide-disjoint, so optimistic"
OFFICIAL = "the official split of PatchCamelyon: train and valid, which share no slide"
VALID = "valid-"
"""Ids of the official validation patches begin so."""

CHANCE = 4.0
"""Standard errors by which the sides' shares of tumour may differ: 1 in 16,000 by chance."""


def in_validation(patch_id: str, share: float = SHARE) -> bool:
    """Whether a patch is held out: its id's SHA-256, as a fraction of 2**256, is below `share`.

    So it depends on nothing else and never changes as data are added. The id is hashed although
    Kaggle's ids are hashes themselves: others' need not be.
    """
    return _place(patch_id) < share * 2**64


def _place(name: str) -> int:
    """Below 2**64: the beginning of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def holds_out(split: str, ids: Iterable[str]) -> bool:
    """Whether the split that a card describes holds out each of `ids`.

    Only a rule for single ids can tell; by slides, for example, it is False.
    """
    if split.startswith(OFFICIAL):
        return all(patch_id.startswith(VALID) for patch_id in ids)
    rule, _, share = split.partition(";")[0].rpartition(" ")
    if rule != RULE.rstrip():
        return False
    return all(in_validation(patch_id, float(share)) for patch_id in ids)


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 of the ids, sorted, a line each: which patches they are, not what is in them."""
    lines = "".join(f"{patch_id}\n" for patch_id in sorted(ids))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def by_id(ids: Sequence[str], labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """(N,), true for validation. The threshold is the same in both classes, so the split is
    stratified in expectation; a rank in each class would move patches as data are added.

    Raises `DataError` where a side lacks a class or the classes came out uneven.
    """
    held_out = np.array([in_validation(i, share) for i in ids], bool)
    check_sides(labels, held_out)
    _check_balance(labels, held_out)
    return held_out


def by_slide(
    ids: Sequence[str], labels: NDArray[np.int64], slides: Mapping[str, str], share: float
) -> NDArray[np.bool_]:
    """(N,), true for validation: whole slides, in the order of their names' SHA-256, until the
    share is reached and both classes are there.

    Raises `DataError` where a patch has no slide, or the slides cannot be divided so.
    """
    without = [i for i in ids if i not in slides]
    if without:
        raise DataError(
            f"--groups: {len(without)} of {len(ids)} patches have no slide, e.g. {without[0]}; "
            "add them to the table, or list the others with --ids"
        )
    names, of = np.unique([slides[i] for i in ids], return_inverse=True)
    sizes = np.bincount(of)
    positives = np.bincount(of, weights=labels)
    taken: list[int] = []
    for slide in sorted(range(len(names)), key=lambda n: _place(str(names[n]))):
        held = sizes[taken].sum()
        if held >= share * len(ids) and 0 < positives[taken].sum() < held:
            break
        taken.append(slide)
    held_out = np.isin(of, taken)
    check_sides(labels, held_out, f"; --groups names {len(names)} slides, too few to divide")
    return held_out


def read_groups(path: Path) -> dict[str, str]:
    """The slide of each id, from a CSV with the columns id and slide. Raises `DataError`."""
    slides: dict[str, str] = {}
    for line, row in read_table(path, ("id", "slide")):
        patch_id, slide = row["id"], row["slide"]
        if not patch_id or not slide:
            raise DataError(f"{path}: line {line}: has no {'slide' if patch_id else 'id'}")
        if slides.setdefault(patch_id, slide) != slide:
            raise DataError(
                f"{path}: line {line}: id {patch_id} is of slide {slide}, and before of "
                f"{slides[patch_id]}"
            )
    return slides


def check_sides(labels: NDArray[np.int64], held_out: NDArray[np.bool_], why: str = "") -> None:
    """Raise `DataError` where training or validation does not have both labels."""
    check_labels("training", labels[~held_out], why)
    check_labels("validation", labels[held_out], why)


def check_labels(name: str, labels: NDArray[np.int64], why: str = "") -> None:
    """Raise `DataError` where a side does not have both labels."""
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{name}: its {len(labels)} patches do not have both labels{why}; add more patches"
        )


def _check_balance(labels: NDArray[np.int64], held_out: NDArray[np.bool_]) -> None:
    training, validation = labels[~held_out], labels[held_out]
    overall = labels.mean()
    error = np.sqrt(overall * (1 - overall) * (1 / len(training) + 1 / len(validation)))
    if abs(training.mean() - validation.mean()) > CHANCE * error:
        raise DataError(
            f"the split by id leaves {training.mean():.1%} tumour in training and "
            f"{validation.mean():.1%} in validation, more apart than chance allows; are ids "
            "drawn from few values? Give the patches other ids, or divide by slide with --groups"
        )


def describe(
    held_out: NDArray[np.bool_], share: float, slides: Mapping[str, str] | None, ids: Sequence[str]
) -> str:
    """How validation was decided, for a model's card."""
    if slides is None:
        return SPLIT.format(share=share)
    held = {slides[i] for i, out in zip(ids, held_out, strict=True) if out}
    return (
        f"validation: {len(held)} of {len({slides[i] for i in ids})} slides, whole, in the order "
        f"of SHA-256(slide) until {share:.0%} of the patches; training: the other slides"
    )
