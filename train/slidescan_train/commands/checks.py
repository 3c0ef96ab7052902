"""Checks of the patches that a training is to read, made before anything slow is imported."""

from __future__ import annotations

from pathlib import Path

from slidescan.commands.checks import similar
from slidescan.errors import DataError


def check_data(root: Path, ids: Path | None = None, groups: Path | None = None) -> None:
    """Refuse folders and tables that are not there.

    Raises:
        DataError: no such file or folder, or no patches in a known layout.
    """
    if not root.exists():
        raise DataError(f"--data {root}: no such folder; {similar(root)}")
    for option, path in ("--ids", ids), ("--groups", groups):
        if path and not path.is_file():
            raise DataError(f"{option} {path}: no such file; {similar(path)}")
    from slidescan.patches.labelled.sources import find_layout

    find_layout(root)
