"""Tables for a terminal.

Not rich: it folds a table to 80 columns where the output is a pipe or a file, and a command's lines
are also read by grep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """A line for each row, with its cells as wide as the column; `right` columns align right.

    >>> list(aligned([("name", "count"), ("a", "10")], right=[1]))
    ['name  count', 'a        10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
