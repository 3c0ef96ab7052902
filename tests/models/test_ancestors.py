"""What a card says of the models that its model was made from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from slidescan_train.teachers.lineage import HeldOut, doubt

from slidescan.errors import describe
from slidescan.models.ancestors import MOST_ANCESTORS, Ancestor, Published, Stages
from slidescan.models.card import Card, encoded, read_card

PUBLIC = Published(published="package 1.0", sha256="0" * 64)


def ancestor(name: str, **more: Any) -> Ancestor:
    return Ancestor(name=name, sha256="1" * 64, held_out_sha256="ours", **more)


def card_of(**sources: Any) -> Card:
    return read_card("default").model_copy(update={"teachers": (), "start": None} | sources)


def written(card: Card) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encoded(card))
    return content


def test_a_card_lists_each_ancestor_once_and_refers_to_it_by_number() -> None:
    first = ancestor("first", start=PUBLIC)
    second = ancestor("second", teachers=(first, "someone, SHA-256 0123"), start=first)
    again = ancestor("first", start=PUBLIC)  # equal, as it is when read from another card
    card = card_of(teachers=(second, again), start=second)

    content = written(card)
    names = [each.get("name") for each in content["ancestors"]]
    assert names == [None, "first", "second"]
    assert (content["teachers"], content["start"]) == ([3, 2], 3)
    assert content["ancestors"][2]["teachers"] == [2, "someone, SHA-256 0123"]
    assert Card.model_validate(content) == card


def test_models_of_one_sha256_and_other_facts_are_both_kept() -> None:
    known = ancestor("one")
    unknown = known.model_copy(update={"held_out_sha256": None})
    card = Card.model_validate(written(card_of(teachers=(known, unknown))))
    assert card.teachers == (known, unknown)


def test_a_card_of_an_earlier_version_nests_its_ancestors() -> None:
    first = {"name": "first", "sha256": "1" * 64, "start": PUBLIC.model_dump()}
    second = {"name": "second", "sha256": "2" * 64, "teachers": [first], "start": first}
    content = written(card_of()) | {"teachers": [second, first]}
    del content["ancestors"]
    card = Card.model_validate(content)
    oldest = Ancestor(name="first", sha256="1" * 64, start=PUBLIC)
    other = Ancestor(name="second", sha256="2" * 64, teachers=(oldest,), start=oldest)
    assert card.teachers == (other, oldest)
    assert len(written(card)["ancestors"]) == 3


def test_the_cost_of_a_card_grows_with_its_ancestors_and_not_with_the_ways_to_them() -> None:
    last = ancestor("0")
    for number in range(1, MOST_ANCESTORS):  # 2**199 ways to the first
        last = ancestor(str(number), teachers=(last,), start=last)
    content = encoded(card_of(teachers=(last,)))
    card = Card.model_validate_json(content)
    assert encoded(card) == content
    assert len(Stages(card).sources) == MOST_ANCESTORS
    assert doubt("--teacher", card.teachers[0], HeldOut((), "data", "ours")) is None


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (3, "ancestors: expected a list of at most 200"),
        ([{"name": "a", "sha256": "1"}] * 201, "ancestors: expected a list of at most 200"),
        (["a"], "ancestors.1: expected the facts about a model"),
        ([{"name": "a"}], "ancestors.1: sha256 is missing"),
        ([{"name": "a", "sha256": "1", "start": 1}], "ancestor 1 is not in the list before"),
        ([{"name": "a", "sha256": "1", "teachers": [0]}], "ancestor 0 is not in the list before"),
        ([{"name": "a", "sha256": "1", "teachers": 7}], "ancestors.1: teachers = 7"),
        ([{"name": "a", "sha256": "1", "teacher": True}], "ancestors.1: teachers.0"),
        ([{"name": "a", "sha256": "1", "plan": 7}], "ancestors.1: unknown key plan"),
    ],
)
def test_a_damaged_list_is_refused(listed: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Card.model_validate(written(card_of()) | {"ancestors": listed})
    assert words in describe(caught.value)
