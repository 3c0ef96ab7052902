"""CSV tables with a header: read row by row, written completely or not at all."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slidescan.errors import DataError
from slidescan.tools.atomic_files import replacing
from slidescan.tools.regular_files import text_file


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield (line number, row) for each row of `path`; missing cells of a short row are None.

    Raises DataError where it is not such a table or lacks one of `columns`.
    """
    try:
        with text_file(path) as file:
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: has the columns {reader.fieldnames}, needs {' and '.join(columns)}"
                )
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table to `path`, replacing an existing one. Raises WriteError."""
    with (
        replacing(path) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
