"""DICOM slides written with pydicom: VL Whole Slide Microscopy, tiled, a file for each level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid
from slides import shrink

TILE_PX = 128


def write_slide(
    folder: Path, pixels: NDArray[np.uint8], mpp: float, levels: Sequence[int] = ()
) -> Path:
    """Write a slide, (H, W, 3), with levels of these downsamples; returns the file of level 0.

    The slide is rotated on the glass as scanners have it: rows run along -x.
    """
    folder.mkdir(exist_ok=True)
    uids = {name: generate_uid() for name in ("Study", "Series", "Frame", "Pyramid")}
    for number, factor in enumerate((1, *levels)):
        level = pixels if factor == 1 else shrink(pixels, factor)
        made = _instance(level, mpp * factor, uids, number)
        made.save_as(folder / f"level-{number}.dcm", enforce_file_format=True)
    return folder / "level-0.dcm"


def _instance(pixels: NDArray[np.uint8], mpp: float, uids: dict[str, str], number: int) -> Dataset:
    height, width = pixels.shape[:2]
    rows, columns = -(-height // TILE_PX), -(-width // TILE_PX)
    edge = ((0, rows * TILE_PX - height), (0, columns * TILE_PX - width), (0, 0))
    padded = np.pad(pixels, edge, constant_values=255)
    tiles = padded.reshape(rows, TILE_PX, columns, TILE_PX, 3).swapaxes(1, 2)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = uids["Study"], uids["Series"]
    made.FrameOfReferenceUID, made.PyramidUID = uids["Frame"], uids["Pyramid"]
    _describe(made)
    kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.ImageType = ["DERIVED", *kind[1:3], "RESAMPLED"] if number else kind
    made.InstanceNumber = number + 1
    made.DimensionOrganizationType = "TILED_FULL"
    made.Rows = made.Columns = TILE_PX
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = height, width
    made.ImagedVolumeWidth, made.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    made.ImagedVolumeDepth = 0.001
    made.NumberOfFrames = rows * columns
    made.TotalPixelMatrixFocalPlanes = made.NumberOfOpticalPaths = 1
    made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
    made.PhotometricInterpretation = "RGB"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20.0, 40.0
    made.TotalPixelMatrixOriginSequence = [origin]
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PixelData = tiles.tobytes()
    return made


def _describe(made: Dataset) -> None:
    """Set what says whose slide it is."""
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "A^B", "1", "", ""
    made.StudyID, made.StudyDate, made.StudyTime = "S", "20260101", "120000"
    made.AccessionNumber = made.ReferringPhysicianName = ""
    made.ContentDate, made.ContentTime = "20260101", "120000"
    made.AcquisitionDateTime = "20260101120000"
    made.Modality, made.SeriesNumber, made.Manufacturer = "SM", 1, "tests"
    made.ContainerIdentifier = "C1"
    made.IssuerOfTheContainerIdentifierSequence = []
    made.ContainerTypeCodeSequence = []
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S1", generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence = specimen.SpecimenPreparationSequence = []
    made.SpecimenDescriptionSequence = [specimen]
    made.AcquisitionContextSequence = []
    made.VolumetricProperties, made.SpecimenLabelInImage = "VOLUME", "NO"
    made.BurnedInAnnotation, made.FocusMethod, made.ExtendedDepthOfField = "NO", "AUTO", "NO"
    made.LossyImageCompression = "00"
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    made.OpticalPathSequence = [path]
