"""Slides in folders: by their endings, and as one what lies in several files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from slidescan.slides.finding import WHOLE_SLIDE, find_slides, one_per_series

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_slides(folder)]


def test_known_endings_in_all_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b/two.SVS", "a/deep/one.ndpi", "three.tiff", "notes.txt", "label.jpg")
    assert names(tmp_path) == ["a/deep/one.ndpi", "b/two.SVS", "three.tiff"]


def test_what_is_no_slide_of_its_own(tmp_path: Path) -> None:
    """The data of an MRXS, the levels of a map, and hidden files."""
    touch(tmp_path, "s.mrxs", "s/Slidedat.ini", "s/overview.tif", ".trash/x.svs", "._s.svs")
    touch(tmp_path, "map.zarr/zarr.json", "map.zarr/0/c.tif")
    assert names(tmp_path) == ["s.mrxs"]


@pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="needs links")
def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.svs")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "archive").symlink_to(tmp_path / "store")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "y.svs").symlink_to(tmp_path / "store" / "x.svs")
    assert names(tmp_path / "here") == ["archive/x.svs", "y.svs"]


def dicom(path: Path, series: str, flavour: str = "VOLUME", sop_class: str = WHOLE_SLIDE) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"1.2.3.{abs(hash(path.name)) % 10**8}"
    dataset.SeriesInstanceUID = series
    dataset.ImageType = ["ORIGINAL", "PRIMARY", flavour, "NONE"]
    # A series that is referred to comes first in the file, and is another one.
    dataset.ReferencedSeriesSequence = [Dataset()]
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.9"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_a_dicom_series_is_one_slide(tmp_path: Path) -> None:
    dicom(tmp_path / "s" / "0.dcm", "1.2.1", "LABEL")
    dicom(tmp_path / "s" / "1.dcm", "1.2.1")
    dicom(tmp_path / "s" / "2.dcm", "1.2.1")
    dicom(tmp_path / "s" / "3.dcm", "1.2.2")
    dicom(tmp_path / "s" / "report.dcm", "1.2.3", sop_class=COMPREHENSIVE_SR)
    dicom(tmp_path / "t" / "0.dcm", "1.2.4")
    (tmp_path / "t" / "broken.dcm").write_bytes(b"no DICOM")
    assert names(tmp_path) == ["s/1.dcm", "s/3.dcm", "t/0.dcm", "t/broken.dcm"]
    assert one_per_series([tmp_path / "s" / "2.dcm"]) == [tmp_path / "s" / "2.dcm"]
