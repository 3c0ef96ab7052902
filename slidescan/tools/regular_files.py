"""Reading files that others made: regular ones only, of bounded size.

A pipe waits for ever for a writer, /dev/zero never ends, and a sparse file that takes 1 kB on the
disk may hold terabytes of zeros. A symbolic link to one of these looks like any other file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

MB = 2**20
MOST_TEXT = 256 * MB
"""Of a table or a list: five million rows of Kaggle's."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""Errors of a process or machine that has no handle left."""

_BINARY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""O_NONBLOCK: opening a pipe without a writer would wait. Windows has no such pipes."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading in binary; never waits.

    Raises OSError where it cannot be opened or is no regular file.
    """
    number = os.open(path, _BINARY)
    kind = os.fstat(number).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(number, "rb")
    os.close(number)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, not a file")


@contextmanager
def text_file(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file in UTF-8 with its line ends as they are.

    `errors` says what becomes of bytes that are no UTF-8, as for `open`.

    Raises OSError where it cannot be opened, is no regular file or is larger than `MOST_TEXT`.
    """
    with open_regular(path) as file:
        _check_size(file, MOST_TEXT)
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="") as text:
            yield text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without the white space around them.

    Raises OSError where it cannot be read, ValueError where it is no text in UTF-8.
    """
    text = read_regular(path, MOST_TEXT).decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("holds a NUL byte, as no text does")
    return [line.strip() for line in text.splitlines()]


def read_regular(path: str | Path, most_bytes: int) -> bytes:
    """Return the content of a file.

    Raises OSError where it cannot be read, is no regular file or has more than `most_bytes`.
    """
    with open_regular(path) as file:
        # `read(most_bytes)` would ask for memory for all of them.
        return file.read(_check_size(file, most_bytes))


def _check_size(file: BinaryIO, most_bytes: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > most_bytes:
        raise OSError(
            errno.EFBIG,
            f"has {size:,} bytes; at most {most_bytes:,} are read of a file of this kind",
        )
    return size
