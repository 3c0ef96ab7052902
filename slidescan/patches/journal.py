"""The journal of a prediction: scores so far, on disk beside the table, so that it can resume.

    # slidescan predict {"model": ..., "precision": ..., ...}     all that determines a score
    0,0.9912345                                                  the row of a patch, its probability

Patches are named by their row, because an id may contain any character of a file name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from slidescan.tools.atomic_files import writing
from slidescan.tools.settings_diff import JSON, differences, strict

HEADER = "# slidescan predict "
_LINE = re.compile(rb"(\d{1,12}),([0-9.e+-]{1,24})\n")


class Journal:
    """The scores of `count` patches, NaN where there is none yet; each batch is written to disk."""

    def __init__(self, path: Path, settings: Mapping[str, JSON], count: int) -> None:
        self.path = path
        self.scores: NDArray[np.float32] = np.full(count, np.nan, np.float32)
        self.other: list[str] = []
        """How the settings of an existing journal differ, which is then not resumed."""
        self._header = f"{HEADER}{json.dumps(strict(settings), allow_nan=False)}\n".encode()
        with writing(path):
            sound = self._read()
            # Unbuffered: closing would try to write a buffer again on a full disk.
            self._file = path.open("r+b" if sound else "wb", buffering=0)
            self._file.truncate(sound)
            self._file.seek(sound)
            if not sound:
                self._write(self._header)

    def _read(self) -> int:
        """Read an existing journal; returns the number of its bytes that are valid."""
        try:
            with self.path.open("rb") as file:
                header = file.readline()
                if header != self._header:
                    self.other = self._differences(header)
                    return 0
                sound = len(header)
                for line in file:
                    if not self._take(line):
                        break
                    sound += len(line)
                return sound
        except FileNotFoundError:
            return 0

    def _differences(self, header: bytes) -> list[str]:
        try:
            there: Any = json.loads(header.decode().removeprefix(HEADER))
            here: Any = json.loads(self._header.decode().removeprefix(HEADER))
            return differences(there, here)
        except (ValueError, AttributeError, RecursionError):
            return ["unreadable"]

    def _take(self, line: bytes) -> bool:
        """Take a line's score; false if it is damaged, as a power failure may leave half a line."""
        found = _LINE.fullmatch(line)
        if not found or int(found[1]) >= len(self.scores):
            return False
        try:
            score = np.float32(found[2].decode())
        except ValueError:
            return False
        if not 0 <= score <= 1:
            return False
        self.scores[int(found[1])] = score
        return True

    def add(self, rows: Iterable[int], scores: Iterable[np.float32]) -> None:
        """Write the scores of more rows. Raises `WriteError`."""
        lines = []
        for row, score in zip(rows, scores, strict=True):
            self.scores[row] = score
            lines.append(f"{row},{score!s}\n")
        with writing(self.path):
            self._write("".join(lines).encode())

    def _write(self, content: bytes) -> None:
        while content:
            content = content[self._file.write(content) :]

    def discard(self) -> None:
        """Delete the journal, once the table is written."""
        self._file.close()
        with writing(self.path):
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
