"""Errors a user can do something about.

Each message says what is wrong, what was found, and the remedy. The command line turns every
`SlidescanError` into one line and exit code 1; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

# The input that pydantic quotes may be the whole file.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class SlidescanError(Exception):
    """Root of everything slidescan raises on purpose."""


class SlideError(SlidescanError):
    """The slide cannot be opened, read or resampled to the model's resolution."""


class ModelError(SlidescanError):
    """Weights and card are missing, damaged, or do not belong together."""


class MapError(SlidescanError):
    """The map on disk cannot be written or read, or was made with other settings."""


class WriteError(SlidescanError):
    """A file or folder cannot be written: permissions, a full disk, another writer."""


class DataError(SlidescanError):
    """Training patches or their labels are missing or contradict each other."""


class AnnotationError(SlidescanError):
    """A file of annotations cannot be read, or does not belong to the slide."""


class ConfigError(SlidescanError):
    """A setting has an unknown key, a wrong type or a value out of range."""


def describe(error: ValidationError) -> str:
    """Return pydantic's report as one line: each key, its value, what was expected."""
    return "; ".join(map(_line, error.errors()))


def _line(found: ErrorDetails) -> str:
    path, value = found["loc"], found["input"]
    if found["type"] == "value_error" and isinstance(value, Mapping):
        # A rule between keys, whose message names them; the whole input would hide it.
        return ": ".join([_key(path)] * bool(path) + [str(found["ctx"]["error"])])
    if found["type"] == "missing":
        return f"{_key(path)} is missing"
    said = found["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return f"{_key(path)} = {_short.repr(value)}: {said[:1].lower()}{said[1:]}"


def _key(path: tuple[int | str, ...]) -> str:
    """The key as a user spells it, without the architecture that pydantic tried."""
    return ".".join(str(part) for part in path if not str(part).startswith("arch=")) or "file"
