"""`slidescan export dicom`: values, places, references, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dicom_slides
import highdicom as hd
import numpy as np
import pytest
import slides
from commands import ran, refused, run
from maps import MPP, write_map
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from slidescan.exports import dicom_series

CELL_UM = 8 * MPP
SHAPE = 91, 129
"""Cells of a slide of 1400 x 2000 px of 0.5 um."""


def lesion() -> NDArray[np.float32]:
    """Random values below 0.4 with a lesion of 0.9 that has a hole; the left part is glass."""
    values = np.random.default_rng(0).random(SHAPE, np.float32) * np.float32(0.4)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    from_middle = np.hypot(y - 45, x - 75)
    values[from_middle <= 25] = 0.9
    values[from_middle <= 8] = 0.1
    values[:, :35] = np.nan
    return values


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slide/, a series with levels of 0.5 and 2 um/px, and map.zarr."""
    root = tmp_path_factory.mktemp("dicom")
    board = slides.checkerboard(1400, 2000)
    slide = dicom_slides.write_slide(root / "slide", board, mpp=0.5, levels=(4,))
    write_map(root / "map.zarr", slide, lesion())
    return root


@pytest.fixture(scope="module")
def exported(study: Path) -> Path:
    export(study, study / "out")
    return study / "out"


def export(study: Path, out: Path, *more: object) -> str:
    slide = study / "slide" / "level-0.dcm"
    return ran("export", "dicom", study / "map.zarr", "--slide", slide, "--out", out, *more).stdout


def whole(path: Path) -> NDArray[np.float32]:
    """The total pixel matrix of a Parametric Map, NaN in tiles that it leaves out."""
    found = dcmread(path)
    frames = np.frombuffer(found.FloatPixelData, np.float32)
    frames = frames.reshape(-1, found.Rows, found.Columns)
    shape = (found.TotalPixelMatrixRows + found.Rows, found.TotalPixelMatrixColumns + found.Columns)
    matrix = np.full(shape, np.nan, np.float32)
    for frame, item in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        (place,) = item.PlanePositionSlideSequence
        row = place.RowPositionInTotalImagePixelMatrix - 1
        column = place.ColumnPositionInTotalImagePixelMatrix - 1
        matrix[row : row + found.Rows, column : column + found.Columns] = frame
    return matrix[: found.TotalPixelMatrixRows, : found.TotalPixelMatrixColumns]


def under(shape: tuple[int, int], mpp: float, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cell of each pixel's centre."""
    rows, columns = (((np.arange(side) + 0.5) * mpp / CELL_UM).astype(int) for side in shape)
    return values[np.ix_(rows, columns)]


def test_a_pixel_has_the_value_of_the_cell_at_its_centre(exported: Path) -> None:
    found = whole(exported / "map.dcm")
    assert found.shape == (350, 500)
    np.testing.assert_array_equal(found, under((350, 500), 2.0, lesion()))


def test_what_was_not_scanned_is_padding_and_empty_tiles_are_left_out(exported: Path) -> None:
    found = hd.imread(exported / "map.dcm")
    assert np.isnan(found.FloatPixelPaddingValue)
    # 35 columns of cells are 136 px of the level: three of four columns of tiles, in three rows.
    assert found.NumberOfFrames == 9
    assert found.DimensionOrganizationType == "TILED_SPARSE"


def test_tiles_lie_on_the_glass_where_the_slide_lies(exported: Path) -> None:
    items = dcmread(exported / "map.dcm").PerFrameFunctionalGroupsSequence
    place = items[-1].PlanePositionSlideSequence[0]
    row = place.RowPositionInTotalImagePixelMatrix - 1
    column = place.ColumnPositionInTotalImagePixelMatrix - 1
    assert (row, column) == (256, 384)
    # The slide's rows run along -x and its columns along -y, from (20, 40) mm.
    assert place.XOffsetInSlideCoordinateSystem == pytest.approx(20 - row * 0.002)
    assert place.YOffsetInSlideCoordinateSystem == pytest.approx(40 - column * 0.002)


def test_regions_cover_the_thresholded_map(exported: Path) -> None:
    found = hd.seg.segread(exported / "regions.dcm")
    drawn = found.get_total_pixel_matrix(combine_segments=True) > 0
    above = np.nan_to_num(whole(exported / "map.dcm")) >= 0.5
    assert drawn.shape == above.shape
    assert 2 * (drawn & above).sum() / (drawn.sum() + above.sum()) > 0.99
    assert not drawn[177 - 20 : 177 + 20, 293 - 20 : 293 + 20].any(), "the hole"


def test_both_refer_to_the_slide_and_say_what_they_are(study: Path, exported: Path) -> None:
    source = dcmread(study / "slide" / "level-1.dcm", stop_before_pixels=True)
    found = [dcmread(exported / name) for name in ("map.dcm", "regions.dcm")]
    for each in found:
        assert each.StudyInstanceUID == source.StudyInstanceUID
        assert each.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert (each.PatientID, each.PatientName) == ("1", "A^B")
        (series,) = each.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        (instance,) = series.ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
        (measures,) = each.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert list(measures.PixelSpacing) == [0.002, 0.002]
        assert each.ManufacturerModelName == "slidescan tiny"
    assert found[0].TotalPixelMatrixOriginSequence == source.TotalPixelMatrixOriginSequence
    assert found[0].ContentQualification == "RESEARCH"
    uids = {each.SeriesInstanceUID for each in (*found, source)}
    assert len(uids) == 3


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("name", ["map.dcm", "regions.dcm"])
def test_dciodvfy_finds_no_error(name: str, exported: Path) -> None:
    said = subprocess.run(
        ["dciodvfy", exported / name], capture_output=True, text=True, check=False
    ).stderr
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    # It does not know that images with Image Orientation (Slide) need no Patient Orientation.
    assert [each for each in errors if "<PatientOrientation>" not in each] == []


def test_a_slide_may_leave_out_how_thick_its_section_is(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "slide", tmp_path / "slide")
    shutil.copytree(study / "map.zarr", tmp_path / "map.zarr")
    for path in (tmp_path / "slide").iterdir():
        instance = dcmread(path)
        del instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
        instance.save_as(path)
    export(tmp_path, tmp_path / "out")
    for name in ("map.dcm", "regions.dcm"):
        shared = dcmread(tmp_path / "out" / name).SharedFunctionalGroupsSequence[0]
        assert "SliceThickness" not in shared.PixelMeasuresSequence[0]


def test_a_level_that_is_a_little_coarser_than_the_cells_is_taken(tmp_path: Path) -> None:
    board = slides.checkerboard(1400, 2000)
    slide = dicom_slides.write_slide(tmp_path / "slide", board, mpp=0.5, levels=(4, 16, 64))
    write_map(tmp_path / "map.zarr", slide, lesion())
    assert "level 2 of the slide, 125 x 87 px of 8 um" in export(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_of_a_slide_without_fine_levels_the_finest_is_taken(
    real_data: Path, tmp_path: Path
) -> None:
    slide = tmp_path / "camelyon.dcm"
    shutil.copy(real_data / "slides" / "camelyon-jpeg.dcm", slide)
    # 700 x 1152 px of 28.968 um, and an area of 500 x 500 cells.
    values = np.full((2608, 4292), np.nan, np.float32)
    values[300:800, 300:800] = 0.1
    values[400:500, 400:600] = 0.8
    write_map(tmp_path / "map.zarr", slide, values)
    result = ran(
        "export", "dicom", tmp_path / "map.zarr", "--slide", slide, "--out", tmp_path / "out"
    )
    assert "does not record where it lies on the glass" in result.stderr
    found = whole(tmp_path / "out" / "map.dcm")
    assert found.shape == (700, 1152)
    step = 28.968 / CELL_UM
    rows, columns = (((np.arange(side) + 0.5) * step).astype(int) for side in found.shape)
    there = values[np.ix_(rows, columns)]
    # Means of 2 x 2 cells differ at the edges of areas alone.
    assert (np.isnan(found) == np.isnan(there)).mean() > 0.999
    assert (np.nan_to_num(np.abs(found - there)) < 0.01).mean() > 0.998


def test_nothing_above_the_threshold_is_a_valid_empty_file(study: Path, tmp_path: Path) -> None:
    assert "0 regions, so the segmentation is empty" in export(
        study, tmp_path / "out", "--threshold", "0.99"
    )
    found = hd.seg.segread(tmp_path / "out" / "regions.dcm")
    assert not found.get_total_pixel_matrix(combine_segments=True).any()


def test_a_map_without_tissue_is_exported(study: Path, tmp_path: Path) -> None:
    slide = study / "slide" / "level-0.dcm"
    write_map(tmp_path / "map.zarr", slide, np.full(SHAPE, np.nan, np.float32))
    ran("export", "dicom", tmp_path / "map.zarr", "--slide", slide, "--out", tmp_path / "out")
    assert np.isnan(whole(tmp_path / "out" / "map.dcm")).all()


@pytest.mark.usefixtures("small_blocks")
def test_an_unfinished_map_needs_partial(study: Path, tmp_path: Path) -> None:
    slide = study / "slide" / "level-0.dcm"
    write_map(tmp_path / "map.zarr", slide, lesion(), blocks=2)
    arguments = (
        "export",
        "dicom",
        tmp_path / "map.zarr",
        "--slide",
        slide,
        "--out",
        tmp_path / "o",
    )
    refused(run(*arguments), "has not finished", "--partial")
    assert not (tmp_path / "o").exists()
    ran(*arguments, "--partial")
    found = whole(tmp_path / "o" / "map.dcm")
    expected = lesion()
    expected[32:] = expected[:, 96:] = np.nan
    np.testing.assert_array_equal(found, under((350, 500), 2.0, expected))


def test_files_are_replaced_only_on_request(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "regions.dcm").write_text("mine")
    slide = study / "slide" / "level-0.dcm"
    arguments = ("export", "dicom", study / "map.zarr", "--slide", slide, "--out")
    refused(run(*arguments, out), "regions.dcm: exists", "--overwrite")
    assert (out / "regions.dcm").read_text() == "mine"
    refused(run(*arguments, out / "regions.dcm"), "is a file")


def test_a_slide_that_is_no_dicom_is_refused(section: Path, tmp_path: Path) -> None:
    write_map(tmp_path / "map.zarr", section, np.full((88, 113), 0.2, np.float32))
    given = ("export", "dicom", tmp_path / "map.zarr", "--slide", section, "--out", tmp_path / "o")
    refused(run(*given), "section.tif: not a DICOM file", "ome-tiff")
    assert not (tmp_path / "o").exists()


def test_a_slide_whose_levels_are_all_too_large_is_refused(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_series, "MOST_PX", 1000)
    slide = study / "slide" / "level-0.dcm"
    given = ("export", "dicom", study / "map.zarr", "--slide", slide, "--out", tmp_path / "o")
    refused(run(*given), "its smallest level has 175,000 px", "ome-tiff")


def test_attributes_that_anonymising_removed_are_empty(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study / "slide", tmp_path / "slide"))
    for path in copy.iterdir():
        found: Dataset = dcmread(path)
        del found.PatientBirthDate, found.AccessionNumber
        found.save_as(path)
    write_map(tmp_path / "map.zarr", copy / "level-0.dcm", lesion())
    export(tmp_path, tmp_path / "out")
    assert dcmread(tmp_path / "out" / "map.dcm").PatientBirthDate == ""


def test_a_missing_library_is_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    slide = study / "slide" / "level-0.dcm"
    given = ("export", "dicom", study / "map.zarr", "--slide", slide, "--out", tmp_path / "o")
    refused(run(*given), "export dicom needs highdicom", "pip install", "highdicom")
    assert not (tmp_path / "o").exists()
