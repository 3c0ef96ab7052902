"""Look up the threshold of an operating point in the card of a model, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slidescan.errors import MapError, ModelError
from slidescan.maps.finished import Settings, settings_of
from slidescan.maps.store import Heatmap
from slidescan.models.card import Card, read_card, shipped_names
from slidescan.models.identity import described, identity_of, key, members, same_models
from slidescan.tools.urls import Place


def threshold_of(card: Card, name: str) -> float:
    """Return the threshold of a model's operating point, e.g. "sens95".

    Raises `ModelError` where the card has no such point.
    """
    points = card.operating.points if card.operating else {}
    if name not in points:
        known = f"only {', '.join(points)}" if points else "no operating table"
        raise ModelError(
            f"--threshold {name}: the card of {card.name} has {known}; slidescan calibrate makes "
            "a table, or pass a number, e.g. --threshold 0.5"
        )
    return points[name].threshold


def threshold_of_maps(name: str, maps: Sequence[Place], source: str | None) -> float:
    """Return the threshold of an operating point of the model that made the maps.

    `source` names the model; None takes the shipped model of the name that the maps record. Maps
    that cannot be opened are passed over.

    Raises:
        MapError: no map can be opened, or they were not all made by this one model without
            averaging.
        ModelError: the model's card has no such point, or there is no such model.
    """
    made: dict[Place, dict[str, Any]] = {}
    failed = ""
    for path in maps:
        try:
            heatmap = Heatmap.open(path)
            settings_of(heatmap, Settings)
            made[path] = heatmap.settings
        except MapError as error:
            failed = str(error)
    if not made:
        raise MapError(f"--threshold {name}: no map can be opened to see its model: {failed}")
    first, record = next(iter(made.items()))
    for path, other in made.items():
        _check_averaging(name, path, other)
        if not same_models(other, record):
            raise MapError(
                f"{path}: made by {described(other)}, and {first} by {described(record)}; "
                f"--threshold {name} is of one model: evaluate them separately"
            )
    return threshold_of(_card(name, first, record, source), name)


def _check_averaging(name: str, path: Place, record: dict[str, Any]) -> None:
    """Refuse averages, which are distributed otherwise than the probabilities of one model."""
    how = "--tta d4" if record.get("tta") else "several models"
    if record.get("tta") or len(members(record)) > 1:
        raise MapError(
            f"{path}: its values are averages ({how}), and --threshold {name} was chosen on those "
            "of one model without --tta; pass a number, e.g. --threshold 0.5"
        )


def _card(name: str, path: Place, record: dict[str, Any], source: str | None) -> Card:
    """Read the card of the model that made a map."""
    (model,) = members(record)
    named = model["name"] if source is None else source
    if source is not None or named in shipped_names():
        card = read_card(named)
        if key(identity_of(card)) == key(model):
            return card
    other = (
        f"not by {named}" if source is not None else "which is not a shipped model of this version"
    )
    raise MapError(
        f"{path}: made by {described(record)}, {other}; --threshold {name} needs the card of that "
        "model: name it with --model, e.g. --model runs/first"
    )
