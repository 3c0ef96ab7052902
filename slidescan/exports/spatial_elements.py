"""Maps as SpatialData, by its own library.

    images/tumour_probability   float32 (c, y, x), NaN where nothing was scanned
    labels/tissue               1 where cells were selected for scanning
    shapes/tumour_regions       outlines of the regions, with their measurements

All lie in the coordinate system "global", which is the slide's level 0 in pixels, as in wsidata and
LazySlide. Of a raster the library takes pixel i to cover [i, i + 1), so a scale alone places it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import dask.array as da
import geopandas
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale

from slidescan.errors import WriteError
from slidescan.geometry import Box
from slidescan.maps.regions import Region
from slidescan.maps.store import Heatmap
from slidescan.tools.atomic_files import replacing_folder

IMAGE, TISSUE, REGIONS = "tumour_probability", "tissue", "tumour_regions"

CHUNK_CELLS = 1024


def elements(heatmap: Heatmap, regions: Sequence[Region]) -> SpatialData:
    """The map, its tissue and its regions; values are read when they are written."""
    y_mpp, x_mpp = heatmap.settings["slide"]["mpp"]
    cell_um = heatmap.mpp * heatmap.grid.stride
    on_slide = {"global": Scale([cell_um / y_mpp, cell_um / x_mpp], axes=("y", "x"))}
    image = Image2DModel.parse(
        _values(heatmap)[None],
        dims=("c", "y", "x"),
        c_coords=["tumour"],
        transformations=on_slide,
    )
    mask = da.from_array(heatmap.mask, CHUNK_CELLS).astype(np.int16)
    tissue = Labels2DModel.parse(mask, dims=("y", "x"), transformations=on_slide)
    found = SpatialData(
        images={IMAGE: image},
        labels={TISSUE: tissue},
        shapes={REGIONS: _shapes(regions)} if regions else {},
        attrs={"slidescan": _attributes(heatmap)},
    )
    return found


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything but a SpatialData folder, and that without `overwrite`.

    Raises WriteError.
    """
    if not out.exists():
        return
    record = out / "zarr.json"
    if not (record.is_file() and b"spatialdata_attrs" in record.read_bytes()):
        raise WriteError(f"{out}: not a SpatialData folder, so left alone; choose another --out")
    if not overwrite:
        raise WriteError(f"{out}: exists; pass --overwrite or choose another --out")


def write(out: Path, data: SpatialData) -> None:
    """Write the folder, all or nothing. Raises WriteError and MapError."""
    with replacing_folder(out) as new:
        data.write(new)


def _values(heatmap: Heatmap) -> da.Array:
    """The cells (rows, columns), a chunk at a time."""
    rows, columns = heatmap.grid.shape

    def read(block_info: Any) -> NDArray[np.float32]:
        (y0, y1), (x0, x1) = block_info[None]["array-location"]
        return heatmap.read(Box(y0, x0, y1, x1))

    chunks = da.core.normalize_chunks((CHUNK_CELLS, CHUNK_CELLS), (rows, columns))
    made = da.map_blocks(read, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return cast("da.Array", made)


def _shapes(regions: Sequence[Region]) -> geopandas.GeoDataFrame:
    """The regions as a table; the index is their number."""
    measured = {
        "size_class": pd.Categorical([each.size_class for each in regions]),
        "area_um2": [each.area_um2 for each in regions],
        "major_axis_um": [each.major_axis_um for each in regions],
        "p_max": [each.highest for each in regions],
        "p_mean": [each.mean for each in regions],
        "p_95": [each.p95 for each in regions],
    }
    outlines = [each.outline for each in regions]
    numbers = pd.Index([each.number for each in regions], name="region")
    table = geopandas.GeoDataFrame(measured, geometry=outlines, index=numbers)
    return ShapesModel.parse(table, transformations={"global": Identity()})


def _attributes(heatmap: Heatmap) -> dict[str, Any]:
    """What a reader should know."""
    return {
        "slide": heatmap.provenance["slide"],
        "fingerprint": heatmap.settings["slide"]["fingerprint"],
        "model": heatmap.settings["model"]["name"],
        "model_sha256": heatmap.settings["model"]["sha256"],
        "mpp": heatmap.mpp,
        "stride_px": heatmap.grid.stride,
        "complete": heatmap.complete,
        "coordinates": "global: pixels of the slide's level 0",
        "use": "research use only",
    }
