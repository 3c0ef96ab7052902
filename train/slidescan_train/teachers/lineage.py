"""The models that a training starts from, and whether they have seen its validation patches."""

from __future__ import annotations

from dataclasses import dataclass

from slidescan.models.ancestors import Ancestor, Published
from slidescan.networks.network import Network
from slidescan.patches.labelled import Data
from slidescan.patches.labelled.splits import holds_out, ids_sha256


@dataclass(frozen=True, slots=True)
class Start:
    """Initial weights, and what a card says about them."""

    network: Network
    record: Ancestor | Published


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The patches of one validation set of a training."""

    ids: tuple[str, ...]
    about: str
    """What the patches are, as `Data.about`: ids mean nothing in other data."""
    sha256: str
    """Of the ids, see `ids_sha256`."""
    name: str = ""
    """Of the validation set, where there are several."""

    @classmethod
    def of(cls, data: Data) -> list[HeldOut]:
        """Return one for each validation set."""
        named = len(data.sets) > 1
        return [
            cls(ids, data.about, ids_sha256(ids), each.name if named else "")
            for each in data.sets
            for ids in [each.patches.ids]
        ]

    def unseen_by(self, source: Ancestor) -> bool:
        """Whether a card shows that none of these patches was trained on.

        One of its validation sets has the same patches, or it divided the same data by a rule that
        holds out these and perhaps more.
        """
        sets = source.validation_sets or ()
        if self.sha256 in (source.held_out_sha256, *(each.ids_sha256 for each in sets)):
            return True
        same_data = (source.data or "").startswith(f"{self.about},")
        rules = (source.split or "", *(each.rule for each in sets))
        return same_data and any(holds_out(rule, self.ids) for rule in rules)


def doubt(who: str, source: Ancestor | Published | str | None, held_out: HeldOut) -> str | None:
    """Say why `source`, or a model it was made from, may have been trained on `held_out`.

    None where it was not: every model of the chain held these patches out. `who` names its part in
    this run, e.g. "--teacher"; a string is from the card of an early version.
    """
    return _doubt(who, source, held_out, set())


def _doubt(
    who: str, source: Ancestor | Published | str | None, held_out: HeldOut, cleared: set[int]
) -> str | None:
    """As `doubt`; `cleared` are the ids of objects that need not be followed again."""
    if source is None or isinstance(source, Published) or id(source) in cleared:
        return None
    if isinstance(source, str):
        return _unknown(f"{who} {source}")
    who = f"{who} {source.name}"
    if source.held_out_sha256 is None:
        return _unknown(who)
    if not held_out.unseen_by(source):
        which = f" of validation set {held_out.name}" if held_out.name else ""
        return (
            f"{who} was trained with other patches held out than this run's{which}; if it was "
            "trained on some of these, the validation is optimistic"
        )
    further = [*(("teacher", each) for each in source.teachers), ("start", source.start)]
    for role, of in further:
        if found := _doubt(f"{who}, its {role}", of, held_out, cleared):
            return found
    cleared.add(id(source))
    return None


def _unknown(who: str) -> str:
    return (
        f"{who} does not say which patches were held out of its training; if it was trained on "
        "some of this run's, the validation is optimistic"
    )
