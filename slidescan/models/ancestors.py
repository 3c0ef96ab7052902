"""The models that a model was made from: its teachers, its initial weights, and theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, model_validator

from slidescan.errors import describe
from slidescan.models.scores import ScoredPatches
from slidescan.networks.plan import Settings

MOST_ANCESTORS = 200
"""Of a card. Some functions follow a chain of models by recursion."""


class Published(Settings):
    """Public weights that a training started from. They were trained on other images."""

    published: str
    """The package and its version, or the file's name."""
    sha256: str


class Made(Settings):
    """What has teachers and a start. Neither is part of a dump, see `Stages`.

    Earlier versions wrote `teacher`, as there was one or none.
    """

    teachers: tuple[Ancestor | str, ...] = Field((), exclude=True)
    """The networks it was distilled from: from the mean of their probabilities where there are
    several. Version 0.1.0 at first wrote a teacher's name and SHA-256 as text."""
    start: Ancestor | Published | None = Field(None, exclude=True)
    """The weights that training started from; None for random weights."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_teacher(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "teacher" not in values or "teachers" in values:
            return values
        rest = dict(values)
        teacher = rest.pop("teacher")
        return rest | {"teachers": () if teacher is None else (teacher,)}


class Ancestor(Made):
    """A teacher or a start of another model, with its own teachers and start.

    What is unknown is None, as much of an ONNX file is. The fields are those of `Card`.
    """

    name: str
    sha256: str
    """`Model.sha256`; of an ONNX file, that of the file."""
    data: str | None = None
    split: str | None = None
    held_out_sha256: str | None = None
    trained_on_sha256: str | None = None
    validation_sets: tuple[ScoredPatches, ...] | None = None
    reproduce: str | None = None


Made.model_rebuild()  # it was defined before `Ancestor`, and subclasses elsewhere do not see that


class Stages:
    """The ancestors of a model, each once and after those it was made from itself.

    They have numbers, from 1. A card lists them under `ancestors`, and a teacher or a start is a
    number there: a model that is an ancestor by several ways is written once.
    """

    def __init__(self, made: Made) -> None:
        self.sources: list[Ancestor | Published] = []
        self.written: list[dict[str, Any]] = []
        """The sources as a card has them."""
        self._by_content: dict[str, int] = {}
        self._by_id: dict[int, int] = {}
        self.made = self._numbered(made)
        """Teachers and start of the model itself, as a card has them."""

    def number(self, source: Ancestor | Published) -> int:
        """The number of an ancestor of this model: of the object itself, not of an equal one."""
        return self._by_id[id(source)]

    def _numbered(self, made: Made) -> dict[str, Any]:
        return {
            "teachers": [t if isinstance(t, str) else self._add(t) for t in made.teachers],
            "start": None if made.start is None else self._add(made.start),
        }

    def _add(self, source: Ancestor | Published) -> int:
        if id(source) not in self._by_id:
            values = source.model_dump(mode="json", exclude_none=True)
            if isinstance(source, Ancestor):
                values |= self._numbered(source)
            content = json.dumps(values)
            if content not in self._by_content:
                self.sources.append(source)
                self.written.append(values)
                self._by_content[content] = len(self.sources)
            self._by_id[id(source)] = self._by_content[content]
        return self._by_id[id(source)]


def with_ancestors(values: Mapping[str, Any]) -> dict[str, Any]:
    """A card's values in which numbers of ancestors are replaced by these, see `Stages`.

    Raises `ValueError` where the list is damaged. Earlier versions wrote no list: they nested a
    teacher's record in that of its student.
    """
    rest = dict(values)
    written = rest.pop("ancestors")
    if not isinstance(written, Sequence) or len(written) > MOST_ANCESTORS:
        raise ValueError(f"ancestors: expected a list of at most {MOST_ANCESTORS}")
    found: list[Ancestor | Published] = []
    for number, each in enumerate(written, 1):
        if not isinstance(each, Mapping):
            raise ValueError(f"ancestors.{number}: expected the facts about a model")
        kind = Published if "published" in each else Ancestor
        try:
            found.append(kind.model_validate(_replaced(each, found)))
        except ValidationError as error:
            raise ValueError(f"ancestors.{number}: {describe(error)}") from error
    return _replaced(rest, found)


def _replaced(values: Mapping[str, Any], found: Sequence[Ancestor | Published]) -> dict[str, Any]:
    """Teachers and start that are numbers, replaced by what was `found` before."""

    def source(told: Any) -> Any:
        if type(told) is not int:
            return told
        if not 1 <= told <= len(found):
            raise ValueError(f"ancestor {told} is not in the list before the model made from it")
        return found[told - 1]

    rest = dict(values)
    if isinstance(rest.get("teachers"), Sequence) and not isinstance(rest["teachers"], str):
        rest["teachers"] = [source(each) for each in rest["teachers"]]
    if "start" in rest:
        rest["start"] = source(rest["start"])
    return rest
