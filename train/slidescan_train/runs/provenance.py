"""What a run was trained and validated on, and which models it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slidescan.errors import DataError, ModelError
from slidescan.models.ancestors import Ancestor, Published
from slidescan.models.card import Card, read_card
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.tools.csv_tables import read_table
from slidescan_train.runs.files import BEST, LAST, SPLIT

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The patches that a run's scores are of."""

    sha256: str
    """Of the ids: equal for the same patches only."""
    patches: int

    def __str__(self) -> str:
        return f"{self.patches:,} patches ({self.sha256[:8]})"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a run's weights and scores come from."""

    validation: ValidationSet | None = None
    data: str = UNKNOWN
    """The edition of the patches."""
    training: int | None = None
    """How many patches it was trained on."""
    teachers: tuple[str, ...] = ()
    start: str = "-"
    models: Mapping[str, str] | None = None
    """The run's own models: SHA-256 of the weights to the name of the file."""


def provenance(folder: Path) -> Provenance:
    """Read the cards in a run's folder, or its split where it has no model yet.

    Nothing is required of the folder: what cannot be read is unknown.
    """
    cards = {}
    for name in BEST, LAST:
        try:
            cards[name] = read_card(str(folder / name))
        except ModelError:
            continue
    if LAST not in cards:
        return _of_split(folder / SPLIT)
    card = cards[LAST]
    data, count = _data(card)
    return Provenance(
        validation=ValidationSet(card.held_out_sha256 or UNKNOWN, card.validation.patches),
        data=data,
        training=count,
        teachers=tuple(map(_name, card.teachers)),
        start=_name(card.start),
        models={each.weights_sha256: Path(name).stem for name, each in cards.items()},
    )


def _data(card: Card) -> tuple[str, int | None]:
    """The edition and the number of training patches, from a card's `data`."""
    found = re.match(r"(.*), (\d+) training patches", card.data)
    return (found[1], int(found[2])) if found else (card.data, None)


def _of_split(path: Path) -> Provenance:
    try:
        sides: dict[str, list[str]] = {"training": [], "validation": []}
        for _, row in read_table(path, ("id", "split")):
            sides.setdefault(row["split"] or "", []).append(row["id"] or "")
    except DataError:
        return Provenance()
    held_out = sides["validation"]
    return Provenance(
        ValidationSet(ids_sha256(held_out), len(held_out)), UNKNOWN, len(sides["training"])
    )


def _name(source: Ancestor | Published | str | None) -> str:
    if source is None:
        return "-"
    if isinstance(source, Ancestor):
        return f"{source.name} {source.sha256[:8]}"
    return source if isinstance(source, str) else source.published.partition(" ")[0]
