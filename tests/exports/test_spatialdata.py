"""`slidescan export spatialdata`, read back by SpatialData; the library is not in `dev`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ran, refused, run
from maps import MPP, write_map
from numpy.typing import NDArray

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it brings
        import spatialdata
except ModuleNotFoundError:
    spatialdata = None

needs_library = pytest.mark.skipif(spatialdata is None, reason="needs the extra spatialdata")
pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = 88, 113
"""Cells of the section."""


def lesion() -> NDArray[np.float32]:
    values = np.full(SHAPE, 0.1, np.float32)
    values[20:40, 60:100] = 0.9
    values[:, :30] = np.nan
    return values


@pytest.fixture(scope="module")
def heatmap(section: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_map(tmp_path_factory.mktemp("spatial") / "map.zarr", section, lesion())


@needs_library
def test_it_reads_back_with_values_and_places(heatmap: Path, tmp_path: Path) -> None:
    ran("export", "spatialdata", heatmap, "--out", tmp_path / "s.zarr")
    found: Any = spatialdata.read_zarr(tmp_path / "s.zarr")
    image = found.images["tumour_probability"]
    np.testing.assert_array_equal(np.asarray(image)[0], lesion())
    np.testing.assert_array_equal(np.asarray(found.labels["tissue"]), np.isfinite(lesion()))
    # Level 0 of the section has the resolution of the scan.
    extent = spatialdata.get_extent(image, coordinate_system="global")
    assert extent["x"] == (0, 113 * 8)
    assert extent["y"] == (0, 88 * 8)
    (region,) = found.shapes["tumour_regions"].geometry
    assert region.bounds == pytest.approx((60 * 8, 20 * 8, 100 * 8, 40 * 8), abs=4)
    (area,) = found.shapes["tumour_regions"].area_um2
    assert area == pytest.approx(20 * 40 * (8 * MPP) ** 2)
    assert found.attrs["slidescan"]["model"] == "tiny"


@needs_library
def test_a_map_without_regions_has_no_shapes(heatmap: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    said = ran("export", "spatialdata", heatmap, "--threshold", "0.95", "--out", out).stdout
    assert "no region, so no shapes" in said
    assert not spatialdata.read_zarr(out).shapes


@needs_library
def test_only_spatialdata_is_replaced_and_on_request(heatmap: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    arguments = ("export", "spatialdata", heatmap, "--out")
    refused(run(*arguments, heatmap, "--overwrite"), "not a SpatialData folder, so left alone")
    ran(*arguments, out)
    refused(run(*arguments, out), "s.zarr: exists", "--overwrite")
    ran(*arguments, out, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_a_missing_library_is_named(
    heatmap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    result = run("export", "spatialdata", heatmap, "--out", tmp_path / "s.zarr")
    refused(result, "export spatialdata needs spatialdata", "pip install")
    assert not (tmp_path / "s.zarr").exists()
