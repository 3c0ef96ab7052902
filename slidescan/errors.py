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

MOST_ERRORS = 5
"""So many errors of one file are told; a damaged one may have a million."""

# The input that pydantic quotes may be the whole file.
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


MOST_CHARACTERS = 700
"""A longer message is cut in its middle: what is wrong stands first and the remedy last."""


def one_line(text: object, most: int = MOST_CHARACTERS) -> str:
    """Return a message as one line of printable characters, cut to `most`.

    Names in files may hold escape sequences, which a terminal would obey, and bytes that are no
    text.

    >>> one_line("two\\nlines and \\x1b[31mred")
    'two lines and \\\\x1b[31mred'
    >>> one_line("0123456789" * 100, most=20)
    '01234567 ... 456789'
    """
    line = " ".join(_cut(str(text), most).split())
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return _cut(escaped, most)  # an escape is longer than what it stands for


def _cut(line: str, most: int) -> str:
    if len(line) <= most:
        return line
    head, tail = most * 4 // 7 - 3, most * 3 // 7 - 2
    return f"{line[:head]} ... {line[-tail:]}"


class SlidescanError(Exception):
    """Root of everything slidescan raises on purpose; its message is one short line."""

    def __str__(self) -> str:
        """Return the message as one printable line."""
        return one_line(super().__str__())


class SlideError(SlidescanError):
    """The slide cannot be opened, read or resampled to the model's resolution."""


class ModelError(SlidescanError):
    """Weights and card are missing, damaged, or do not belong together."""


class MapError(SlidescanError):
    """The map on disk cannot be written or read, or was made with other settings."""


class RemoteError(MapError):
    """An object store or a server cannot be reached, or refuses."""


class WriteError(SlidescanError):
    """A file or folder cannot be written: permissions, a full disk, another writer."""


class BusyError(WriteError):
    """Another process is writing there."""


class ClusterError(SlidescanError):
    """The scheduler or a worker of a cluster cannot be used; ends the whole command."""


class DataError(SlidescanError):
    """Training patches or their labels are missing or contradict each other."""


class AnnotationError(SlidescanError):
    """A file of annotations cannot be read, or does not belong to the slide."""


class ConfigError(SlidescanError):
    """A setting has an unknown key, a wrong type or a value out of range."""


def describe(error: ValidationError) -> str:
    """Return pydantic's report as one line: each key, its value, what was expected."""
    found = error.errors()
    told = [_line(each) for each in found[:MOST_ERRORS]]
    further = [f"and {len(found) - MOST_ERRORS:,} more"] if len(found) > MOST_ERRORS else []
    return "; ".join(told + further)


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


OUT_OF_MEMORY = (
    "out of memory; free some, or use fewer --threads, and run the same command again: what was "
    "finished stays"
)

_LACKS = (
    *("allocate memory", "bad_alloc", "bad allocation", "out of memory", "start new thread"),
    *("could not create a primitive", "failed to map segment", "Insufficient memory"),
)
"""In messages of torch, OpenVINO, oneDNN, CPython's threads, the loader of libraries, OpenCV."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, which damages no file.

    >>> lacks_memory(RuntimeError("can't start new thread")), lacks_memory(ValueError("memory"))
    (True, False)
    """
    kind = type(error)
    of_opencv = (kind.__module__, kind.__name__) == ("cv2", "error")  # importing it takes long
    if of_opencv or isinstance(error, RuntimeError | ImportError):
        return any(words in str(error) for words in _LACKS)
    return isinstance(error, MemoryError)
