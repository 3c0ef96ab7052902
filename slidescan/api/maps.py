"""Finished maps as arrays with coordinates."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slidescan.errors import ConfigError
from slidescan.maps.finished import open_finished
from slidescan.maps.store import Heatmap
from slidescan.tools.urls import AnyPlace, Place

if TYPE_CHECKING:
    import xarray

    from slidescan.maps.regions import Region

Floats = NDArray[np.float64]


def open_map(path: AnyPlace, *, unfinished: bool = False) -> Map:
    """Open a map for reading.

    Args:
        path: the map, e.g. "map.zarr" or "s3://bucket/map.zarr".
        unfinished: also open a map whose scan has not finished; its missing cells are NaN.

    Raises:
        MapError: there is no readable map, it has lost a part, or its scan has not finished; or a
            store cannot be reached (`RemoteError`).
        ConfigError: an address needs the extra `remote`.
    """
    return Map(open_finished(path, partial=unfinished))


class Map:
    """Tumour probabilities of a slide, one for each cell, and where the cells lie.

    Cell (row, column) covers a square of `stride_px` scan-plane pixels. Its value is P(tumour in
    the 32 x 32 px around its centre). Coordinates are those of cell centres, in um (`y_um`,
    `x_um`) or in pixels of the slide's level 0 (`y_l0`, `x_l0`). Both have their origin at the
    upper-left corner of level 0.
    """

    def __init__(self, heatmap: Heatmap) -> None:
        self.heatmap = heatmap
        """The map on disk, which reads single blocks and coarser levels."""

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<slidescan map {self.path.name}: {rows} x {columns} cells of {self.cell_um:g} um>"

    @property
    def path(self) -> Place:
        return self.heatmap.path

    @property
    def complete(self) -> bool:
        """False where the scan has not finished."""
        return self.heatmap.complete

    @property
    def shape(self) -> tuple[int, int]:
        """Cells: (rows, columns)."""
        return self.heatmap.grid.shape

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """P(tumour) of each cell, (rows, columns); NaN where a cell was not scanned."""
        return self.heatmap.read(self.heatmap.grid.cells)

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """Which cells were selected for scanning, (rows, columns)."""
        return self.heatmap.mask

    @property
    def gaps(self) -> NDArray[np.bool_]:
        """Which selected cells were not scanned because the slide's file lacks pixels there."""
        found = self.heatmap.gaps
        return np.zeros(self.shape, np.bool_) if found is None else found

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the values: slide, model, engine, precision, ..."""
        return self.heatmap.settings

    @property
    def provenance(self) -> dict[str, Any]:
        """What else was recorded: the slide's name, command, time, versions."""
        return self.heatmap.provenance

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the scan plane."""
        return self.heatmap.mpp

    @property
    def stride_px(self) -> int:
        """Scan-plane pixels between neighbouring cells."""
        return self.heatmap.grid.stride

    @property
    def field_px(self) -> int:
        """Side of the square of scan-plane pixels that a cell's value depends on."""
        return self.heatmap.grid.field_px

    @property
    def cell_um(self) -> float:
        """Side of a cell in um."""
        return self.stride_px * self.mpp

    @property
    def cell_l0(self) -> tuple[float, float]:
        """Height and width of a cell in pixels of level 0."""
        y, x = self.settings["slide"]["mpp"]
        return self.cell_um / y, self.cell_um / x

    @property
    def y_um(self) -> Floats:
        """Centres of the rows, um from the upper edge of level 0; (rows,)."""
        return _centres(self.shape[0], self.cell_um)

    @property
    def x_um(self) -> Floats:
        """Centres of the columns, um from the left edge of level 0; (columns,)."""
        return _centres(self.shape[1], self.cell_um)

    @property
    def y_l0(self) -> Floats:
        """Centres of the rows in pixels of level 0; (rows,)."""
        return _centres(self.shape[0], self.cell_l0[0])

    @property
    def x_l0(self) -> Floats:
        """Centres of the columns in pixels of level 0; (columns,)."""
        return _centres(self.shape[1], self.cell_l0[1])

    @overload
    def at(self, x_l0: float, y_l0: float) -> float: ...
    @overload
    def at(self, x_l0: ArrayLike, y_l0: ArrayLike) -> NDArray[np.float32]: ...
    def at(self, x_l0: ArrayLike, y_l0: ArrayLike) -> float | NDArray[np.float32]:
        """P(tumour) of the cells that cover positions in pixels of level 0.

        Takes numbers or arrays of one shape. NaN outside the map and where nothing was scanned.
        """
        height, width = self.cell_l0
        y, x = np.broadcast_arrays(np.asarray(y_l0, float), np.asarray(x_l0, float))
        row, column = np.floor(y / height), np.floor(x / width)
        rows, columns = self.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        found = np.full(y.shape, np.nan, np.float32)
        found[inside] = self.values[row[inside].astype(int), column[inside].astype(int)]
        return found if found.ndim else float(found)

    def regions(
        self,
        threshold: float | str = 0.5,
        low: float | str | None = None,
        min_area_um2: float = 900.0,
        *,
        model: str | os.PathLike[str] | None = None,
    ) -> list[Region]:
        """Regions of connected cells above a threshold, measured and outlined, hottest first.

        A map is about 16 um wider than tumour on every side. `pandas.DataFrame` takes the list.

        Args:
            threshold: P(tumour) from which cells form regions, or an operating point of the
                model's card ("sens90", "sens95", "sens99").
            low: hysteresis: regions extend over cells from this probability up, and one cell must
                reach `threshold`.
            min_area_um2: smaller regions are left out.
            model: the model that made the map, where an operating point is named and the model is
                not a shipped one.

        Raises:
            SlidescanError: a value is out of range, or an operating point cannot be looked up.
        """
        from slidescan.maps.regions import Rule, find_regions  # shapely takes long to import

        at, floor = (self._threshold(each, model) for each in (threshold, low))
        assert at is not None
        return find_regions(self.heatmap, Rule(at, floor, min_area_um2))

    def _threshold(
        self, value: float | str | None, model: str | os.PathLike[str] | None
    ) -> float | None:
        if not isinstance(value, str):
            return value
        from slidescan.evaluation.thresholds import threshold_of_maps

        return threshold_of_maps(value, [self.path], None if model is None else os.fspath(model))

    def to_xarray(self) -> xarray.DataArray:
        """The values as an `xarray.DataArray` with dimensions y and x.

        Coordinates: y and x in um, y_l0 and x_l0 in pixels of level 0, and the tissue mask. Needs
        xarray, which the extra `xarray` installs.

        Raises:
            ConfigError: xarray is not installed.
        """
        try:
            import xarray
        except ModuleNotFoundError as error:
            raise ConfigError(
                "to_xarray needs xarray, which is not installed; pip install xarray"
            ) from error
        um, px = {"units": "micrometer"}, {"units": "level-0 pixel"}
        return xarray.DataArray(
            self.values,
            dims=("y", "x"),
            coords={
                "y": ("y", self.y_um, um),
                "x": ("x", self.x_um, um),
                "y_l0": ("y", self.y_l0, px),
                "x_l0": ("x", self.x_l0, px),
                "tissue": (("y", "x"), self.tissue),
            },
            name="tumour_probability",
            attrs={
                "slide": self.provenance["slide"],
                "model": self.settings["model"]["name"],
                "mpp": self.mpp,
                "stride_px": self.stride_px,
                "field_px": self.field_px,
            },
        )


def _centres(count: int, step: float) -> Floats:
    return np.asarray((np.arange(count) + 0.5) * step, np.float64)
