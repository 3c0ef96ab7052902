"""The DICOM files of a slide: which instance is which level, and the level that an export takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from slidescan.errors import SlideError
from slidescan.slides.properties import Level
from slidescan.slides.slide import COARSER, Slide

MOST_PX = 100_000_000
"""Pixels of the level that an export has: 400 MB of values."""

PATIENT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime"),
)
"""What must be there, though it may be empty, and is missing in some anonymised files."""

CONTAINER = "UNKNOWN"
"""The glass' identifier where none is recorded; it may not be empty."""


@dataclass(frozen=True, slots=True)
class Source:
    """A level of a slide and the instance that holds it."""

    level: Level
    instance: Dataset
    """without its pixels"""
    placed: bool
    """whether the slide records where it lies on the glass"""

    @property
    def tile_px(self) -> tuple[int, int]:
        """(rows, columns) of a tile."""
        return int(self.instance.Rows), int(self.instance.Columns)


def find_source(slide: Slide, cell_um: float) -> Source:
    """The coarsest level that is at most 10 % coarser than the cells of a map.

    Levels of more than `MOST_PX` pixels are passed over; where that leaves none so fine, the finest
    is taken.

    Raises SlideError where the slide is no DICOM, or no level can be taken.
    """
    found = sources(slide)
    fit = [each for each in found if _pixels(each) <= MOST_PX]
    if not fit:
        smallest = min(map(_pixels, found))
        raise SlideError(
            f"{slide.path}: its smallest level has {smallest:,} px, more than the {MOST_PX:,} of "
            "an export; the slide needs coarser levels, or export ome-tiff instead"
        )
    fine = [each for each in fit if max(each.level.mpp) <= COARSER * cell_um]
    return fine[-1] if fine else fit[0]


def _pixels(source: Source) -> int:
    height, width = source.level.shape_px
    return height * width


def sources(slide: Slide) -> list[Source]:
    """The levels of a slide with their instances, finest first.

    Raises SlideError where the slide is no DICOM, or the instance of a level is not found.
    """
    try:
        series = dcmread(slide.path, stop_before_pixels=True).SeriesInstanceUID
    except (InvalidDicomError, AttributeError) as error:
        raise SlideError(
            f"{slide.path}: not a DICOM file; DICOM is exported for DICOM slides, choose another "
            "format, e.g. slidescan export ome-tiff"
        ) from error
    by_size = {
        (int(each.TotalPixelMatrixRows), int(each.TotalPixelMatrixColumns)): each
        for each in _volumes(slide.path.parent, series)
    }
    found = []
    for level in slide.levels:
        if level.shape_px not in by_size:
            raise SlideError(
                f"{slide.path}: no file of its series beside it has level {level.index}, "
                f"{level.shape_px[1]} x {level.shape_px[0]} px; copy the whole series"
            )
        instance = by_size[level.shape_px]
        placed = "TotalPixelMatrixOriginSequence" in instance
        found.append(Source(level, _completed(instance), placed))
    return found


def _volumes(folder: Path, series: str) -> Iterator[Dataset]:
    """The instances in a folder that are levels of a slide; not its label or overview."""
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            head = dcmread(path, specific_tags=["SeriesInstanceUID", "SOPClassUID", "ImageType"])
        except InvalidDicomError:
            continue
        kind = list(head.get("ImageType") or ())
        if (
            head.get("SeriesInstanceUID") == series
            and head.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage
            and len(kind) > 2
            and kind[2] in ("VOLUME", "THUMBNAIL")
        ):
            yield dcmread(path, stop_before_pixels=True)


def _completed(instance: Dataset) -> Dataset:
    """Add what exports need and incomplete files lack."""
    for name in PATIENT:
        if name not in instance:
            setattr(instance, name, None)
    if "ContainerIdentifier" not in instance:
        instance.ContainerIdentifier = CONTAINER
    if "TotalPixelMatrixOriginSequence" not in instance:
        corner = Dataset()
        corner.XOffsetInSlideCoordinateSystem = corner.YOffsetInSlideCoordinateSystem = 0.0
        instance.TotalPixelMatrixOriginSequence = [corner]
    return instance
