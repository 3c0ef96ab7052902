"""Finding slides in folders: by their endings, and as one slide what lies in several files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from slidescan.tools.regular_files import open_regular

ENDINGS = frozenset(
    {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff"}
    | {".vms", ".vmu"}
)
"""Endings of the files that are slides, in lower case; a folder's other files are passed over."""

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage, the SOP class of DICOM slides (PS3.4, annex B)."""


def find_slides(folder: Path) -> list[Path]:
    """The slides in a folder and in those below it, sorted by path.

    Passed over: hidden names, the folders of maps (zarr), and the folder beside an MRXS file, which
    holds its data. A DICOM series is one slide, see `one_per_series`. Links are followed, each
    folder once.
    """
    return one_per_series(sorted(_files(folder, set())))


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError:  # another user's folder, or a link to nothing
        return
    if (key := (status.st_dev, status.st_ino)) in seen:
        return
    seen.add(key)
    names = {entry.name for entry in entries}
    if "zarr.json" in names:
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if f"{entry.name}.mrxs" not in names:
                yield from _files(path, seen)
        elif path.suffix.lower() in ENDINGS:
            yield path


def one_per_series(paths: Iterable[Path]) -> list[Path]:
    """Of the DICOM files of a folder keep one per series, in the order of `paths`.

    OpenSlide finds the other files of its series beside it. Kept is a file of the pyramid where the
    header says which one is. DICOM files that are no whole slides, such as annotations, are left
    out; files that cannot be read are kept, so that they are reported.
    """
    found: dict[object, tuple[bool, Path]] = {}
    for path in paths:
        key, pyramid = _series(path) if path.suffix.lower() == ".dcm" else (path, True)
        if key is not None and (key not in found or pyramid > found[key][0]):
            found[key] = pyramid, path
    return [path for _, path in found.values()]


def _series(path: Path) -> tuple[object, bool]:
    """What the files of a series share, None for other objects; and whether it is the pyramid."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    tags = ["SOPClassUID", "SeriesInstanceUID", "ImageType"]
    try:
        with open_regular(path) as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=tags)
    except (InvalidDicomError, OSError, EOFError, ValueError):
        return path, True
    if header.get("SOPClassUID") != WHOLE_SLIDE:
        return None, False
    series = header.get("SeriesInstanceUID")
    return (path.parent, str(series)) if series else path, "VOLUME" in header.get("ImageType", ())
