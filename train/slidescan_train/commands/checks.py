"""Checks of the patches that a training is to read, made before anything slow is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slidescan.commands.checks import similar
from slidescan.errors import DataError


def check_data(
    roots: Sequence[Path],
    ids: Path | None = None,
    groups: Path | None = None,
    validation: Sequence[Path] = (),
) -> None:
    """Refuse folders and tables that are not there, and folders that are given twice.

    Raises:
        DataError: no such file or folder, no patches in a known layout, or the same folder again.
    """
    folders = [*(("--data", root) for root in roots), *(("--validation", v) for v in validation)]
    seen: dict[Path, str] = {}
    for option, root in folders:
        if not root.exists():
            raise DataError(f"{option} {root}: no such folder; {similar(root)}")
        if before := seen.get(root.resolve()):
            raise DataError(f"{option} {root}: is the folder of {before} again; leave one out")
        seen[root.resolve()] = f"{option} {root}"
    for option, path in ("--ids", ids), ("--groups", groups):
        if path and not path.is_file():
            raise DataError(f"{option} {path}: no such file; {similar(path)}")
    from slidescan.patches.labelled.sources import find_layout

    for _, root in folders:
        find_layout(root)


def check_validation(share: float, roots: Sequence[Path], validation: Sequence[Path]) -> None:
    """Refuse a training without validation patches.

    Raises:
        DataError: no patches are held out, no folder has an official split, and there is no set.
    """
    from slidescan.patches.labelled.sources import find_layout

    if not (share or validation or any(find_layout(root) == "hdf5" for root in roots)):
        raise DataError(
            "validation=0: no patches are held out, so there are none to validate on; add "
            "--validation DIR"
        )
