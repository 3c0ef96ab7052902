"""What a training builds on, and whether that leaves its validation patches unseen."""

from __future__ import annotations

from dataclasses import dataclass

from slidescan.models.card import Ancestor, Published
from slidescan.networks.network import Network


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to begin with, and what a card says of them."""

    network: Network
    record: Ancestor | Published


def doubt(who: str, source: Ancestor | Published | str | None, held_out_sha256: str) -> str | None:
    """Why `source`, or what it was made from, may know patches that this training holds out.

    None where it cannot: the same patches were held out of its own training, and so all the way
    back. `who` is what it is to this run, e.g. "teacher"; a string is of a card that tells no more.
    """
    if source is None or isinstance(source, Published):
        return None
    if isinstance(source, str):
        return _unknown(f"{who} {source}")
    who = f"{who} {source.name}"
    if source.held_out_sha256 is None:
        return _unknown(who)
    if source.held_out_sha256 != held_out_sha256:
        return (
            f"{who} was trained with other patches held out than this run's; where it learned from "
            "these, the validation is optimistic"
        )
    further = {"teacher": source.teacher, "start": source.start}
    found = (doubt(f"{who}, its {role}", of, held_out_sha256) for role, of in further.items())
    return next(filter(None, found), None)


def _unknown(who: str) -> str:
    return (
        f"{who} does not say which patches were held out of its training; where it learned from "
        "this run's, the validation is optimistic"
    )
